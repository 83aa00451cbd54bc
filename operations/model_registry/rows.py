"""What callers see of model versions and of their history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fhir_ext.results import ModelIdentity
from fhir_ext.store.repository import now
from fhir_ext.store.tables import ModelEvent, ModelVersion
from models.lifecycle import State
from models.registry import Installed

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One model version and where it stands.

    Attributes:
        service, version, title: which.
        state, share: see `models.lifecycle`.
        shipped: comes with this software, rather than from the site.
        settings_hash: of its manifest.
        digest: sha256 over its files as they were installed.
        installed_at, changed_at: when; the latter is the last change of state.
        tested_at, test_passed, tested_software: the last run of its cases; None without one.
        tested_digest: over the files as that run saw them.
        test_report: what that run found.
    """

    service: str
    version: str
    title: str
    state: State
    share: float
    shipped: bool
    settings_hash: str
    digest: str
    installed_at: datetime
    changed_at: datetime
    tested_at: datetime | None = None
    test_passed: bool | None = None
    tested_digest: str | None = None
    tested_software: str | None = None
    test_report: Mapping[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, row: ModelVersion) -> VersionRow:
        values = {name: getattr(row, name) for name in cls.__slots__}
        return cls(**{**values, "state": State(row.state)})

    @property
    def identity(self) -> ModelIdentity:
        """What its Device is known by."""
        return ModelIdentity(self.service, self.version, self.title, self.settings_hash)

    def as_json(self) -> Json:
        """Everything but the report of the test."""
        return {
            "service": self.service,
            "version": self.version,
            "title": self.title,
            "state": self.state.value,
            **({"share": self.share} if self.state is State.CANARY else {}),
            "shipped": self.shipped,
            "settings_hash": self.settings_hash,
            "digest": self.digest,
            "installed_at": self.installed_at.isoformat(),
            "changed_at": self.changed_at.isoformat(),
            "test": self._test(),
        }

    def _test(self) -> Json | None:
        if self.tested_at is None:
            return None
        return {
            "at": self.tested_at.isoformat(),
            "passed": self.test_passed,
            "software": self.tested_software,
            "digest": self.tested_digest,
        }


def new_row(installed: Installed, digest: str, state: State) -> ModelVersion:
    """The row of a version that has none yet.

    Args:
        digest: over its files.
    """
    identity, moment = installed.manifest.identity(), now()
    return ModelVersion(
        service=identity.id,
        version=identity.version,
        settings_hash=identity.settings_hash,
        title=identity.title,
        state=state,
        shipped=installed.shipped,
        folder=str(installed.folder),
        digest=digest,
        installed_at=moment,
        changed_at=moment,
    )


def event_json(event: ModelEvent) -> Json:
    """One row of the history."""
    shown = {
        "at": event.at.isoformat(),
        "service": event.service,
        "version": event.version,
        "action": event.action,
        "from": event.from_state,
        "to": event.to_state,
        "share": event.share if event.to_state == State.CANARY else None,
        "who": event.who,
        "how": event.how,
        "reason": event.reason,
    }
    return {name: value for name, value in shown.items() if value is not None}
