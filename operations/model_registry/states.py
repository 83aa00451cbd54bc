"""Where the versions stand, for the planner; and the rows that this software brings itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import CallerError, ConflictError, ParkedWork, SettingsError
from fhir_ext.logs import event as log_event
from fhir_ext.logs import get_logger
from fhir_ext.resources.device import is_recalled
from fhir_ext.resources.ids import device_id
from fhir_ext.results import ModelIdentity
from fhir_ext.store.models import Cause, ModelStore, Move
from fhir_ext.store.repository import Repository
from fhir_ext.store.tables import ModelEvent, ModelVersion
from models.lifecycle import AT_WORK, State, VersionState, crowded
from models.registry import Installed, Registry
from operations.model_registry.actor import SOFTWARE, tell
from operations.model_registry.folder import digest_of, inspect_folder
from operations.model_registry.install import require_usable
from operations.model_registry.recall import ChoreQueue
from operations.model_registry.rows import new_row

log = get_logger(__name__)

Recalled = Callable[[ModelIdentity], bool]


def states(repository: Repository) -> tuple[VersionState, ...]:
    """Where every version stands; one query.

    Raises:
        ParkedWork: `two-versions-active`: somebody changed the database by hand, and nobody
            here can say which of them is meant.
    """
    found = tuple(
        VersionState(service, version, State(state), share)
        for service, version, state, share in ModelStore(repository.engine).states()
    )
    if services := crowded(found):
        names = ", ".join(services)
        raise ParkedWork(
            f"several versions are active, or several are canaries, of: {names}; "
            "`fhir-ext model retire` all but one",
            code="two-versions-active",
        )
    return found


def recalled_in(fhir: FhirClient) -> Recalled:
    """Whether the FHIR server knows a version as recalled: that outlives our database."""
    return lambda model: is_recalled(fhir.find("Device", device_id(model)) or {})


def seed(
    store: ModelStore,
    registry: Registry,
    queue: ChoreQueue,
    recalled: Recalled = lambda model: False,
) -> None:
    """Give every version that stands here its row; a repeat changes nothing.

    A shipped service that is new here is active, unless its manifest says that it is switched
    on by hand. Where the software brings another version than before, the one before is
    retired, and the new one takes its place if that was the active one.

    A version of the site without a row was installed into a database that is lost, or somebody
    put its folder there: it is a draft, whatever it was. One whose folder is damaged gets none.

    Args:
        recalled: asked of each version that has no row here yet.

    Raises:
        UpstreamError: `recalled` cannot say.
    """
    for installed in registry.shipped():
        try:
            _Seeding(store, installed, recalled).run()
        except ConflictError:
            # A second worker that starts at the same time did it.
            _Seeding(store, installed, recalled).run()
    for service, version in sorted(registry.site_versions()):
        if store.version(service, version) is None:
            _take_up(store, registry, service, version, recalled)
    tell(store, queue)


def _take_up(
    store: ModelStore, registry: Registry, service: str, version: str, recalled: Recalled
) -> None:
    try:
        installed = registry.find(service, version)
        require_usable(inspect_folder(installed.folder, sys.maxsize))
        digest = digest_of(installed.folder)
    except (CallerError, SettingsError, OSError) as error:
        code = getattr(error, "code", "model-files-changed")
        log_event(log, "model-folder-damaged", service=service, version=version, code=code)
        return
    state = State.RECALLED if recalled(installed.manifest.identity()) else State.DRAFT
    try:
        store.add(new_row(installed, digest, state), _cause("seed"))
    except ConflictError:
        # A second worker was quicker, or it is being installed.
        return
    log_event(log, "model-taken-up", service=service, version=version, state=state.value)


@dataclass(frozen=True, slots=True)
class _Seeding:
    store: ModelStore
    installed: Installed
    recalled: Recalled

    def run(self) -> None:
        identity = self.installed.manifest.identity()
        rows = {row.version: row for row in self.store.versions(identity.id)}
        present = rows.pop(identity.version, None)
        # Shipped before, and its code is gone.
        gone = [row for row in rows.values() if row.shipped and row.state in _STANDING]
        heir = any(row.state == State.ACTIVE for row in gone)
        moves = [
            Move(row.service, row.version, row.state, State.RETIRED, reason="its code is gone")
            for row in gone
        ]
        cause = _cause("upgrade" if gone else "seed")
        if present is None:
            state = self._first_state(heir, known=bool(rows))
            _say(self.store.add(self._row(state), cause, moves))
            return
        self._describe(present)
        if heir and State(present.state) is not State.RECALLED:
            moves.append(Move(present.service, present.version, present.state, State.ACTIVE))
        if moves:
            _say(self.store.move(moves, cause))

    def _first_state(self, heir: bool, known: bool) -> State:
        """Where a version begins that was not here before.

        Args:
            heir: its predecessor was active.
            known: the service has other versions here, so people have decided about it.
        """
        if self.recalled(self.installed.manifest.identity()):
            return State.RECALLED
        switched_on = self.installed.manifest.switched_on
        return State.ACTIVE if heir or (switched_on and not known) else State.DRAFT

    def _row(self, state: State) -> ModelVersion:
        return new_row(self.installed, digest_of(self.installed.folder), state)

    def _describe(self, present: ModelVersion) -> None:
        """Follow what the software ships under the same version, such as corrected code."""
        row = self._row(State(present.state))
        wanted = {
            name: getattr(row, name)
            for name in ("settings_hash", "title", "folder", "digest", "shipped")
            if getattr(row, name) != getattr(present, name)
        }
        if wanted:
            self.store.describe(present.service, present.version, **wanted)


def _say(events: list[ModelEvent]) -> None:
    log_event(log, "model-changed", service=events[-1].service, operation=events[-1].action)


def _cause(action: str) -> Cause:
    return Cause(action, SOFTWARE.who, SOFTWARE.how, caller=SOFTWARE.caller)


#: States that end when the code of a version is gone.
_STANDING = AT_WORK | {State.DRAFT}
