"""Every read and write of our own tables, as functions of what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel, col, select

from fhir_ext.store.tables import (
    ArchiveStudy,
    Cursor,
    Lease,
    ReviewOutcome,
    ServiceOutcome,
    StudyRun,
)


def now() -> datetime:
    return datetime.now(UTC)


class Repository:
    """Access to our tables; safe to share between threads.

    Args:
        engine: from `fhir_ext.store.engine.create_store_engine`.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def _session(self) -> Session:
        return Session(self.engine, expire_on_commit=False)

    def _upsert(
        self, table: type[SQLModel], values: dict[str, Any], keep: Iterable[str] = ()
    ) -> None:
        """Insert, or update every column that is neither key nor in `keep`."""
        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        sql_table = table.__table__  # type: ignore[attr-defined]
        keys = [column.name for column in sql_table.primary_key]
        statement = insert(sql_table).values(**values)
        kept = {*keys, *keep}
        changes = {name: statement.excluded[name] for name in values if name not in kept}
        with self.engine.begin() as connection:
            if changes:
                connection.execute(
                    statement.on_conflict_do_update(index_elements=keys, set_=changes)
                )
            else:
                connection.execute(statement.on_conflict_do_nothing(index_elements=keys))

    # Cursors

    def cursor(self, name: str) -> str | None:
        with self._session() as session:
            row = session.get(Cursor, name)
            return row.value if row else None

    def set_cursor(self, name: str, value: str) -> None:
        self._upsert(Cursor, {"name": name, "value": value})

    # Leases

    def acquire_lease(self, name: str, holder: str, ttl: timedelta) -> bool:
        """Take or renew a lease; True when `holder` has it until `ttl` from now.

        One conditional statement, so that of two contenders exactly one wins.
        """
        moment = now()
        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        lease = Lease.__table__  # type: ignore[attr-defined]
        wanted = insert(lease).values(name=name, holder=holder, expires_at=moment + ttl)
        statement = wanted.on_conflict_do_update(
            index_elements=["name"],
            set_={"holder": wanted.excluded.holder, "expires_at": wanted.excluded.expires_at},
            where=sa.or_(lease.c.holder == holder, lease.c.expires_at < moment),
        ).returning(lease.c.holder)
        with self.engine.begin() as connection:
            return connection.execute(statement).first() is not None

    def release_lease(self, name: str, holder: str) -> None:
        lease = Lease.__table__  # type: ignore[attr-defined]
        with self.engine.begin() as connection:
            connection.execute(
                sa.delete(lease).where(lease.c.name == name, lease.c.holder == holder)
            )

    def leases(self, prefix: str) -> Sequence[Lease]:
        with self._session() as session:
            return session.exec(select(Lease).where(col(Lease.name).startswith(prefix))).all()

    def expired_leases(self, prefix: str) -> Sequence[Lease]:
        return [lease for lease in self.leases(prefix) if lease.expires_at < now()]

    # Archive studies

    def archive_study(self, study_instance_uid: str) -> ArchiveStudy | None:
        with self._session() as session:
            return session.get(ArchiveStudy, study_instance_uid)

    def archive_studies(self, *states: str, limit: int = 1000) -> Sequence[ArchiveStudy]:
        with self._session() as session:
            query = select(ArchiveStudy).order_by(col(ArchiveStudy.changed_at)).limit(limit)
            if states:
                query = query.where(col(ArchiveStudy.state).in_(states))
            return session.exec(query).all()

    def mark_study_changed(self, study_instance_uid: str) -> None:
        """A study is new or grew: start its quiet timer again."""
        self._upsert(
            ArchiveStudy,
            {
                "study_instance_uid": study_instance_uid,
                "state": "settling",
                "instances": 0,
                "changed_at": now(),
            },
            keep=("instances",),
        )

    def update_archive_study(self, study_instance_uid: str, **changes: Any) -> None:
        table = ArchiveStudy.__table__  # type: ignore[attr-defined]
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.study_instance_uid == study_instance_uid)
                .values(**changes)
            )

    def settle_archive_study(
        self, study_instance_uid: str, seen_changed_at: datetime, **changes: Any
    ) -> bool:
        """Like `update_archive_study`, unless the study grew since it was looked at."""
        table = ArchiveStudy.__table__  # type: ignore[attr-defined]
        with self.engine.begin() as connection:
            result = connection.execute(
                sa.update(table)
                .where(
                    table.c.study_instance_uid == study_instance_uid,
                    table.c.changed_at == seen_changed_at,
                )
                .values(**changes)
            )
            return result.rowcount == 1

    # Runs

    def run(self, workflow_id: str) -> StudyRun | None:
        with self._session() as session:
            return session.get(StudyRun, workflow_id)

    def runs(self, *states: str, limit: int = 200) -> Sequence[StudyRun]:
        """Newest first."""
        with self._session() as session:
            query = select(StudyRun).order_by(col(StudyRun.queued_at).desc()).limit(limit)
            if states:
                query = query.where(col(StudyRun.state).in_(states))
            return session.exec(query).all()

    def record_run(
        self, workflow_id: str, imaging_study_id: str, version: str, **values: Any
    ) -> None:
        """Insert or change the row of a run; the first `queued_at` is kept."""
        self._upsert(
            StudyRun,
            {
                "workflow_id": workflow_id,
                "imaging_study_id": imaging_study_id,
                "version": version,
                "state": "queued",
                "step": "",
                "queued_at": now(),
                **values,
            },
            keep=("queued_at",),
        )

    def count_runs(self) -> dict[str, int]:
        with self.engine.connect() as connection:
            table = StudyRun.__table__  # type: ignore[attr-defined]
            rows = connection.execute(
                sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
            )
            return {state: int(count) for state, count in rows}

    def delete_runs_before(self, moment: datetime) -> int:
        table = StudyRun.__table__  # type: ignore[attr-defined]
        with self.engine.begin() as connection:
            return connection.execute(sa.delete(table).where(table.c.finished_at < moment)).rowcount

    # Outcomes

    def record_outcome(self, outcome: ServiceOutcome) -> None:
        self._upsert(ServiceOutcome, outcome.model_dump())

    def outcomes(
        self, study_instance_uid: str | None = None, limit: int = 1000
    ) -> Sequence[ServiceOutcome]:
        """Newest first; all studies, or one."""
        with self._session() as session:
            query = (
                select(ServiceOutcome).order_by(col(ServiceOutcome.updated_at).desc()).limit(limit)
            )
            if study_instance_uid:
                query = query.where(ServiceOutcome.study_instance_uid == study_instance_uid)
            return session.exec(query).all()

    # Reviews

    def record_review(self, outcome: ReviewOutcome) -> None:
        """Insert, or change the row of the same Task."""
        self._upsert(ReviewOutcome, outcome.model_dump())

    def review(self, task_id: str) -> ReviewOutcome | None:
        with self._session() as session:
            return session.get(ReviewOutcome, task_id)

    def reviews(self, model_id: str | None = None, limit: int = 10_000) -> Sequence[ReviewOutcome]:
        """Newest first; all models, or one."""
        with self._session() as session:
            query = (
                select(ReviewOutcome).order_by(col(ReviewOutcome.decided_at).desc()).limit(limit)
            )
            if model_id:
                query = query.where(ReviewOutcome.model_id == model_id)
            return session.exec(query).all()
