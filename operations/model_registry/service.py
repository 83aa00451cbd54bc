"""Model versions are installed, tried, and moved from state to state; no HTTP.

    install ─▶ draft ─▶ shadow ─▶ canary ─▶ active ─▶ retired
                                                └───▶ recalled, from any state

Each command is one transaction of our database, so that of two at once one wins, and one
AuditEvent. Who may give which command is `rights.RIGHTS`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import fhir_ext
from fhir_ext.errors import ConflictError, UnprocessableError
from fhir_ext.logs import event as log_event
from fhir_ext.logs import get_logger
from fhir_ext.settings import ModelSettings
from fhir_ext.store.models import CasesRun, Cause, ModelStore, Move
from fhir_ext.store.tables import ModelEvent, ModelVersion
from models.lifecycle import State, may_follow
from models.registry import Installed, NotInstalledError, Registry
from operations.model_registry.actor import Actor, tell
from operations.model_registry.folder import Inspection, digest_of, inspect_folder
from operations.model_registry.install import Placed, inbox_folder, place
from operations.model_registry.past import active_versions
from operations.model_registry.readiness import require_tested, require_unchanged
from operations.model_registry.recall import ChoreQueue, start_recall
from operations.model_registry.report import CasesReport
from operations.model_registry.rights import Action
from operations.model_registry.rows import VersionRow, new_row

log = get_logger(__name__)

#: Chore that runs the cases of a version in a worker.
TEST: Final = "model-test"

#: Longest reason that is kept, in characters.
LONGEST_REASON: Final = 500


@dataclass(frozen=True, slots=True)
class ModelRegistryService:
    """Commands about model versions. Safe to share between threads and processes.

    Attributes:
        store: rows of the versions.
        registry: what is installed.
        queue: where audits, tests over HTTP and recalls are put.
        settings: where the site's versions and its inbox are.
        try_cases: runs the cases of a version; None where no network may be loaded.
    """

    store: ModelStore
    registry: Registry
    queue: ChoreQueue
    settings: ModelSettings
    try_cases: Callable[[Installed], CasesReport] | None = None

    def versions(self, service: str | None = None) -> list[VersionRow]:
        """All versions, or those of a service; sorted by service and time."""
        return [VersionRow.of(row) for row in self.store.versions(service)]

    def version(self, service: str, version: str) -> VersionRow:
        """One version.

        Raises:
            NotInstalledError: there is none.
        """
        row = self.store.version(service, version)
        if row is None:
            raise NotInstalledError("no such model version is installed")
        return VersionRow.of(row)

    def history(
        self, service: str | None = None, version: str | None = None, limit: int = 1000
    ) -> Sequence[ModelEvent]:
        """What was done, newest first."""
        return self.store.events(service, version, limit)

    def install(self, folder: Path, actor: Actor) -> VersionRow:
        """Copy a folder to the site's versions; the version is then a draft.

        The same files again change nothing.

        Raises:
            UnprocessableError: `model-invalid`, with every problem and its line.
            ConflictError: `model-exists`: the version is there with other files.
        """
        actor.require(Action.INSTALL)
        placed = place(
            folder,
            self.settings.folder,
            self.settings.weights_bytes,
            self._shipped,
            self._digest,
        )
        manifest = placed.manifest
        if self.store.version(manifest.id, manifest.version) is None:
            try:
                self._tell(self.store.add(_new_row(placed), _cause(Action.INSTALL, actor)))
            except ConflictError:
                # Somebody else installed the same files at the same time.
                return self.version(manifest.id, manifest.version)
        return self.version(manifest.id, manifest.version)

    def validate_inbox(self, name: str, actor: Actor) -> Inspection:
        """Check a folder of the inbox and every file it names; nothing is installed.

        Raises:
            NotFoundError: `model-folder`.
        """
        actor.require(Action.INSTALL)
        folder = inbox_folder(self.settings.inbox, name)
        return inspect_folder(folder, self.settings.weights_bytes)

    def install_from_inbox(self, name: str, actor: Actor) -> VersionRow:
        """Install a folder of the inbox, by its name.

        Raises:
            NotFoundError: `model-folder`; else as `install`.
        """
        actor.require(Action.INSTALL)
        return self.install(inbox_folder(self.settings.inbox, name), actor)

    def test(
        self, service: str, version: str, actor: Actor, request: str | None = None
    ) -> VersionRow:
        """Run the cases of a version and keep what came out.

        Args:
            request: which asking for it this answers; stands in the report.

        Raises:
            ConflictError: `model-without-cases`.
            NotInstalledError: there is no such version.
        """
        actor.require(Action.TEST)
        if self.try_cases is None:
            raise RuntimeError("this process loads no networks")
        self.version(service, version)
        installed = self.registry.find(service, version)
        if not installed.manifest.cases:
            raise ConflictError("the manifest has no cases", code="model-without-cases")
        # Before the run: files that are exchanged meanwhile are then not the tested ones.
        digest = digest_of(installed.folder)
        report = self.try_cases(installed)
        kept = {**report.as_json(), **({"request": request} if request else {})}
        tested = CasesRun(report.passed, digest, fhir_ext.__version__, kept)
        said = "passed" if report.passed else "failed"
        cause = _cause(Action.TEST, actor, said)
        self._tell([self.store.record_test(service, version, tested, cause)])
        return self.version(service, version)

    def request_test(self, service: str, version: str, actor: Actor) -> str:
        """Have a worker run the cases of a version.

        Returns:
            What the report will have as its `request`.

        Raises:
            ConflictError: `model-without-cases`.
            NotInstalledError: there is no such version.
        """
        actor.require(Action.TEST)
        self.version(service, version)
        if not self.registry.manifest(service, version).cases:
            raise ConflictError("the manifest has no cases", code="model-without-cases")
        request = str(uuid.uuid4())
        self.queue.enqueue_chore(
            TEST,
            request,
            {
                "service": service,
                "version": version,
                "request": request,
                "who": actor.who,
                "how": actor.how,
                "client_id": actor.client_id,
                "fhir_user": actor.fhir_user,
                "personas": list(actor.personas),
            },
        )
        return request

    def shadow(self, service: str, version: str, actor: Actor) -> VersionRow:
        """Let a version look at studies; what it says stays in our own database.

        Raises:
            ConflictError: `model-state`; its cases do not hold; see `readiness`.
        """
        actor.require(Action.SHADOW)
        row, installed = self._both(service, version)
        if row.state is State.CANARY:
            # It writes into records no more.
            actor.require(Action.CANARY)
        _require_follows(row, State.SHADOW)
        require_tested(row, installed, needs_cases=False)
        return self._moved([_move(row, State.SHADOW)], _cause(Action.SHADOW, actor))

    def canary(self, service: str, version: str, share: float, actor: Actor) -> VersionRow:
        """Let a version write in place of the active one, for a share of the studies.

        Raises:
            UnprocessableError: `model-share`.
            ConflictError: `model-state`, or another version is the canary; its cases do not
                hold; see `readiness`.
        """
        actor.require(Action.CANARY)
        if not 0 < share <= 1:
            raise UnprocessableError("a share is above 0 and at most 1", code="model-share")
        row, installed = self._both(service, version)
        _require_follows(row, State.CANARY)
        other = self._in_state(service, State.CANARY)
        if other is not None and other.version != version:
            raise ConflictError(
                f"version {other.version} is the canary of this service", code="model-state"
            )
        require_tested(row, installed, needs_cases=True)
        move = _move(row, State.CANARY, share)
        return self._moved([move], _cause(Action.CANARY, actor))

    def activate(self, service: str, version: str, actor: Actor) -> VersionRow:
        """Make a version the one that writes; the one before it is retired.

        Raises:
            ConflictError: `model-state`; its cases do not hold; see `readiness`.
        """
        actor.require(Action.ACTIVATE)
        row, installed = self._both(service, version)
        if row.state is State.ACTIVE:
            return row
        _require_follows(row, State.ACTIVE)
        require_tested(row, installed, needs_cases=True)
        return self._replace(row, _cause(Action.ACTIVATE, actor))

    def retire(
        self, service: str, version: str, actor: Actor, reason: str | None = None
    ) -> VersionRow:
        """Let a version look at nothing more; what it wrote stays.

        Raises:
            ConflictError: `model-state`: it is recalled.
        """
        actor.require(Action.RETIRE)
        row = self.version(service, version)
        if row.state is State.RETIRED:
            return row
        _require_follows(row, State.RETIRED)
        cause = _cause(Action.RETIRE, actor, reason)
        return self._moved([_move(row, State.RETIRED)], cause)

    def rollback(self, service: str, actor: Actor, reason: str | None = None) -> VersionRow:
        """Go back to the version that was active before; the present one is retired.

        Its cases are not asked for again: it was active, and its files are the same.

        Raises:
            NotInstalledError: no version of the service is known.
            ConflictError: `model-no-earlier`: there is none, or it was recalled;
                `model-files-changed`.
        """
        actor.require(Action.ROLLBACK)
        if not self.versions(service):
            raise NotInstalledError("no version of this service is installed")
        row = self._earlier(service)
        require_unchanged(row, self.registry.find(service, row.version))
        return self._replace(row, _cause(Action.ROLLBACK, actor, reason))

    def recall(self, service: str, version: str, reason: str, actor: Actor) -> VersionRow:
        """Withdraw a version and everything that it wrote; it never comes back.

        A repeat takes the withdrawal up again where it was lost.

        Raises:
            UnprocessableError: `model-reason`: none is given, or it is too long.
        """
        actor.require(Action.RECALL)
        reason = _reason(reason)
        row = self.version(service, version)
        if row.state is not State.RECALLED:
            cause = _cause(Action.RECALL, actor, reason)
            return self._moved([_move(row, State.RECALLED)], cause)
        # The queue knows a key for good; what is asked for once more is to run once more.
        again = uuid.uuid4().hex[:8]
        start_recall(
            self.queue, service, version, row.settings_hash, reason, actor.who, again=again
        )
        return row

    def _shipped(self, service: str, version: str) -> bool:
        try:
            return self.registry.find(service, version).shipped
        except NotInstalledError:
            return False

    def _digest(self, service: str, version: str) -> str | None:
        row = self.store.version(service, version)
        return row.digest if row is not None else None

    def _both(self, service: str, version: str) -> tuple[VersionRow, Installed]:
        return self.version(service, version), self.registry.find(service, version)

    def _in_state(self, service: str, state: State) -> VersionRow | None:
        return next((row for row in self.versions(service) if row.state is state), None)

    def _earlier(self, service: str) -> VersionRow:
        """The version that a rollback goes to."""
        order = active_versions(reversed(self.store.events(service, limit=100_000)))
        # The last one is active now, or it was retired or recalled, and is not meant either.
        if len(order) < 2:
            raise ConflictError("no version was active before", code="model-no-earlier")
        row = self.version(service, order[-2])
        if row.state is State.RECALLED:
            raise ConflictError("the version before was recalled", code="model-no-earlier")
        return row

    def _replace(self, row: VersionRow, cause: Cause) -> VersionRow:
        """Make a version active in place of the present one."""
        moves = []
        present = self._in_state(row.service, State.ACTIVE)
        if present is not None:
            why = f"{row.version} takes its place"
            moves.append(_move(present, State.RETIRED, reason=why))
        return self._moved([*moves, _move(row, State.ACTIVE)], cause)

    def _moved(self, moves: Sequence[Move], cause: Cause) -> VersionRow:
        self._tell(self.store.move(moves, cause))
        return self.version(moves[-1].service, moves[-1].version)

    def _tell(self, events: Sequence[ModelEvent]) -> None:
        tell(self.store, self.queue)
        last = events[-1]
        log_event(log, "model-changed", service=last.service, operation=last.action)


def _new_row(placed: Placed) -> ModelVersion:
    installed = Installed(placed.manifest, placed.folder, shipped=False)
    return new_row(installed, placed.digest, State.DRAFT)


def _move(row: VersionRow, state: State, share: float = 0.0, reason: str | None = None) -> Move:
    return Move(row.service, row.version, row.state, state, share, reason)


def _cause(action: Action, actor: Actor, reason: str | None = None) -> Cause:
    return Cause(action, actor.who, actor.how, _reason(reason) if reason else None, actor.caller)


def _reason(text: str) -> str:
    # Databases, FHIR strings and terminals take no control characters, or take them too well.
    text = " ".join(text.split())
    if not text.isprintable():
        raise UnprocessableError("a reason is of printed characters", code="model-reason")
    if not 0 < len(text) <= LONGEST_REASON:
        raise UnprocessableError(
            f"a reason of at most {LONGEST_REASON} characters is needed", code="model-reason"
        )
    return text


def _require_follows(row: VersionRow, state: State) -> None:
    if not may_follow(row.state, state):
        raise ConflictError(
            f"a version that is {row.state} cannot become {state}", code="model-state"
        )
