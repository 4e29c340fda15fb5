"""transformers in a process of its own, as a system to ask."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rounds import Asker, BenchError, Messages, Reply

WORKER = Path(__file__).with_name("transformers_worker.py")
PROMPT_LOOKUP_TOKENS = 10  # what transformers' documentation uses
MAX_LINE = 1 << 24
STOP_S = 10.0


class TransformersPeer:
    """One worker process; idle while nobody asks. Use as an asynchronous context manager.

    Args:
        model: as for the verifier.
        dtype: of its weights.
        tokenizer: folder with the verifier's tokenizer.
        eos_token_ids: tokens that end an answer.
        log: file for what it prints.
    """

    def __init__(self, model: str, dtype: str, tokenizer: Path, eos_token_ids: Sequence[int], log: Path) -> None:
        eos = [str(token) for token in eos_token_ids]
        self._command = ["--model", model, "--dtype", dtype, "--tokenizer", str(tokenizer), "--eos", *eos]
        self._log = log
        self.threads = 0

    async def __aenter__(self) -> TransformersPeer:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        with self._log.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                str(WORKER),
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                env=environment,
                limit=MAX_LINE,
            )
        try:
            self.threads = int((await self._read())["threads"])
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """The end of its input ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except (TimeoutError, asyncio.CancelledError):
            self._process.kill()
            await self._process.wait()

    def asker(self, *, prompt_lookup: bool) -> Asker:
        """Plain decoding or prompt lookup, to be asked one at a time."""

        async def ask(messages: Messages, max_new_tokens: int, _memory: str) -> Reply:
            request = {
                "messages": [{"role": role, "content": content} for role, content in messages],
                "max_new_tokens": max_new_tokens,
                "prompt_lookup": PROMPT_LOOKUP_TOKENS if prompt_lookup else 0,
            }
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            await self._process.stdin.drain()
            answer = await self._read()
            return Reply(tuple(answer["ids"]), answer["text"], answer["seconds"], answer["prompt_tokens"])

        return ask

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            code = await self._process.wait()
            words = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
            last = words[-1] if words else "it said nothing"
            raise BenchError(f"transformers ended with exit code {code}: {last}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(f"transformers: {answer['error']}")
        return answer
