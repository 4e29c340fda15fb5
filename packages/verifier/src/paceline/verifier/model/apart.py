"""Loading a model in a process of its own, for an engine that needs only its weights.

transformers' models, loading them and what that leaves on the heap take some 130 MB that nobody needs afterwards; they
end with the process. It writes to the same standard error, so its progress shows.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict
from typing import Any

from paceline.verifier.model import handover
from paceline.verifier.model.handover import Handover
from paceline.verifier.model.target import Unsuited, Wanted
from paceline.wire.settings import StartupError

CHILD = "paceline.verifier.model.apart_child"


async def load_apart(wanted: Wanted, num_threads: int) -> Handover:
    """The model's weights, read by a child process, which has ended when this returns.

    Cancelling this ends the child. It also ends when this process does, in whatever way.

    Args:
        wanted: a model for the CPU.
        num_threads: that compute the reference.

    Raises:
        StartupError: it can't be loaded, or the child died; says in one line why, and what to do.
        Unsuited: it isn't Llama-like.
    """
    memory = os.memfd_create("paceline-weights")
    try:
        answer = await _ask_child({"wanted": _told(wanted), "num_threads": num_threads, "memory": memory}, memory)
        if "refused" in answer:
            raise StartupError(answer["refused"])
        if "unsuited" in answer:
            raise Unsuited(answer["unsuited"])
        return await asyncio.to_thread(handover.read, answer, memory)
    finally:
        os.close(memory)


def _told(wanted: Wanted) -> dict[str, Any]:
    told = asdict(wanted)
    del told["place"]  # of a process that is alone
    return told


async def _ask_child(order: dict[str, Any], memory: int) -> dict[str, Any]:
    """What the child answers. Its standard input stays open as long as somebody waits for that."""
    name = order["wanted"]["name"]
    try:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", CHILD),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(memory,),
            start_new_session=True,  # Ctrl-C is for us, who end it
        )
    except OSError as error:
        raise StartupError(f"--model {name}: no process can be started to load it: {error.strerror}") from error
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(order).encode() + b"\n")
        answer = await child.stdout.read()
        code = await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if code == 0:
        return dict(json.loads(answer))
    raise StartupError(f"--model {name}: {_how_it_ended(code)}")


def _how_it_ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "the process that loads it was killed, as Linux does when memory is short: loading takes twice what the "
            "weights take; free some memory, or choose a smaller model"
        )
    if code < 0:
        return f"the process that loads it was ended by {signal.Signals(-code).name}"
    return f"the process that loads it failed with exit code {code}; what it wrote is above"
