"""Runs steps of any transformers causal LM whose attention can be replaced.

All sessions' rows go through the model as one sequence [1, rows], so linear layers see one batch; attention takes it
apart again. The KV cache is ours: transformers is called without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from paceline.verifier.model import attention
from paceline.verifier.model.batch import SessionPlan
from paceline.verifier.model.blocks import BlockPool, KVSlot
from paceline.verifier.model.features import Bits, bits_of
from paceline.verifier.model.hidden_states import HiddenStates
from paceline.verifier.model.kv import KVStore, slot_of
from paceline.verifier.model.linear import MIN_ROWS
from paceline.verifier.model.runner import Kept, Runner, Scores, best_first, compacted
from paceline.verifier.sampling import Sampler, Sampling

PAD_TOKEN = 0


class TransformersRunner(Runner):
    """See `Runner`.

    Args:
        model: loaded for inference, on its device.
        rule: name of the acceptance rule.
    """

    max_session_rows = attention.MAX_SESSION_ROWS

    def __init__(self, model: PreTrainedModel, rule: str = "coupled") -> None:
        super().__init__(int(model.get_input_embeddings().weight.shape[0]), rule)
        self.model = model
        self.device = next(model.parameters()).device
        self._hidden_states = HiddenStates.of(model)
        self.feature_source = None if self._hidden_states is None else self._hidden_states.source
        self._layouts: tuple[attention.Layout, ...] = ()
        self._attention_name = f"paceline_{id(self):x}"
        AttentionInterface.register(self._attention_name, self._attention)
        model.set_attn_implementation(self._attention_name)
        self._store = self._new_store(1)
        self._block_bytes = self._measured_block_bytes()

    @property
    def block_bytes(self) -> int:
        return self._block_bytes

    def _new_store(self, num_blocks: int) -> KVStore:
        return KVStore(num_blocks, torch.float32 if self.device.type == "cpu" else None)

    @torch.inference_mode()
    def _measured_block_bytes(self) -> int:
        """Only the model knows the shapes of its keys and values: one row shows them."""
        slot = KVSlot(blocks=[0])
        self.forward((SessionPlan(slot, (PAD_TOKEN,), True, (), (), Sampler(Sampling())),))
        return self._store.block_bytes

    def allocate(self, num_blocks: int, max_tokens: int | None = None) -> None:
        self.pool = BlockPool(num_blocks)
        self._store = self._new_store(num_blocks)

    @torch.inference_mode()
    def _keep(self, kept: Sequence[Kept]) -> None:
        for slot, sources, targets in compacted(kept):
            self._store.move(
                [slot_of(slot.blocks, position) for position in sources],
                [slot_of(slot.blocks, position) for position in targets],
            )

    @torch.inference_mode()
    def score(
        self,
        sessions: Sequence[SessionPlan],
        num_best: int,
        best_only: bool = False,
        feature_layers: tuple[int, ...] = (),
    ) -> Scores:
        ids: list[int] = []
        wanted: list[int] = []
        layouts: list[attention.Layout] = []
        for session in sessions:
            layouts.append(attention.make_layout(session, len(ids), self.device))
            if session.completes:
                wanted.extend(range(len(ids) + len(session.chain) - 1, len(ids) + session.num_rows))
            ids.extend((*session.chain, *session.tree_tokens))
        positions = torch.cat([layout.positions for layout in layouts])
        num_rows = len(ids)
        padding = max(0, MIN_ROWS - num_rows)
        ids.extend([PAD_TOKEN] * padding)
        # The head, too, must see two rows: a lone wanted row is asked for twice.
        kept = wanted if len(wanted) != 1 else wanted * 2
        self._layouts = tuple(layouts)
        inputs = {
            "input_ids": torch.tensor([ids], device=self.device),
            "position_ids": torch.nn.functional.pad(positions, (0, padding))[None],
            "logits_to_keep": torch.tensor(kept or [0, 0], device=self.device),
        }
        output, features = self._run(inputs, num_rows, feature_layers)
        logits: torch.Tensor = output.logits[0, : len(wanted)]
        return Scores(logits, _best(logits, num_best), features=features)

    def _run(
        self, inputs: dict[str, torch.Tensor], num_rows: int, feature_layers: tuple[int, ...]
    ) -> tuple[Any, Bits | None]:
        """The model's output, and the hidden states of the first rows, if any are wanted."""
        if not feature_layers or self._hidden_states is None:
            return self.model(**inputs, use_cache=False), None
        with self._hidden_states.captured(feature_layers) as states:
            output = self.model(**inputs, use_cache=False)
        return output, bits_of(torch.stack([states[layer][:num_rows] for layer in feature_layers], 1).cpu())

    def _attention(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **_ignored: Any,
    ) -> tuple[torch.Tensor, None]:
        """What transformers calls in each layer. query: [1, heads, rows, dim]; returns [1, rows, heads, dim]."""
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        outputs = [
            attention.attend(
                self._store,
                layout,
                layer,
                query[0, :, layout.start : layout.end],
                key[0, :, layout.start : layout.end],
                value[0, :, layout.start : layout.end],
                scale,
                sliding_window,
                softcap,
            )
            for layout in self._layouts
        ]
        padding = query.shape[2] - self._layouts[-1].end
        if padding:
            outputs.append(torch.zeros_like(outputs[0][:1]).expand(padding, -1, -1))
        return torch.cat(outputs)[None], None


def _best(logits: torch.Tensor, count: int) -> list[list[int]]:
    """See `Scores.best`."""
    first: list[int] = torch.argmax(logits, dim=-1).tolist()
    if count <= 1:
        return [[token] for token in first]
    return best_first(first, torch.topk(logits, count, dim=-1).indices.tolist())
