"""A process that compiles one schema and says how that went.

Some schemas of a few hundred bytes take for ever, whatever limits llguidance is given: many patterns that must all
hold. A thread can't be stopped; a process can.

Reads the schema, `checked`, from standard input; writes why it is refused, or nothing.
"""

from __future__ import annotations

import os
import resource
import sys

from llguidance import LLTokenizer

from paceline.verifier.grammar.schema import BadSchema, compiled

CPU_S = 3  # seconds of a processor, starting included; then the system ends it
MEMORY_BYTES = 4 << 30  # of address space


def main() -> int:
    os.nice(10)  # what is being served goes first
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    schema = sys.stdin.buffer.read().decode()
    try:
        compiled(schema, LLTokenizer("byte"))
    except BadSchema as error:
        sys.stdout.buffer.write(str(error).encode(errors="replace"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
