"""Runs steps of any transformers causal LM whose attention can be replaced.

All sessions' rows go through the model as one sequence [1, rows], so linear layers see one batch; attention takes it
apart again. The KV cache is ours: transformers is called without one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel

from paceline.verifier.acceptance import RULES
from paceline.verifier.model import attention
from paceline.verifier.model.batch import ROOT, SessionPlan, SessionResult, StepPlan, StepResult, TopRows
from paceline.verifier.model.kv import KVSlot
from paceline.verifier.model.linear import MIN_ROWS

PAD_TOKEN = 0


class Runner:
    """The target model, ready to run steps. Not thread-safe: one thread calls `step` at a time.

    Args:
        model: loaded for inference, on its device.
        rule: name of the acceptance rule.
    """

    def __init__(self, model: PreTrainedModel, rule: str = "coupled") -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.vocab_size = int(model.get_input_embeddings().weight.shape[0])
        self._accept = RULES[rule]
        self._layouts: tuple[attention.Layout, ...] = ()
        self._attention_name = f"paceline_{id(self):x}"
        AttentionInterface.register(self._attention_name, self._attention)
        model.set_attn_implementation(self._attention_name)

    def new_slot(self, num_tokens: int) -> KVSlot:
        """A place in the KV cache for a session of at most `num_tokens`, with room for one step's rows."""
        on_cpu = self.device.type == "cpu"
        return KVSlot(num_tokens + attention.MAX_SESSION_ROWS, torch.float32 if on_cpu else None)

    @torch.inference_mode()
    def reference(self, tokens: Sequence[int]) -> torch.Tensor:
        """Logits [tokens, vocab] by transformers' own attention, to compare with. Not to the bit those of `forward`."""
        self.model.set_attn_implementation("eager")
        try:
            logits: torch.Tensor = self.model(torch.tensor([tokens], device=self.device), use_cache=False).logits[0]
        finally:
            self.model.set_attn_implementation(self._attention_name)
        return logits

    @torch.inference_mode()
    def step(self, plan: StepPlan) -> StepResult:
        """One forward pass over all rows of the plan, then acceptance, then the cache is compacted."""
        started = time.perf_counter()
        logits = self.forward(plan.sessions)
        results: list[SessionResult] = []
        first = 0
        for session in plan.sessions:
            if not session.completes:
                session.slot.commit(len(session.chain), ())
                results.append(SessionResult((), ()))
                continue
            count = 1 + len(session.tree_tokens)
            result = self._walk(session, logits[first : first + count])
            first += count
            session.slot.commit(len(session.chain), result.accepted)
            results.append(result)
        return StepResult(tuple(results), time.perf_counter() - started)

    def forward(self, sessions: Sequence[SessionPlan]) -> torch.Tensor:
        """Logits [wanted, vocab] at the end of each complete chain and at each tree node, in order."""
        ids: list[int] = []
        wanted: list[int] = []
        layouts: list[attention.Layout] = []
        for session in sessions:
            layouts.append(attention.make_layout(session, len(ids), self.device))
            if session.completes:
                wanted.extend(range(len(ids) + len(session.chain) - 1, len(ids) + session.num_rows))
            ids.extend((*session.chain, *session.tree_tokens))
        positions = torch.cat([layout.positions for layout in layouts])
        padding = max(0, MIN_ROWS - len(ids))
        ids.extend([PAD_TOKEN] * padding)
        # The head, too, must see two rows: a lone wanted row is asked for twice.
        kept = wanted if len(wanted) != 1 else wanted * 2
        self._layouts = tuple(layouts)
        output = self.model(
            input_ids=torch.tensor([ids], device=self.device),
            position_ids=torch.nn.functional.pad(positions, (0, padding))[None],
            use_cache=False,
            logits_to_keep=torch.tensor(kept or [0, 0], device=self.device),
        )
        logits: torch.Tensor = output.logits[0, : len(wanted)]
        return logits

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

    def _walk(self, session: SessionPlan, logits: torch.Tensor) -> SessionResult:
        """Acceptance. logits: [1 + n, vocab], the end of the chain first."""
        depth_of: dict[int, int] = {ROOT: 0}
        for node, parent in enumerate(session.tree_parents):
            depth_of[node] = depth_of[parent] + 1
        next_position = session.slot.length + len(session.chain)
        best = torch.argmax(logits, dim=-1).tolist() if session.sampler.greedy else []

        def pick(node: int) -> int:
            if best:
                return int(best[node + 1])
            return session.sampler.pick(logits[node + 1], next_position + depth_of[node])

        walk = self._accept(session.tree_tokens, session.tree_parents, pick)
        return SessionResult(walk.tokens, walk.accepted, self._top(session, logits, walk.accepted))

    def _top(self, session: SessionPlan, logits: torch.Tensor, accepted: tuple[int, ...]) -> TopRows | None:
        if session.top_k == 0:
            return None
        values, ids = torch.topk(logits, session.top_k, dim=-1)
        if not session.want_log_probs:
            return TopRows(ids.tolist())
        path = torch.tensor([0, *(node + 1 for node in accepted)], device=logits.device)
        log_probs = values[path].float() - torch.logsumexp(logits[path].float(), dim=-1, keepdim=True)
        return TopRows(ids.tolist(), log_probs.tolist())
