"""Reads and writes of `ModelSample` and `ModelAlert`, as functions of what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from fhir_ext.store.sample_tables import ModelAlert, ModelSample

#: Roles whose results go into the record.
WRITING = ("active", "canary")


@dataclass(frozen=True, slots=True, order=True)
class SampledVersion:
    """One model version that was at work; the same version with other settings is another."""

    service: str
    version: str
    settings_hash: str


class SampleStore:
    """Access to the tables of monitoring; safe to share between threads.

    Args:
        engine: from `fhir_ext.store.engine.create_store_engine`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _session(self) -> Session:
        return Session(self._engine, expire_on_commit=False)

    def record(self, samples: Iterable[ModelSample]) -> None:
        """Keep samples, all or none; the same inference key and role changes the same row."""
        with self._session() as session:
            for sample in samples:
                session.merge(sample)
            session.commit()

    def versions(
        self,
        since: datetime,
        roles: Sequence[str] = WRITING,
        service: str | None = None,
    ) -> Sequence[SampledVersion]:
        """Versions with samples in these roles since a moment, sorted."""
        names = (ModelSample.service, ModelSample.version, ModelSample.settings_hash)
        columns = [col(name) for name in names]
        query = (
            sa.select(*columns)
            .where(col(ModelSample.at) >= since, col(ModelSample.role).in_(roles))
            .distinct()
            .order_by(*columns)
        )
        if service is not None:
            query = query.where(col(ModelSample.service) == service)
        with self._engine.connect() as connection:
            return [SampledVersion(*map(str, row)) for row in connection.execute(query)]

    def first(self, version: SampledVersion) -> datetime | None:
        """When the version made its first result that is still kept."""
        with self._session() as session:
            query = _of(version).order_by(col(ModelSample.at)).limit(1)
            found = session.exec(query).first()
            return found.at if found else None

    def between(
        self, version: SampledVersion, begin: datetime, end: datetime
    ) -> Sequence[ModelSample]:
        """One sample for each set of images from `begin` to before `end`.

        What was looked at again, since its study grew or in another role, counts once, as it
        was seen last.
        """
        with self._session() as session:
            query = (
                _of(version)
                .where(col(ModelSample.at) >= begin, col(ModelSample.at) < end)
                .order_by(col(ModelSample.at))
            )
            return list({row.pair: row for row in session.exec(query)}.values())

    def in_roles(
        self, version: SampledVersion, roles: Sequence[str], begin: datetime
    ) -> Sequence[ModelSample]:
        """Every sample since a moment that was made in one of these roles."""
        with self._session() as session:
            query = _of(version).where(
                col(ModelSample.at) >= begin, col(ModelSample.role).in_(roles)
            )
            return session.exec(query).all()

    def delete_before(self, moment: datetime) -> int:
        """Forget samples and alerts that are older; returns how many samples."""
        with self._session() as session:
            session.exec(sa.delete(ModelAlert).where(col(ModelAlert.at) < moment))
            gone = session.exec(sa.delete(ModelSample).where(col(ModelSample.at) < moment))
            session.commit()
            return int(gone.rowcount)

    def add_alert(self, alert: ModelAlert) -> bool:
        """Keep an alert; False when one of its id is known, which stays as it is."""
        with self._session() as session:
            if session.get(ModelAlert, alert.id) is not None:
                return False
            session.add(alert)
            session.commit()
            return True

    def alert(self, alert_id: str) -> ModelAlert | None:
        with self._session() as session:
            return session.get(ModelAlert, alert_id)

    def alerts(self, since: datetime) -> Sequence[ModelAlert]:
        """Alerts raised since a moment, newest first."""
        with self._session() as session:
            query = (
                select(ModelAlert)
                .where(col(ModelAlert.at) >= since)
                .order_by(col(ModelAlert.at).desc())
            )
            return session.exec(query).all()


def _of(version: SampledVersion) -> SelectOfScalar[ModelSample]:
    return select(ModelSample).where(
        ModelSample.service == version.service,
        ModelSample.version == version.version,
        ModelSample.settings_hash == version.settings_hash,
    )
