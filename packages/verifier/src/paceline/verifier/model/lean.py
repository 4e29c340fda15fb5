"""A Llama-like decoder in few, fixed operations, for a device where launching and waiting cost more than computing.

Every step of a shape runs the same operations on the same memory, so it can be captured as a CUDA graph; nothing is
read back in between. On the CPU the same operations run one by one (so they are tested; `runner` is faster).

Exactness
---------
A row's logits must not depend on what else is in the step. Here that rests on shapes:

- All products and norms have the shape's number of rows, used or not, so the library always takes the same kernel, and
  a kernel computes each row alike. Which row of the step it is must not matter either; matrix kernels compute all rows
  of a tile alike, but nobody promises it, so it has to be measured (`exactness`) on the device at hand.
- The context is cut by the row's own absolute position (`lean_step.tail_start`). What is before the cut is committed,
  read once for all rows of a session, in segments of fixed size: one product each, always of the same shape, added one
  after the other. Segments that a longer context of another session adds weigh exactly 0. What is behind the cut, the
  row reads for itself, in logical order: committed tokens and ancestors lie next to one another as if all were
  committed, so that candidates between them, which tensor cores would sum in another order, aren't there.
- Both parts have a maximum of their own and are joined in float32 at the end.

Hence: same shape, same bits, however tokens are grouped into steps. Another shape may give other bits: keep to one for
decoding and verifying alike, and read prompts with another only if they are always cut in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.nn import functional

from paceline.verifier.model.blocks import BLOCK_TOKENS
from paceline.verifier.model.decoder import DecoderWeights, LayerWeights
from paceline.verifier.model.lean_step import StepShape, StepTensors
from paceline.verifier.model.paged import ONES, PagedCache

SEGMENT_TOKENS = 512
HIDDEN = -1e30  # score of what a row doesn't see: finite, so that a row that sees nothing yields no nan
NUM_WARM_UPS = 2  # libraries set themselves up in the first calls, which can't be captured

_GraphKey = tuple[StepShape, int, tuple[int, ...]]  # the second: segments; the last: layers whose states are captured


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a step reads, worked out once for all layers. All int64, flat.

    Attributes:
        tail: [rows · kv_heads · tail] lines of each row's own part of the context in the cache.
        blocks: [segments · sessions · kv_heads · blocks of a segment] blocks of one head.
        queries: [sessions · heads · session_rows] lines of the queries [rows · heads] that stand in the grid.
        outputs: [rows · heads] lines of the grid that belong to the rows.
    """

    tail: torch.Tensor
    blocks: torch.Tensor
    queries: torch.Tensor
    outputs: torch.Tensor


@dataclass(frozen=True, slots=True)
class Computed:
    """What a forward pass leaves on the device; both are valid until the next one.

    Attributes:
        logits: [wanted, vocab] in the model's dtype.
        features: [rows, layers, hidden] bfloat16, if layers were asked for.
    """

    logits: torch.Tensor
    features: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class _Step:
    """What all layers of a step share.

    Attributes:
        places: see there.
        num_segments: that the shared part of the context has, a power of two.
        cos, sin: [rows, 1, head_dim] in the model's dtype; the first half of sin is negated.
        hidden: for each window, which keys the rows don't see: of the shared part
            [segments, sessions, 1, 1, session_rows, segment], and of their own [rows, 1, 1, tail].
    """

    places: _Places
    num_segments: int
    cos: torch.Tensor
    sin: torch.Tensor
    hidden: dict[int | None, tuple[torch.Tensor, torch.Tensor]]


