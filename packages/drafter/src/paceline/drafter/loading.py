"""Models put to work as the settings say: at the start, and later when a revision takes over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from paceline.drafter.drafting import DraftModel, ModelAtWork, Workload, in_lane, model_at_work
from paceline.drafter.growing import Growth
from paceline.drafter.models.strategies import MODEL_STRATEGIES, revision_of, revisions_of
from paceline.drafter.settings import DrafterSettings, make_rule
from paceline.drafter.trees import TREES
from paceline.drafter.trees.ahead import Ahead
from paceline.drafter.vocabulary.store import BridgeStore
from paceline.wire.errors import PacelineError
from paceline.wire.revision_folder import open_revision, signature_in
from paceline.wire.settings import StartupError
from paceline.wire.signature import verifier


class Loader:
    """Loads models. Its methods take a while, and may run in any thread.

    Raises StartupError for a --public-key that is none.
    """

    def __init__(self, settings: DrafterSettings) -> None:
        self._settings = settings
        self._verify = verifier(settings.public_key) if settings.public_key is not None else None
        self._store = BridgeStore(settings.bridge_store) if settings.bridge_store else None

    def models(self) -> list[DraftModel]:
        """One for each strategy that needs one. Raises StartupError."""
        settings = self._settings
        models: list[DraftModel] = []
        for strategy in settings.model_strategies:
            try:
                models.append(self.in_lane(strategy, self.work(strategy)))
            except PacelineError as error:
                given = settings.revision or settings.model
                raise StartupError(f"strategy {strategy}, {given}: {error.message}") from error
        return models

    def work(self, strategy: str, folder: Path | None = None) -> ModelAtWork:
        """A strategy's model, of that revision if one is given. Raises PacelineError or StartupError."""
        kind, options = MODEL_STRATEGIES[strategy], self._settings.model_options
        if folder is not None:
            options = replace(options, revisions=(str(folder),))
        revision = ""
        if kind.takes and revisions_of(kind.takes, options):
            revision = self._checked(revision_of(kind.takes, options))
        loaded = kind.load(options)
        shape = self._settings.shape(strategy)
        growth = Growth(TREES[self._settings.tree](shape), Ahead(shape), make_rule(self._settings.stopping))
        return model_at_work(loaded, growth, self._workload(strategy), revision)

    def in_lane(self, strategy: str, work: ModelAtWork) -> DraftModel:
        """A lane of its own for it; `lane.start()` is the caller's."""
        return in_lane(strategy, work, self._workload(strategy))

    def _checked(self, folder: Path) -> str:
        """A revision's id, once it is known who made it: before any graph is read."""
        revision = open_revision(folder)
        if self._verify is not None:
            self._verify(revision.manifest, signature_in(folder))
        return revision.revision_id

    def _workload(self, strategy: str) -> Workload:
        settings = self._settings
        return Workload(
            width=settings.shape(strategy).width,
            bridge=settings.bridge,
            max_rows=settings.cache_tokens,
            draft_ahead=settings.ahead,
            guesses=MODEL_STRATEGIES[strategy].guesses,
            store=self._store,
        )
