"""The process that loads a model for `apart`: it reads one order, hands the weights over, and ends.

The order comes as a line of JSON on standard input, the answer goes as JSON to standard output. It ends at once when
standard input does, because then nobody waits for it any more.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

import torch

from paceline.verifier.model import handover
from paceline.verifier.model.exactness import reference_logits
from paceline.verifier.model.extract import NotLlamaLike, check_config, extract
from paceline.verifier.model.handover import Handover
from paceline.verifier.model.load import find_target, load_target
from paceline.verifier.model.target import Wanted
from paceline.wire.settings import StartupError


def main() -> None:
    # What libraries print is not the answer.
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    order = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True).start()
    told = json.dumps(_carried_out(order)).encode()
    with open(answer, "wb") as out:
        out.write(told)
    os._exit(0)  # taking torch down orderly takes longer than anything it would be good for


def _end_with_parent(standard_input: int) -> None:
    os.read(standard_input, 1)  # there is nothing more to read but its end
    os._exit(1)


def _carried_out(order: dict[str, Any]) -> dict[str, Any]:
    """What `handover.write` returns, or why there is nothing: {"refused": why} or {"unsuited": why}."""
    wanted = Wanted(**order["wanted"])
    torch.set_num_threads(order["num_threads"])
    try:
        found = find_target(wanted)
        check_config(found.config)
        target, model = load_target(wanted, found)
        weights = extract(model)
        with open(order["memory"], "wb") as memory:
            return handover.write(Handover(target, weights, reference_logits(model)), memory)
    except NotLlamaLike as error:
        return {"unsuited": str(error)}
    except StartupError as error:
        return {"refused": str(error)}
    except OSError as error:
        return {"refused": f"--model {wanted.name}: no memory to hand its weights over: {error.strerror}"}


if __name__ == "__main__":
    main()
