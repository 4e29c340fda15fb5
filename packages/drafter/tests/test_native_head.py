"""The native head against the same function in numpy; its two ways to multiply, threads, batches, caches."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from byte_heads import FLAT, LENGTH, SMALL, WIDE, Case, Sizes, case, head_of, library, native
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from paceline.drafter.models.base import TopK
from paceline.drafter.models.native_head import NativeFeatureHead, native_head
from paceline.drafter.reading import Reader
from paceline.drafter.strategies.base import Sampling
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.native.library import NoNativeCode

try:
    library()
except NoNativeCode as error:
    pytest.skip(f"no native head here: {error}", allow_module_level=True)

PARENTS = st.integers(0, 20).flatmap(lambda size: st.tuples(*(st.integers(-1, node - 1) for node in range(size))))
CASES = st.builds(
    case, st.sampled_from((SMALL, FLAT, WIDE)), st.integers(1, 40), PARENTS, st.integers(0, 3), st.integers(0, 999)
)
# Sums of bytes are exact; but what lies between two levels may be rounded otherwise, and float64 is not float32.
WITHIN = 0.03


def pieces(what: Case, cuts: set[int]) -> list[tuple[int, int]]:
    """Stretches of its rows, each of the text or of the tree; each row of the tree is behind its parent's stretch."""
    ends = {0, what.num_text, len(what.tokens), *(cut for cut in cuts if cut < what.num_text)}
    for row, above in enumerate(what.above, what.num_text):
        if not any(above < end <= row for end in ends):
            ends.add(row)
    return list(pairwise(sorted(ends)))


def logits_of(model: NativeFeatureHead, what: Case, cuts: set[int] = frozenset()) -> np.ndarray:  # type: ignore[assignment]
    cache = model.new_cache()
    found = [model.score([what.rows(cache, *piece, range(piece[1] - piece[0]))])[0] for piece in pieces(what, cuts)]
    assert len(cache) == len(what.tokens)
    return np.concatenate(found)


@settings(max_examples=60, deadline=None)
@given(CASES, st.sets(st.integers(1, 40), max_size=3), st.booleans())
def test_it_is_the_function(what: Case, cuts: set[int], tiles: bool):
    found, expected = logits_of(native(what.sizes, 1, tiles), what, cuts), what.expected()
    if not len(what.borrowed):
        expected = expected[:, : what.sizes.vocabulary]
    some = np.isfinite(expected)
    assert (np.isfinite(found) == some).all()
    np.testing.assert_allclose(found[some], expected[some], rtol=0, atol=WITHIN * np.abs(expected[some]).max())


@settings(max_examples=40, deadline=None)
@given(CASES, st.sets(st.integers(1, 40), max_size=3))
def test_neither_threads_nor_the_matrix_unit_nor_pieces_matter(what: Case, cuts: set[int]):
    alone = logits_of(native(what.sizes, 1, True), what)
    assert np.array_equal(logits_of(native(what.sizes, 3, True), what), alone)
    assert np.array_equal(logits_of(native(what.sizes, 1, True), what, cuts), alone)
    assert np.array_equal(logits_of(native(what.sizes, 2, False), what), alone)


@settings(max_examples=30, deadline=None)
@given(st.lists(CASES, min_size=2, max_size=4))
def test_sessions_of_a_batch_do_not_see_each_other(several: list[Case]):
    several = [what for what in several if what.sizes == several[0].sizes]
    model = native(several[0].sizes)
    batch = [what.rows(model.new_cache(), 0, what.num_text, range(what.num_text)) for what in several]
    for together, what in zip(model.score(batch), several, strict=True):
        assert np.array_equal(together, logits_of(model, what)[: what.num_text])


@settings(max_examples=30, deadline=None)
@given(CASES, st.integers(1, FLAT.vocabulary), st.sampled_from((0.0, 0.5, 1.3)))
def test_what_it_says_of_logits_is_what_they_say(what: Case, width: int, temperature: float):
    reader = Reader(Sampling(temperature=temperature, seed=5), 10_000, width, noise_ids=np.arange(10_000))
    model, rows = native(what.sizes), range(what.num_text)
    whole = model.score([what.rows(model.new_cache(), 0, what.num_text, rows)])[0]
    asked = dataclasses.replace(what.rows(model.new_cache(), 0, what.num_text, rows), top_k=width, scale=reader.scale)
    top = model.score([asked])[0]
    assert isinstance(top, TopK)
    assert len(top) == what.num_text
    order = np.argsort(-np.asarray(whole), axis=1, kind="stable")[:, :width]
    assert np.array_equal(top.tokens, order)
    assert np.array_equal(top.logits, np.take_along_axis(np.asarray(whole), order, axis=1))
    if reader.top_k == width:  # else the reader would look at others
        for ours, theirs in zip(reader.read(top, rows), reader.read(whole, rows), strict=True):
            np.testing.assert_allclose(ours.log_q, theirs.log_q, atol=1e-4)
            assert ours.entropy == pytest.approx(theirs.entropy, abs=1e-4)


def test_more_than_there_are_can_not_be_the_best():
    what, model = case(SMALL, 3, (), 0, 1), native(SMALL)
    found = model.score([what.rows(model.new_cache(), 0, 3, (2,), top_k=SMALL.vocabulary + 1)])[0]
    assert isinstance(found, np.ndarray)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), PARENTS.filter(bool), st.integers(0, 99))
