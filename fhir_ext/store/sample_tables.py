"""Tables of monitoring: what each model version said of what, and the alerts that followed.

Unlike `fhir_ext.store.tables` these hold numbers from images, since neither HAPI (which never
sees a shadow) nor the archive can answer what a version said over months. They hold no name,
no identifier and no UID: a row is known by its inference key, and pairs of versions that saw
the same images by a digest of their UIDs.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from sqlalchemy import JSON, Column, Index
from sqlmodel import Field, SQLModel

from fhir_ext.store.tables import Instant

#: What is kept of detections, as `name/count` and, where there is one, `name/top-score`.
COUNT: Final = "count"
TOP_SCORE: Final = "top-score"


class ModelSample(SQLModel, table=True):
    """One result of one model version.

    `role` is `active`, `canary` or `shadow`; `status` is `done` or `refused`. `numbers` and
    `categories` go from `name/region` to what stands; `rules` are those by which something
    was withheld. `mix` goes from a fact about the images (`operations.analyze.facts`) to its
    value. `result` is the whole result of a shadow, with digests in place of its UIDs.
    """

    __tablename__ = "model_sample"
    __table_args__ = (Index("model_sample_of_version", "service", "version", "at"),)

    inference_key: str = Field(primary_key=True)
    role: str = Field(primary_key=True)
    pair: str = Field(index=True)
    service: str
    version: str
    settings_hash: str
    at: datetime = Field(sa_column=Column(Instant(), index=True, nullable=False))
    status: str
    rules: list[str] = Field(default_factory=list, sa_column=Column(JSON))
    numbers: dict[str, float] = Field(default_factory=dict, sa_column=Column(JSON))
    categories: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON))
    mix: dict[str, str] = Field(default_factory=dict, sa_column=Column(JSON))
    latency_seconds: float | None = None
    result: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))


class ModelAlert(SQLModel, table=True):
    """A change of one kind that was found for one version in one period.

    `id` is that of the DetectedIssue. `findings` are sentences about what changed; `title` is
    the version's, for its Device.
    """

    __tablename__ = "model_alert"

    id: str = Field(primary_key=True)
    service: str
    version: str
    settings_hash: str
    title: str
    kind: str
    severity: str
    findings: list[dict[str, Any]] = Field(default_factory=list, sa_column=Column(JSON))
    reference_from: datetime = Field(sa_column=Column(Instant(), nullable=False))
    reference_to: datetime = Field(sa_column=Column(Instant(), nullable=False))
    window_from: datetime = Field(sa_column=Column(Instant(), nullable=False))
    window_to: datetime = Field(sa_column=Column(Instant(), nullable=False))
    at: datetime = Field(sa_column=Column(Instant(), index=True, nullable=False))
