"""Steps of a model that is shared out among processes: rank 0 decides, and says what it does before it does it.

Rank 0 has the sessions, the block tables, the sampling; the others have their share of the weights and of each cache
row. All that they are told is which rows to compute and which cache rows to move, as plain integers. What they compute
besides is what rank 0 computes, so nothing can drift apart, and no logits or picked tokens need to be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from paceline.verifier.model.batch import SessionPlan
from paceline.verifier.model.blocks import BLOCK_TOKENS, BlockPool, KVSlot
from paceline.verifier.model.ranks import END, Ranks
from paceline.verifier.model.runner import Runner, Scores
from paceline.verifier.sampling import Sampler, Sampling

_UNUSED = Sampler(Sampling())  # only rank 0 picks tokens


class Order(IntEnum):
    """What rank 0 tells the others to do, besides `END`; the numbers that go with it."""

    ALLOCATE = 1  # number of blocks
    SCORE = 2  # `encode_sessions`
    MOVE = 3  # `encode_moves`


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
        self._runner = runner
        self._ranks = ranks
        ranks.lead()

    @property
    def block_bytes(self) -> int:
        """Memory of one block in each process."""
        return self._runner.block_bytes

    def allocate(self, num_blocks: int) -> None:
        with self._ranks.together():
            self._ranks.tell(Order.ALLOCATE, [num_blocks])
            self._runner.allocate(num_blocks)
        self.pool = BlockPool(num_blocks)

    def score(self, sessions: Sequence[SessionPlan], num_best: int) -> Scores:
        with self._ranks.together():
            self._ranks.tell(Order.SCORE, encode_sessions(sessions))
            return self._runner.score(sessions, num_best)

    def _move(self, slot: KVSlot, sources: Sequence[int], targets: Sequence[int]) -> None:
        with self._ranks.together():
            self._ranks.tell(Order.MOVE, encode_moves(slot, sources, targets))
            self._runner._move(slot, sources, targets)


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
        case Order.MOVE:
            runner._move(*decode_moves(numbers))
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

    def take(count: int) -> tuple[int, ...]:
        return tuple(next(rest) for _ in range(count))

    for length in rest:
        completes, num_blocks, num_chain, num_tree = take(4)
        slot = KVSlot(blocks=list(take(num_blocks)), length=length)
        chain, tree, parents = take(num_chain), take(num_tree), take(num_tree)
        sessions.append(SessionPlan(slot, chain, bool(completes), tree, parents, _UNUSED))
    return tuple(sessions)


def encode_moves(slot: KVSlot, sources: Sequence[int], targets: Sequence[int]) -> list[int]:
    """How many rows, their positions before and after, and the session's block table."""
    return [len(sources), *sources, *targets, *slot.blocks]


def decode_moves(numbers: Sequence[int]) -> tuple[KVSlot, list[int], list[int]]:
    """What `encode_moves` was given; of the slot, the block table."""
    count, *rest = numbers
    return KVSlot(blocks=rest[2 * count :]), rest[:count], rest[count : 2 * count]
