"""Graphs of drafters, run by ONNX Runtime, against the modules that they were written from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import small_drafters as small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from paceline.trainer.models.comparison import open_session
from paceline.trainer.models.graph_nodes import CONSTANT, Nodes
from paceline.trainer.models.graph_products import LEVELS, SCALE, STEPS, Products, quantize
from paceline.wire.revision_folder import FUSE, GRAPH

KINDS = ("decoder", "untied", "cut", "head")
PARENTS = st.integers(1, 10).flatmap(lambda size: st.tuples(*(st.integers(-1, node - 1) for node in range(size))))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def modules() -> dict[str, torch.nn.Module]:
    return {
        "decoder": small.decoder(),
        "untied": small.decoder(tied=False),
        "cut": small.decoder(unknown=True),
        "head": small.feature_head(),
    }


@pytest.fixture(scope="module")
def runners(modules: dict[str, torch.nn.Module]) -> dict[tuple[str, str], small.Runner]:
    return {(kind, how): small.Runner(modules[kind], how) for kind in KINDS for how in ("none", "int8")}


def _close(some: small.Given, other: small.Given, within: float) -> None:
    for a, b in zip(_all(some), _all(other), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=within * max(1.0, float(np.abs(b).max())))


def _all(given_: small.Given) -> list[np.ndarray]:
    return [given_.logits, *given_.new, *([] if given_.hidden is None else [given_.hidden])]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(parents=PARENTS, past=st.integers(0, 40), seed=st.integers(0, 1000))
def test_a_float_graph_is_the_module_on_trees(
    modules: dict[str, torch.nn.Module],
    runners: dict[tuple[str, str], small.Runner],
    kind: str,
    parents: tuple[int, ...],
    past: int,
    seed: int,
) -> None:
    runner = runners[kind, "none"]
    session = small.tree(runner, runner.after(past, seed), parents, seed)
    _close(runner.run([session])[0], small.of_module(modules[kind], session), 2e-5)


@pytest.mark.parametrize("how", ["none", "int8"])
@pytest.mark.parametrize("kind", ["decoder", "head"])
@settings(max_examples=12, deadline=None)
@given(parents=PARENTS, past=st.integers(0, 40), seed=st.integers(0, 1000))
def test_branches_score_as_paths_alone(
    runners: dict[tuple[str, str], small.Runner], kind: str, how: str, parents: tuple[int, ...], past: int, seed: int
) -> None:
    """In int8 a number between two may fall to either side after sums in another order: then it is a step off."""
    runner = runners[kind, how]
    session = small.tree(runner, runner.after(past, seed), parents, seed)
    together = runner.run([session])[0].logits
    for node in range(len(parents)):
        alone = runner.run([small.path(session, node)])[0].logits[-1]
        within = (2e-5 if how == "none" else 0.02) * float(np.abs(alone).max())
        np.testing.assert_allclose(together[node], alone, rtol=0, atol=within)


@pytest.mark.parametrize("how", ["none", "int8"])
@pytest.mark.parametrize("kind", ["decoder", "head"])
@settings(max_examples=12, deadline=None)
@given(sizes=st.lists(st.tuples(PARENTS, st.integers(0, 50)), min_size=2, max_size=4), seed=st.integers(0, 1000))
def test_a_batch_is_its_sessions_alone(
    runners: dict[tuple[str, str], small.Runner],
    kind: str,
    how: str,
    sizes: list[tuple[tuple[int, ...], int]],
    seed: int,
) -> None:
    """Not bit for bit: padding moves the new rows' scores, and softmax sums them in lanes by place."""
    runner = runners[kind, how]
    sessions = [
        small.tree(runner, runner.after(past, seed + index), parents, seed + index)
        for index, (parents, past) in enumerate(sizes)
    ]
    for session, found in zip(sessions, runner.run(sessions), strict=True):
        _close(found, runner.run([session])[0], 2e-5 if how == "none" else 0.02)


@pytest.mark.parametrize("kind", ["decoder", "head"])
@settings(max_examples=12, deadline=None)
@given(parents=PARENTS, past=st.integers(0, 50), count=st.integers(2, 3), seed=st.integers(0, 1000))
def test_sessions_without_padding_are_as_if_alone_bit_for_bit_in_int8(
    runners: dict[tuple[str, str], small.Runner], kind: str, parents: tuple[int, ...], past: int, count: int, seed: int
) -> None:
    runner = runners[kind, "int8"]
    sessions = [small.tree(runner, runner.after(past, seed + n), parents, seed + n) for n in range(count)]
    for session, found in zip(sessions, runner.run(sessions), strict=True):
        for together, alone in zip(_all(found), _all(runner.run([session])[0]), strict=True):
            assert together.tobytes() == alone.tobytes()


def test_no_row_in_int8_depends_on_how_large_others_are(runners: dict[tuple[str, str], small.Runner]) -> None:
    runner = runners["head", "int8"]
    session = small.tree(runner, runner.after(5, 1), (-1, -1, -1), 2)
    assert session.hidden is not None
    before = runner.run([session])[0].logits
    session.hidden[2] *= 1000
    after = runner.run([session])[0].logits
    np.testing.assert_array_equal(before[:2], after[:2])


