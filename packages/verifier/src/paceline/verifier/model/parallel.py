"""Steps of a model that is shared out among processes: rank 0 decides, and says what it does before it does it.

Rank 0 has the sessions, the block tables, the sampling; the others have their share of the weights and of each cache
row. All that they are told is which rows to compute and which cache rows to move, as plain integers. What they compute
besides is what rank 0 computes, so nothing can drift apart, and no logits or picked tokens need to be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum

from paceline.verifier.model.batch import SessionPlan
from paceline.verifier.model.blocks import BLOCK_TOKENS, BlockPool, KVSlot
from paceline.verifier.model.ranks import END, Ranks
from paceline.verifier.model.runner import Kept, Runner, Scores
from paceline.verifier.sampling import Sampler, Sampling

_UNUSED = Sampler(Sampling())  # only rank 0 picks tokens


class Order(IntEnum):
    """What rank 0 tells the others to do, besides `END`; the numbers that go with it."""

    ALLOCATE = 1  # number of blocks
    SCORE = 2  # `encode_sessions`
    KEEP = 3  # `encode_kept`


class Leader(Runner):
    """The runner of rank 0's share; every other process runs the same on its own (`obey`). See `Runner`.

    A step that fails ends all processes (`Ranks.together`), where a lone one would only fail its requests.

    Args:
        runner: of this process's share of the model.
        ranks: the processes.
        rule: name of the acceptance rule.
    """

    def __init__(self, runner: Runner, ranks: Ranks, rule: str = "coupled") -> None:
        super().__init__(runner.vocab_size, rule)
        self.max_session_rows = runner.max_session_rows
        self.feature_source = runner.feature_source  # between layers every process has all of the state
        self._runner = runner
        self._ranks = ranks
        ranks.lead()

    @property
    def block_bytes(self) -> int:
        """Memory of one block in each process."""
        return self._runner.block_bytes

    def allocate(self, num_blocks: int, max_tokens: int | None = None) -> None:
        with self._ranks.together():
            self._ranks.tell(Order.ALLOCATE, [num_blocks])
            self._runner.allocate(num_blocks, max_tokens)
        self.pool = BlockPool(num_blocks)

    def score(
        self,
        sessions: Sequence[SessionPlan],
        num_best: int,
        best_only: bool = False,
        feature_layers: tuple[int, ...] = (),
    ) -> Scores:
        with self._ranks.together():
            self._ranks.tell(Order.SCORE, encode_sessions(sessions))
            return self._runner.score(sessions, num_best, best_only, feature_layers)

    def _keep(self, kept: Sequence[Kept]) -> None:
        moved = [part for part in kept if part.accepted != tuple(range(len(part.accepted)))]
        with self._ranks.together():
            if moved:  # else all that is kept lies where it should
                self._ranks.tell(Order.KEEP, encode_kept(moved))
            self._runner._keep(kept)


def obey(runner: Runner, ranks: Ranks) -> None:
    """Does what rank 0 says with this process's share of the model, until it says that it ends."""
    running = True
    while running:
        with ranks.together():
            running = _do(runner, *ranks.hear())


def _do(runner: Runner, order: int, numbers: list[int]) -> bool:
    """Whether another order comes."""
    if order == END:
        return False
    match Order(order):
        case Order.ALLOCATE:
            runner.allocate(numbers[0])
        case Order.SCORE:
            runner.score(decode_sessions(numbers), 1)
        case Order.KEEP:
            runner._keep(decode_kept(numbers))
    return True


def encode_sessions(sessions: Sequence[SessionPlan]) -> list[int]:
    """A step's rows as integers: for each session its lengths, then block table, chain, tree and parents."""
    numbers: list[int] = []
    for session in sessions:
        slot = session.slot
        blocks = slot.blocks[: (slot.length + session.num_rows - 1) // BLOCK_TOKENS + 1]
        numbers += (slot.length, int(session.completes), len(blocks), len(session.chain), len(session.tree_tokens))
        numbers += (*blocks, *session.chain, *session.tree_tokens, *session.tree_parents)
    return numbers


def decode_sessions(numbers: Sequence[int]) -> tuple[SessionPlan, ...]:
    """What `encode_sessions` was given, as far as a forward pass needs it."""
    sessions: list[SessionPlan] = []
    rest = iter(numbers)
    for length in rest:
        completes, num_blocks, num_chain, num_tree = _take(rest, 4)
        slot = KVSlot(blocks=list(_take(rest, num_blocks)), length=length)
        chain, tree, parents = (_take(rest, count) for count in (num_chain, num_tree, num_tree))
        sessions.append(SessionPlan(slot, chain, bool(completes), tree, parents, _UNUSED))
    return tuple(sessions)


def encode_kept(kept: Sequence[Kept]) -> list[int]:
    """For each session its lengths, then accepted nodes and block table."""
    numbers: list[int] = []
    for part in kept:
        blocks = part.slot.blocks
        numbers += (part.slot.length, part.num_chain, len(part.accepted), len(blocks), *part.accepted, *blocks)
    return numbers


def decode_kept(numbers: Sequence[int]) -> list[Kept]:
    """What `encode_kept` was given; of the slots, block tables and lengths."""
    kept: list[Kept] = []
    rest = iter(numbers)
    for length in rest:
        num_chain, num_accepted, num_blocks = _take(rest, 3)
        accepted = _take(rest, num_accepted)
        kept.append(Kept(KVSlot(blocks=list(_take(rest, num_blocks)), length=length), num_chain, accepted))
    return kept


def _take(rest: Iterator[int], count: int) -> tuple[int, ...]:
    return tuple(next(rest) for _ in range(count))
