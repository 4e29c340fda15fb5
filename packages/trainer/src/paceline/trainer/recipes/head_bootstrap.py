"""The recipe `feature_head` (see there) as `bootstrap` makes it: readings with hidden states in, a head out."""

from __future__ import annotations

import math

from paceline.trainer.data.reading import Wanted
from paceline.trainer.data.target import Target
from paceline.trainer.models.graph import feature_head_card
from paceline.trainer.recipes.base import Job, Made, Making
from paceline.trainer.recipes.feature_head import HeadRecipe, evaluate, probe, read_parent, train
from paceline.trainer.recipes.head_start import HeadSize
from paceline.trainer.training.head_task import HeadObjective
from paceline.trainer.training.loop import LoopSettings
from paceline.wire.settings import StartupError

RULE, LEARNING_RATE = "muon", 0.03  # at equal time on one core 53 % of first tokens right, with AdamW 44 %
FEWEST_STEPS = 20
CHECKPOINT_EVERY = 100  # steps, of which each takes seconds
SHALLOW = 0.6  # of the steps: drafts of one row first, which cost a quarter as much as deep ones


class FeatureHeadRecipe:
    """See above."""

    summary = "a head on the target's hidden states: the best guesses, for targets that tell their features"
    takes_parents = True

    def wanted(self, target: Target, making: Making) -> Wanted | None:
        """A low, a middle and the last layer, as EAGLE-3 does."""
        layers = target.num_layers
        chosen = sorted({max(1, round(layers / 3)), max(1, round(2 * layers / 3)), layers})
        return Wanted(top_k=1, layers=tuple(chosen))

    def make(self, job: Job) -> Made:
        making = job.making
        for option, value in (("objective", making.objective), ("width", making.width), ("layers", making.num_layers)):
            if value:
                raise StartupError(f"--{option} has no effect on feature_head; leave it out")
        parent = read_parent(job.parent, job.target) if job.parent else None
        if parent and making.vocab_size:
            raise StartupError("--vocabulary has no effect with --parent, which has its own; leave it out")
        made = train(job.target, job.readings, self._recipe(job), job.work, parent=parent)
        judged = evaluate(made.head, made.held_out[: making.max_judged], HeadObjective().depth).metrics()
        card = feature_head_card(
            made.head.shape,
            feature_layers=made.layers,
            max_length=min(making.max_length, job.target.context_length),
            window=made.window,
            quantization="int8",
            borrows=made.borrows,
        )
        return Made(
            module=made.head,
            card=card,
            vocabulary=made.vocabulary.tolist(),
            probe=probe(made.held_out, made.head.shape),
            metrics={**judged, "acceptance": judged["acceptance_1"]},
            summary=f"a head of {card.width} on layers {made.layers}, {card.vocab_size} of the target's tokens",
        )

    def _recipe(self, job: Job) -> HeadRecipe:
        making, usual = job.making, HeadSize()
        objective = HeadObjective()
        learnt, _ = job.split()
        num_tokens = sum(len(reading.answer.answer_ids) for reading in learnt)
        places = objective.batch_starts * (SHALLOW + (1 - SHALLOW) / objective.share)  # that a step goes by, on average
        num_steps = max(FEWEST_STEPS, math.ceil(making.epochs * num_tokens / places))
        shallow = round(SHALLOW * num_steps)
        intermediate = min(usual.intermediate, int(job.target.model.config.get_text_config().intermediate_size))
        return HeadRecipe(
            size=HeadSize(
                vocab_size=min(making.vocab_size or usual.vocab_size, job.target.vocab_size), intermediate=intermediate
            ),
            objective=HeadObjective(shallow_steps=shallow),
            loop=LoopSettings(
                num_steps=num_steps,
                learning_rate=making.learning_rate or LEARNING_RATE,
                rule=RULE,
                warmup_steps=max(1, min(50, num_steps // 10)),
                ema_decay=0.99,
                precision="auto",
                checkpoint_every=CHECKPOINT_EVERY,
            ),
            held_out=making.held_out,
            seed=making.seed,
        )