def test_what_is_kept_goes_on(num_text: int, parents: tuple[int, ...], seed: int):
    """Of a tree one path stays; what follows is as if nothing else had ever been there."""
    what, model = case(WIDE, num_text, parents, 2, seed), native(WIDE)
    path, row = [], len(what.tokens) - 1
    while row >= num_text:
        path.insert(0, row)
        row = what.above[row - num_text]
    kept = [*range(num_text), *path]
    cache = model.new_cache()
    for piece in pieces(what, set()):
        model.score([what.rows(cache, *piece, ())])
    cache.keep(kept)
    lone = dataclasses.replace(what, tokens=[what.tokens[row] for row in kept], parents=tuple(range(-1, len(path) - 1)))
    more = dataclasses.replace(lone, tokens=[*lone.tokens, 3], parents=(*lone.parents, len(path) - 1))
    found = model.score([more.rows(cache, len(kept), len(kept) + 1, (0,))])[0]
    # Where a row lies decides in which order weights are summed.
    expected = logits_of(model, more)[-1]
    some = np.isfinite(expected)
    np.testing.assert_allclose(found[0][some], expected[some], rtol=0, atol=WITHIN * np.abs(expected[some]).max())


def test_a_cache_may_be_emptied_and_filled_again():
    model, cache = native(WIDE), native(WIDE).new_cache()
    for seed in range(3):
        what = case(WIDE, 90 - 30 * seed, (), 0, seed)
        cache.keep(range(0))
        found = model.score([what.rows(cache, 0, what.num_text, (what.num_text - 1,))])[0]
        assert np.array_equal(found[0], logits_of(model, what)[-1])


def test_the_way_that_is_taken_is_known():
    assert native(WIDE, 1, False).product == "vnni"
    assert native(WIDE).product in ("amx", "vnni")


def test_bad_rows_are_refused():
    what, model = case(SMALL, 4, (-1,), 1, 1), native(SMALL)
    cache = model.new_cache()
    model.score([what.rows(cache, 0, 4, ())])
    good = what.rows(cache, 4, 5, (0,))
    for changes, reason in (
        ({"above": None}, Reason.MALFORMED),
        ({"features": what.features[:1]}, Reason.MALFORMED),
        ({"above": np.array([4])}, Reason.OUT_OF_RANGE),
        ({"above": np.array([-1])}, Reason.OUT_OF_RANGE),
        ({"tokens": np.array([SMALL.vocabulary + 2])}, Reason.OUT_OF_RANGE),
        ({"tokens": np.array([-1])}, Reason.OUT_OF_RANGE),
        ({"positions": np.array([LENGTH])}, Reason.OUT_OF_RANGE),
        ({"wanted": (1,)}, Reason.OUT_OF_RANGE),
    ):
        with pytest.raises(PacelineError) as caught:
            model.score([dataclasses.replace(good, **changes)])
        assert caught.value.reason == reason
    assert len(cache) == 4


def without(content: bytes, name: str) -> bytes:
    model = ModelProto.FromString(content)
    kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    spoilt: bytes = model.SerializeToString()
    return spoilt


@pytest.mark.parametrize("name", ["norm.weight", "mix_proj.weight", "mix_proj.weight.scale", "constant/sines"])
def test_a_graph_that_lacks_a_weight_is_refused(name: str):
    head = head_of(SMALL)
    with pytest.raises(PacelineError, match=name):
        native_head(library(), without(head.graph(), name), head.fuse(), head.card, 1)
    with pytest.raises(PacelineError, match="feature_mean"):
        native_head(library(), head.graph(), without(head.fuse(), "feature_mean"), head.card, 1)


@pytest.mark.parametrize(
    "shape",
    [
        "", "[]", "{}", '{"block": 3}', '{"block": {"num_heads": -1, "intermediate": 48, "norm_epsilon": 0}}',
        '{"block": {"num_heads": 2, "intermediate": 47, "norm_epsilon": 0}}', "[" * 10_000,
        '{"block": {"num_heads": true, "intermediate": 48, "norm_epsilon": 0}}',
        '{"block": {"num_heads": 3, "intermediate": 48, "norm_epsilon": NaN}}',
        '{"block": {"num_heads": 100000, "intermediate": 131008, "norm_epsilon": 0}}',
    ],
)  # fmt: skip
def test_a_graph_of_no_shape_is_refused(shape: str):
    head = head_of(SMALL)
    model = ModelProto.FromString(head.graph())
    model.metadata_props[0].value = shape
    with pytest.raises(PacelineError) as caught:
        native_head(library(), model.SerializeToString(), head.fuse(), head.card, 1)
    assert caught.value.reason == Reason.UNUSABLE_REVISION


def test_no_graph_is_refused():
    head = head_of(SMALL)
    for content in (b"", b"\xff" * 50, head.graph()[:-7]):
        with pytest.raises(PacelineError) as caught:
            native_head(library(), content, head.fuse(), head.card, 1)
        assert caught.value.reason == Reason.UNUSABLE_REVISION


def test_sizes_that_vectors_do_not_divide_are_refused():
    odd = Sizes(width=24, heads=2, key_heads=1, head_size=16, intermediate=48, vocabulary=50, layers=1)
    head = head_of(odd)
    with pytest.raises(PacelineError, match="multiples of 16"):
        native_head(library(), head.graph(), head.fuse(), head.card, 1)
