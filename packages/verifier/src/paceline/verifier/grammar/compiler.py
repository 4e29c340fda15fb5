"""Constraints of requests, compiled beside what is being served."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import structlog

from paceline.verifier.grammar.constraint import Constraint
from paceline.verifier.grammar.guide import FIELD, Guide, one_line
from paceline.verifier.grammar.schema import BadSchema, checked, compiled
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.target_tokenizer import tokenizer_json

if TYPE_CHECKING:
    from llguidance import LLTokenizer

log = structlog.get_logger()

TRIAL = "paceline.verifier.grammar.trial"
TRIAL_S = 30.0  # by the clock; by its own processor time it ends much sooner
MAX_WAITING = 32
MAX_TRIALS = 4  # at once: schemas made to take long shall not keep others waiting
MAX_TRIED = 4096


class Compiler:
    """Makes the constraints of one target's requests; those that have none don't wait for it.

    A schema is first tried in a process of its own, for a tenth of a second. Those that passed are remembered.

    Args:
        files: of the target's tokenizer, by path.
        vocab_size: length of a row of logits.
        eos_token_ids: of the target.
    """

    def __init__(self, files: Mapping[str, bytes], vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        self._files = files
        self._vocab_size = vocab_size
        self._eos = eos_token_ids
        self._trials = asyncio.Semaphore(MAX_TRIALS)
        self._turn = asyncio.Lock()
        self._num_waiting = 0
        self._tried: OrderedDict[bytes, None] = OrderedDict()  # digests of schemas that compile

    async def constraint(self, schema: str, committed: Sequence[int] = ()) -> Constraint:
        """A session's constraint after what is committed of its answer.

        Raises:
            PacelineError: MALFORMED for a schema that can't be compiled, or committed tokens that it forbids;
                OVERLOADED if too many wait; VOCABULARY_MISMATCH if the target's tokenizer can't be constrained.
        """
        if self._num_waiting >= MAX_WAITING:
            raise PacelineError(
                Reason.OVERLOADED,
                f"{self._num_waiting} requests wait for their {FIELD} to be compiled, the limit; try again later",
                field=FIELD,
                value=self._num_waiting,
                limit=MAX_WAITING,
                retry_after_s=1.0,
            )
        self._num_waiting += 1
        try:
            checked_schema = await self._tried_out(schema)
            async with self._turn:  # one thread of those that others need, too
                return await asyncio.to_thread(self._compiled, checked_schema, committed)
        finally:
            self._num_waiting -= 1

    async def _tried_out(self, schema: str) -> str:
        """The schema, checked and known to compile."""
        try:
            schema = checked(schema)
        except BadSchema as error:
            raise _refused(str(error)) from error
        digest = hashlib.sha256(schema.encode()).digest()
        if digest not in self._tried:
            async with self._trials:
                await _try(schema)
            self._tried[digest] = None
            if len(self._tried) > MAX_TRIED:
                self._tried.popitem(last=False)
        else:
            self._tried.move_to_end(digest)
        return schema

    def _compiled(self, schema: str, committed: Sequence[int]) -> Constraint:
        try:
            matcher = compiled(schema, self._tokenizer)
        except BadSchema as error:
            raise _refused(str(error)) from error
        guide = Guide(matcher, self._vocab_size, self._eos)
        try:
            guide.take(committed)
        except PacelineError as error:
            raise PacelineError(error.reason, f"committed: {error.message}", field="committed") from error
        return Constraint(guide)

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        """Some tens of megabytes, so only when somebody asks."""
        from llguidance import LLTokenizer

        content = tokenizer_json(self._files)
        try:
            return LLTokenizer(content, n_vocab=self._vocab_size, eos_token=sorted(self._eos))
        except Exception as error:  # whatever it is that llguidance does not understand
            raise PacelineError(
                Reason.VOCABULARY_MISMATCH,
                f"answers of this model can't be constrained, since its tokenizer is not understood: "
                f"{one_line(str(error))}",
                field="constraint",
            ) from error


async def _try(schema: str) -> None:
    """Compiles a schema where it can do no harm. Raises MALFORMED, or OVERLOADED if there is no room for a process."""
    try:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", TRIAL),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # a crash would tell of the schema there
            start_new_session=True,
        )
    except OSError as error:
        why = f"no process can be started to compile {FIELD}: {error.strerror}; try again later"
        raise PacelineError(Reason.OVERLOADED, why, field=FIELD, retry_after_s=1.0) from error
    try:
        async with asyncio.timeout(TRIAL_S):
            said, _ = await child.communicate(schema.encode())
    except TimeoutError:
        said = b""
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if said:
        raise _refused(said.decode(errors="replace"))
    if child.returncode:
        log.warning("the trial of a schema died", code=child.returncode)
        ended = child.returncode < 0  # by the system, or by us
        raise _refused("it takes too long, or too much memory" if ended else "llguidance fails on it")


def _refused(why: str) -> PacelineError:
    return PacelineError(
        Reason.MALFORMED, f"{FIELD} can't be compiled: {one_line(why)}; change or simplify it", field=FIELD
    )
