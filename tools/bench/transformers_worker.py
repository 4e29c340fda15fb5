"""A process in which transformers decodes by itself: JSON lines in, JSON lines out. Started by transformers_peer.py.

It imports nothing of Paceline: the verifier's package changes how OpenMP's threads wait, and transformers is to be
measured as people run it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

PACKAGE_PREFIX = "package:"


def locate(name: str) -> tuple[str, dict[str, Any]]:
    """Where to load a model from, and further arguments for it: the names that the verifier's --model takes."""
    path = Path(name).expanduser()
    if name.startswith(PACKAGE_PREFIX):
        files = importlib.metadata.files(name.removeprefix(PACKAGE_PREFIX)) or []
        path = next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    if path.is_file() and path.suffix == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    return str(path) if path.is_dir() else name, {}


class Decoder:
    """The model, with nothing of Paceline's: transformers' own attention, cache and thread settings.

    Args:
        name: as for the verifier.
        dtype: "float32", "bfloat16" or "float16".
        tokenizer: folder with the verifier's tokenizer, to compare prompts with.
        eos_token_ids: the tokens that end an answer, the verifier's.
    """

    def __init__(self, name: str, dtype: str, tokenizer: str, eos_token_ids: list[int]) -> None:
        where, extra = locate(name)
        self._tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **extra)
        self._verifiers = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
        self._model = AutoModelForCausalLM.from_pretrained(
            where, dtype=getattr(torch, dtype), trust_remote_code=False, **extra
        ).eval()
        # The model's own may hold penalties; both sides decode greedily, by the logits alone.
        self._model.generation_config = GenerationConfig(
            do_sample=False,
            eos_token_id=eos_token_ids or None,
            pad_token_id=eos_token_ids[0] if eos_token_ids else 0,
        )

    def answer(self, messages: list[dict[str, str]], max_new_tokens: int, prompt_lookup: int) -> dict[str, Any]:
        """Greedy; prompt_lookup is transformers' prompt_lookup_num_tokens, 0 for plain decoding."""
        started = time.perf_counter()
        prompt = _prompt(self._tokenizer, messages)
        inputs = torch.tensor([prompt])
        options = {"prompt_lookup_num_tokens": prompt_lookup} if prompt_lookup else {}
        output = self._model.generate(
            inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=max_new_tokens, **options
        )
        ids = output[0, len(prompt) :].tolist()
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        seconds = time.perf_counter() - started
        if prompt != _prompt(self._verifiers, messages):
            raise ValueError("the verifier's tokenizer or chat template makes other tokens of this prompt")
        return {"ids": ids, "text": text, "seconds": seconds, "prompt_tokens": len(prompt)}


def _prompt(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    return list(ids)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--eos", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    # Libraries print to standard output at times; what they say goes to the log, and answers to the pipe.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    decoder = Decoder(arguments.model, arguments.dtype, arguments.tokenizer, arguments.eos)
    send({"threads": torch.get_num_threads()})
    for line in sys.stdin:
        try:
            send(decoder.answer(**json.loads(line)))
        except Exception as error:  # whatever it is, the other end says it and for which question
            send({"error": " ".join(str(error).split())[:300] or type(error).__name__})


if __name__ == "__main__":
    main()
