"""Tables of our own database: what neither HAPI nor the archive can hold.

No clinical data: no names, no numbers from images. Study Instance UIDs are here because
the work is about studies; lose the whole database and the sweep and the archive bridge
rebuild it from HAPI and the archive.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Column, DateTime, Dialect, Index, text
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel


class Instant(TypeDecorator[datetime]):
    """Aware datetimes in UTC on both databases; SQLite itself forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _instant(*, index: bool = False, nullable: bool = False) -> Any:
    return Field(sa_column=Column(Instant(), index=index, nullable=nullable))


class Cursor(SQLModel, table=True):
    """How far a feed has been read: archive changes, FHIR `_lastUpdated` sweeps."""

    __tablename__ = "cursor"

    name: str = Field(primary_key=True)
    value: str


class Lease(SQLModel, table=True):
    """Who may do a thing that only one worker does, until when."""

    __tablename__ = "lease"

    name: str = Field(primary_key=True)
    holder: str
    expires_at: datetime = _instant()


class ArchiveStudy(SQLModel, table=True):
    """What the archive bridge knows of one study.

    `state` is `settling` (growing, or not yet bridged), `bridged`, `unmatched` (no patient:
    the worklist), `ignored` (nothing in it that we announce) or `failed`.
    """

    __tablename__ = "archive_study"

    study_instance_uid: str = Field(primary_key=True)
    state: str = Field(index=True)
    reason: str | None = None
    instances: int = 0
    archive_mark: str | None = None
    patient_id: str | None = None
    changed_at: datetime = _instant()
    bridged_at: datetime | None = _instant(nullable=True)


class StudyRun(SQLModel, table=True):
    """One piece of work of the queue as people see it; the key is the workflow id.

    `state` is `queued`, `running`, `waiting`, `done`, `parked` or `nothing-to-do`.
    """

    __tablename__ = "study_run"

    workflow_id: str = Field(primary_key=True)
    imaging_study_id: str = Field(index=True)
    version: str
    study_instance_uid: str | None = Field(default=None, index=True)
    state: str = Field(index=True)
    step: str = ""
    reason: str | None = None
    detail: str | None = None
    queued_at: datetime = _instant(index=True)
    started_at: datetime | None = _instant(nullable=True)
    finished_at: datetime | None = _instant(nullable=True)
    step_seconds: dict[str, float] = Field(default_factory=dict, sa_column=Column(JSON))


class ServiceOutcome(SQLModel, table=True):
    """What one service said of one series: `done`, `refused`, `not-applied` or `failed`.

    Numbers are read from HAPI by `panel_id`; they are not copied here.
    """

    __tablename__ = "service_outcome"

    imaging_study_id: str = Field(primary_key=True)
    series_instance_uid: str = Field(primary_key=True)
    service: str = Field(primary_key=True)
    study_instance_uid: str = Field(index=True)
    workflow_id: str
    status: str = Field(index=True)
    reasons: list[dict[str, str]] = Field(default_factory=list, sa_column=Column(JSON))
    panel_id: str | None = None
    inference_key: str | None = None
    updated_at: datetime = _instant(index=True)


class ReviewOutcome(SQLModel, table=True):
    """What a human decided about one result, for counts per model version.

    `differences` are `{name, region, difference}` of changed numbers: machine minus human,
    null where the machine gave none. The numbers themselves are in HAPI, from whose Tasks
    every row can be made again.
    """

    __tablename__ = "review_outcome"

    task_id: str = Field(primary_key=True)
    service: str
    model_id: str = Field(index=True)
    model_version: str
    settings_hash: str
    outcome: str
    differences: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON))
    decided_at: datetime = _instant(index=True)


def _one_per_service(state: str) -> Index:
    """At most one version of a service in a state, whoever writes into the table."""
    where = text(f"state = '{state}'")
    return Index(
        f"model_version_one_{state}",
        "service",
        unique=True,
        sqlite_where=where,
        postgresql_where=where,
    )


class ModelVersion(SQLModel, table=True):
    """One installed version of a service and where it stands; see `models.lifecycle.State`.

    `digest` is over all files of its folder as they were when it was installed, and
    `tested_digest` as they were when its cases were run last; `settings_hash` is that of its
    manifest. `share` is 0 but for a canary.
    """

    __tablename__ = "model_version"
    __table_args__ = (_one_per_service("active"), _one_per_service("canary"))

    service: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    settings_hash: str
    title: str
    state: str = Field(index=True)
    share: float = 0.0
    shipped: bool = False
    folder: str
    digest: str
    installed_at: datetime = _instant()
    changed_at: datetime = _instant()
    tested_at: datetime | None = _instant(nullable=True)
    test_passed: bool | None = None
    tested_digest: str | None = None
    tested_software: str | None = None
    test_report: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))


class ModelEvent(SQLModel, table=True):
    """One thing that was done with a model version; rows are only added.

    `action` is a name of `model_registry.rights`, or `seed` and `upgrade` by the software;
    `how` is `cli`, `rest` or `software`; `who` is an account of the machine or of the issuer.
    `untold` is what the audit says of the caller beside that, until its AuditEvent is in the
    queue; null from then on.
    """

    __tablename__ = "model_event"

    id: int | None = Field(default=None, primary_key=True)
    at: datetime = _instant(index=True)
    service: str = Field(index=True)
    version: str
    action: str
    from_state: str | None = None
    to_state: str
    share: float = 0.0
    who: str
    how: str
    reason: str | None = None
    digest: str
    untold: dict[str, Any] | None = Field(
        default=None, sa_column=Column(JSON(none_as_null=True), nullable=True)
    )