@pytest.mark.parametrize("kind", KINDS)
def test_int8_is_near_the_module(
    modules: dict[str, torch.nn.Module], runners: dict[tuple[str, str], small.Runner], kind: str
) -> None:
    """Random weights make many near ties: SmolLM2's own layers and texts agree at more places, see the log."""
    runner = runners[kind, "int8"]
    texts = [small.text(runner, 60, seed) for seed in range(6)]
    found = np.concatenate([given_.logits for given_ in runner.run(texts)])
    wanted = np.concatenate([small.of_module(modules[kind], text).logits for text in texts])
    assert np.abs(found - wanted).mean() < 0.03 * wanted.std()
    assert (found.argmax(1) == wanted.argmax(1)).mean() >= 0.94


@pytest.mark.parametrize(("how", "within"), [("none", 1e-5), ("int8", 0.05)])
def test_fused_features_are_the_modules(
    modules: dict[str, torch.nn.Module], runners: dict[tuple[str, str], small.Runner], how: str, within: float
) -> None:
    features = np.random.default_rng(0).normal(size=(7, 3 * 48)).astype(np.float32)
    features[:, 96:] *= 200  # later layers are larger
    head = modules["head"]
    with torch.no_grad():
        wanted = head.fuse(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(runners["head", how].fuse(features), wanted, rtol=0, atol=within)


def test_the_unknown_token_has_an_embedding_and_no_logit(runners: dict[tuple[str, str], small.Runner]) -> None:
    for runner in (runners["cut", "none"], runners["head", "int8"]):
        session = small.text(runner, 3, 0)
        session.ids[1] = runner.card.vocab_size
        assert runner.run([session])[0].logits.shape == (3, runner.card.vocab_size)


@pytest.mark.parametrize("kind", KINDS)
def test_no_logits_may_be_wanted(runners: dict[tuple[str, str], small.Runner], kind: str) -> None:
    """So a drafter reads a prompt."""
    for how in ("none", "int8"):
        runner = runners[kind, how]
        session = small.text(runner, 3, 0)
        given_ = runner.run([session], wanted=[])[0]
        assert given_.logits.shape == (0, runner.card.vocab_size)
        np.testing.assert_array_equal(given_.new[0], runner.run([session])[0].new[0])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_lie_in_the_graph_once_under_the_modules_names(
    modules: dict[str, torch.nn.Module], runners: dict[tuple[str, str], small.Runner], kind: str
) -> None:
    for how in ("none", "int8"):
        graphs = runners[kind, how].graphs
        held = [
            tensor.name
            for name in (GRAPH, FUSE)
            if name in graphs
            for tensor in onnx.load_model_from_string(graphs[name]).graph.initializer
            if not tensor.name.startswith(CONSTANT) and not tensor.name.endswith(SCALE)
        ]
        assert sorted(held) == sorted(name for name, _ in modules[kind].named_parameters())


def test_graphs_are_valid_and_the_same_each_time(
    modules: dict[str, torch.nn.Module], runners: dict[tuple[str, str], small.Runner]
) -> None:
    again = small.Runner(modules["head"], "int8").graphs
    assert again == runners["head", "int8"].graphs


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 5), spread=st.floats(1e-6, 1e6))
def test_a_quantized_weight_is_half_a_step_off_at_most(seed: int, rows: int, spread: float) -> None:
    weight = (np.random.default_rng(seed).normal(size=(rows, 7)) * spread).astype(np.float32)
    weight[0] = 0
    small_ = quantize(weight)
    assert np.isfinite(small_.scale).all()
    back = small_.numbers.astype(np.float32) * small_.scale[:, None]
    assert (np.abs(back - weight) <= 0.5001 * small_.scale[:, None]).all()


@pytest.mark.parametrize("fine", [False, True])
def test_an_int8_product_is_that_of_rounded_rows_and_weights(fine: bool) -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(20, 64)).astype(np.float32)
    rows = (random.normal(size=(9, 64)) * 10.0 ** random.integers(-9, 9, size=(9, 1))).astype(np.float32)
    rows[4] = 0
    nodes = Nodes()
    products = Products(nodes, int8=True)
    nodes.input("rows", TensorProto.FLOAT, ("N", 64))
    product = products.of(products.rows("rows", fine=fine), [("weight", weight)])
    nodes.output("product", product, TensorProto.FLOAT, ("N", 20))
    found = open_session(nodes.content({})).run(None, {"rows": rows})[0]
    step = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-20) / (LEVELS * (STEPS if fine else 1))
    small_ = quantize(weight)
    wanted = (np.rint(rows / step) * step) @ (small_.numbers * small_.scale[:, None]).T
    few = 2e-5 if fine else 2e-6  # fine parts may be a step off, where a number is between two
    assert (np.abs(found - wanted) <= few * np.abs(rows).max(axis=1, keepdims=True) * 64 + 1e-18).all()