class LeanDecoder:
    """The decoder and its cache, on the device of its weights. Not thread-safe.

    To run a step: fill `step(shape)`, call `forward` with it, pick tokens (`sampling_device`), and tell `cache.commit`
    which rows to keep. Reading the picks is the only time the host has to wait.

    Args:
        weights: of the decoder; used where they are.
        num_blocks: of BLOCK_TOKENS tokens that the cache has for all sessions.
        max_tokens: longest context of a session.
        segment_tokens: of the context that one product reads: more mean fewer operations, and more that is read in
            vain. A multiple of BLOCK_TOKENS. Part of the shape: another one gives other bits.
    """

    def __init__(
        self, weights: DecoderWeights, num_blocks: int, max_tokens: int, segment_tokens: int = SEGMENT_TOKENS
    ) -> None:
        if segment_tokens < 1 or segment_tokens % BLOCK_TOKENS:
            raise ValueError(f"segment_tokens is {segment_tokens}; it must be a multiple of {BLOCK_TOKENS}")
        self._weights = weights
        self._config = weights.config
        self._device = weights.embedding.device
        self._dtype = weights.embedding.dtype
        self._segment_blocks = segment_tokens // BLOCK_TOKENS
        self._max_segments = self.bucket(-(-max_tokens // BLOCK_TOKENS))
        self._head_norms = [
            _joined_norms(layer, self._config.num_heads, self._config.num_kv_heads) for layer in weights.layers
        ]
        self._steps: dict[StepShape, StepTensors] = {}
        self._graphs: dict[_GraphKey, tuple[torch.cuda.CUDAGraph, Computed]] = {}
        on_gpu = self._device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if on_gpu else None
        self._capturing = torch.cuda.Stream(self._device) if on_gpu else None
        self.cache = PagedCache(self._config, num_blocks, self._dtype, self._device)

    def bucket(self, num_blocks: int) -> int:
        """Segments that are computed for a context of so many blocks: the next power of two."""
        segments = max(1, -(-num_blocks // self._segment_blocks))
        return 1 << (segments - 1).bit_length()

    def step(self, shape: StepShape) -> StepTensors:
        """The buffers of this shape, always the same ones."""
        if shape not in self._steps:
            max_tokens = self._max_segments * self._segment_blocks * BLOCK_TOKENS
            self._steps[shape] = StepTensors(shape, max_tokens, self._device)
        return self._steps[shape]

    def warm_up(self, shapes: Iterable[StepShape]) -> None:
        """On a GPU, captures all graphs that steps of these shapes can need; else the first steps that need them do.

        Raises:
            torch.OutOfMemoryError: the longest context takes too much; one of fewer `max_tokens` may not.
        """
        if self._device.type != "cuda":
            return
        for shape in shapes:
            segments = self._max_segments
            while segments:  # the greatest first: the memory that it took serves the others
                self._graph(self.step(shape), segments)
                segments //= 2
        torch.cuda.empty_cache()  # of what libraries were warmed up in

    def forward(self, step: StepTensors) -> torch.Tensor:
        """Logits [num_wanted, vocab] in the model's dtype, valid until the next step. Doesn't wait for the device."""
        return self.compute(step).logits

    @torch.inference_mode()
    def compute(self, step: StepTensors, feature_layers: tuple[int, ...] = ()) -> Computed:
        """`forward`, and the hidden states behind some layers; 0 is the embedding.

        On a GPU, the first step of each context length that asks for these layers captures a graph, which takes as
        long as a good many steps do.
        """
        segments = self.bucket(step.num_blocks)
        if self._device.type != "cuda":
            computed = self._compute(step, segments, feature_layers)
        else:
            graph, computed = self._graph(step, segments, feature_layers)
            graph.replay()
        features = None if computed.features is None else computed.features[: step.num_rows]
        return Computed(computed.logits[: step.num_wanted], features)

    @torch.inference_mode()
    def _graph(
        self, step: StepTensors, segments: int, feature_layers: tuple[int, ...] = ()
    ) -> tuple[torch.cuda.CUDAGraph, Computed]:
        key = (step.shape, segments, feature_layers)
        if key not in self._graphs:
            if feature_layers:  # those for the layers of drafters that have left go: there could be any number of them
                kept = ((), feature_layers)
                self._graphs = {known: graph for known, graph in self._graphs.items() if known[2] in kept}
            with torch.cuda.device(self._device):  # the calling thread's own device may be another
                self._graphs[key] = self._captured(step, segments, feature_layers)
        return self._graphs[key]

    def _captured(
        self, step: StepTensors, segments: int, feature_layers: tuple[int, ...]
    ) -> tuple[torch.cuda.CUDAGraph, Computed]:
        """Leaves the device with nothing to do."""
        assert self._capturing is not None
        current = torch.cuda.current_stream()
        self._capturing.wait_stream(current)
        with torch.cuda.stream(self._capturing):
            for _ in range(NUM_WARM_UPS):
                self._compute(step, segments, feature_layers)
        current.wait_stream(self._capturing)
        graph = torch.cuda.CUDAGraph()
        # One step runs at a time, so all graphs may use the same memory.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._capturing):
            computed = self._compute(step, segments, feature_layers)
        return graph, computed

    def _compute(self, step: StepTensors, segments: int, feature_layers: tuple[int, ...]) -> Computed:
        """Of all rows and wanted rows of the shape, used or not."""
        weights, eps = self._weights, self._config.rms_eps
        shared = self._prepare(step, segments)
        x = functional.embedding(step.tokens, weights.embedding)
        states = {0: _narrowed(x)} if 0 in feature_layers else {}
        for index, layer in enumerate(weights.layers):
            attended = self._attention(index, layer, _norm(x, layer.input_norm, eps), shared, step.shape)
            _add_product(x, attended, layer.o, layer.o_bias)
            gate, up = functional.linear(_norm(x, layer.post_norm, eps), layer.gate_up, layer.gate_up_bias).chunk(
                2, dim=-1
            )
            _add_product(x, functional.silu(gate) * up, layer.down, layer.down_bias)
            if index + 1 in feature_layers:
                states[index + 1] = _narrowed(x)
        wanted = _norm(x.index_select(0, step.wanted), weights.final_norm, eps)
        logits = functional.linear(wanted, weights.head, weights.head_bias)
        return Computed(logits, torch.stack([states[layer] for layer in feature_layers], 1) if states else None)

    def _prepare(self, step: StepTensors, segments: int) -> _Step:
        config, shape = self._config, step.shape
        angles = (step.positions[:, None].float() * self._weights.inv_freq)[:, None, :]
        cos, sin = angles.cos() * config.rope_scale, angles.sin() * config.rope_scale
        starts = (step.positions // shape.grain - 1).clamp_min(0) * shape.grain
        grid = step.grid.flatten()
        in_grid = (1, shape.sessions, 1, 1, shape.session_rows, 1)
        grid_positions, grid_starts = (
            numbers.index_select(0, grid).view(in_grid) for numbers in (step.positions, starts)
        )
        segment = self._segment_blocks * BLOCK_TOKENS
        keys = torch.arange(segments * segment, device=self._device).view(segments, 1, 1, 1, 1, segment)
        positions = step.positions.view(-1, 1, 1, 1)
        own_keys = starts.view(-1, 1, 1, 1) + torch.arange(shape.tail, device=self._device)
        hidden = {}
        for window in set(config.sliding_windows):
            before, own = keys >= grid_starts, own_keys > positions
            if window is not None:
                before, own = before | (grid_positions - keys >= window), own | (positions - own_keys >= window)
            hidden[window] = (before, own)
        return _Step(
            self._places(step, segments),
            segments,
            torch.cat([cos, cos], dim=-1).to(self._dtype),
            torch.cat([-sin, sin], dim=-1).to(self._dtype),
            hidden,
        )

    def _places(self, step: StepTensors, segments: int) -> _Places:
        shape, kv_heads, heads = step.shape, self._config.num_kv_heads, self._config.num_heads
        key_heads = torch.arange(kv_heads, device=self._device)
        all_heads = torch.arange(heads, device=self._device)

        tail = step.tail_slots // BLOCK_TOKENS * (kv_heads * BLOCK_TOKENS) + step.tail_slots % BLOCK_TOKENS
        tables = step.tables[:, : segments * self._segment_blocks].unflatten(1, (segments, self._segment_blocks))
        blocks = tables.transpose(0, 1).unsqueeze(2) * kv_heads + key_heads.view(1, 1, -1, 1)
        queries = step.grid.unsqueeze(1) * heads + all_heads.view(1, -1, 1)
        session, offset = step.place // shape.session_rows, step.place % shape.session_rows
        outputs = (session[:, None] * heads + all_heads) * shape.session_rows + offset[:, None]
        return _Places(
            tail=(tail.unsqueeze(1) + key_heads.view(1, -1, 1) * BLOCK_TOKENS).flatten(),
            blocks=blocks.flatten(),
            queries=queries.flatten(),
            outputs=outputs.flatten(),
        )

    def _attention(
        self, index: int, layer: LayerWeights, x: torch.Tensor, step: _Step, shape: StepShape
    ) -> torch.Tensor:
        """x: [rows, hidden], returns [rows, heads · head_dim]. Writes the rows' keys and values into the stage."""
        config = self._config
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        qkv = functional.linear(x, layer.qkv, layer.qkv_bias).view(shape.rows, -1, dim)
        turned = self._turn(index, qkv[:, : heads + kv_heads], step)
        stored = self.cache.stored[index]
        _stage(stored[..., :dim], turned[:, heads:])
        _stage(stored[..., dim : 2 * dim], qkv[:, heads + kv_heads :])
        queries = turned[:, :heads] * config.attention_scale
        hidden_before, hidden_own = step.hidden[config.sliding_windows[index]]
        before, before_max = self._before(queries, stored, step, hidden_before, shape)
        own, own_max = self._own(queries, stored, step, hidden_own, shape)
        # Weights exp(before_max) and exp(own_max), both divided by their sum, which the last line cancels.
        summed = torch.lerp(own, before, torch.sigmoid(before_max - own_max))
        return (summed[..., :dim] / summed[..., dim : dim + 1]).to(self._dtype).view(shape.rows, heads * dim)

    def _turn(self, index: int, heads: torch.Tensor, step: _Step) -> torch.Tensor:
        """Norms, if there are any, and rotation of queries and keys together. heads: [rows, heads + kv_heads, dim]."""
        norms = self._head_norms[index]
        if norms is not None:
            heads = functional.rms_norm(heads, heads.shape[-1:], eps=self._config.rms_eps) * norms
        # Swapping the halves and a sine whose first half is negated make rotate_half.
        swapped = torch.roll(heads, self._config.head_dim // 2, dims=-1)
        return torch.addcmul(heads * step.cos, swapped, step.sin)

    def _before(
        self, queries: torch.Tensor, stored: torch.Tensor, step: _Step, hidden: torch.Tensor, shape: StepShape
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Over the committed context before each row's cut, by segments.

        queries: [rows, heads, dim], stored: one layer of the cache. Returns the weighted sums
        [rows · kv_heads, group, dim + ONES] and the maxima of scores [rows · kv_heads, group, 1], float32.
        """
        kv_heads, dim = self._config.num_kv_heads, self._config.head_dim
        group = self._config.num_heads // kv_heads
        segments, size = step.num_segments, self._segment_blocks * BLOCK_TOKENS
        rows = queries.view(-1, dim).index_select(0, step.places.queries)
        rows = rows.view(shape.sessions * kv_heads, group * shape.session_rows, dim)
        # Gathering all segments at once is copying; only sums have to keep to one segment's shape.
        context = stored.flatten(0, 1).flatten(1).index_select(0, step.places.blocks)
        context = context.view(segments, shape.sessions * kv_heads, size, -1)
        parts = [_product(rows, segment[..., :dim].transpose(1, 2)) for segment in context]
        scores = torch.stack(parts) if segments > 1 else parts[0].unsqueeze(0)
        scores.view(segments, shape.sessions, kv_heads, group, shape.session_rows, size).masked_fill_(hidden, HIDDEN)
        top = scores.amax(dim=(0, 3), keepdim=True)
        weights = scores.sub_(top).exp_().to(self._dtype)
        summed = _product(weights[0], context[0, ..., dim:])
        for segment in range(1, segments):
            summed = summed + _product(weights[segment], context[segment, ..., dim:])
        outputs = summed.view(-1, dim + ONES).index_select(0, step.places.outputs)
        maxima = top.view(-1).index_select(0, step.places.outputs)
        return outputs.view(-1, group, dim + ONES), maxima.view(-1, group, 1)

    def _own(
        self, queries: torch.Tensor, stored: torch.Tensor, step: _Step, hidden: torch.Tensor, shape: StepShape
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Over the rest, which each row reads for itself. As `_before`."""
        kv_heads, dim = self._config.num_kv_heads, self._config.head_dim
        group = self._config.num_heads // kv_heads
        batch = (shape.rows * kv_heads, shape.tail)
        context = stored.flatten(0, 2).index_select(0, step.places.tail).view(*batch, -1)
        scores = _product(queries.view(batch[0], group, dim), context[..., :dim].transpose(1, 2))
        scores.view(shape.rows, kv_heads, group, shape.tail).masked_fill_(hidden, HIDDEN)
        top = scores.amax(dim=-1, keepdim=True)
        weights = scores.sub_(top).exp_().to(self._dtype)
        return _product(weights, context[..., dim:]), top


def _stage(stored: torch.Tensor, rows: torch.Tensor) -> None:
    """Writes rows [rows, kv_heads, n] to the first token slots of [blocks, kv_heads, BLOCK_TOKENS, n]."""
    size = min(BLOCK_TOKENS, rows.shape[0])
    by_block = rows.unflatten(0, (-1, size)).transpose(1, 2)
    stored[: by_block.shape[0], :, :size].copy_(by_block)


def _product(some: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Batched product in float32 of two tensors of the model's dtype."""
    if some.dtype == torch.float32:
        return torch.bmm(some, other)
    if some.device.type == "cuda":
        return torch.bmm(some, other, out_dtype=torch.float32)
    return torch.bmm(some.float(), other.float())


def _add_product(x: torch.Tensor, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """x += rows · weightᵀ + bias, in one operation where there is no bias."""
    x.addmm_(rows, weight.t())
    if bias is not None:
        x.add_(bias)


def _narrowed(x: torch.Tensor) -> torch.Tensor:
    """A bfloat16 copy: `x` itself goes on being added to."""
    return x.to(torch.bfloat16, copy=True)


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return functional.rms_norm(x, x.shape[-1:], weight, eps)


def _joined_norms(layer: LayerWeights, num_heads: int, num_kv_heads: int) -> torch.Tensor | None:
    """[heads + kv_heads, head_dim], so that queries and keys are normed together."""
    if layer.q_norm is None or layer.k_norm is None:
        return None
    return torch.cat([layer.q_norm.expand(num_heads, -1), layer.k_norm.expand(num_kv_heads, -1)])
