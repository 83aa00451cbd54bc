"""Every read and write of the model versions and of what was done with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from fhir_ext.errors import ConflictError
from fhir_ext.store.repository import now
from fhir_ext.store.tables import ModelEvent, ModelVersion


@dataclass(frozen=True, slots=True)
class Move:
    """A version goes from one state to another.

    Attributes:
        service, version: which.
        expected: the state that it must still be in.
        state: the new one; the same where only the share changes.
        share: of a canary; 0 else.
        reason: in words, where it is not that of the whole change.
    """

    service: str
    version: str
    expected: str
    state: str
    share: float = 0.0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """Why rows change; becomes the rows of `ModelEvent`.

    Attributes:
        action: what was done.
        who, how: by whom, by which way.
        reason: in words, where one was given.
        caller: what else the audit says of who asked; JSON, kept until it is told.
    """

    action: str
    who: str
    how: str
    reason: str | None = None
    caller: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CasesRun:
    """What a run of a version's cases found.

    Attributes:
        passed: whether all of them hold.
        digest: over the version's files as they were.
        software: version of this software.
        report: JSON.
    """

    passed: bool
    digest: str
    software: str
    report: Mapping[str, Any] = field(default_factory=dict)


class ModelStore:
    """Access to the rows of model versions; safe to share between threads.

    Args:
        engine: from `fhir_ext.store.engine.create_store_engine`.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def versions(self, service: str | None = None) -> Sequence[ModelVersion]:
        """Sorted by service, and by when they were installed."""
        with self._session() as session:
            query = select(ModelVersion).order_by(
                col(ModelVersion.service), col(ModelVersion.installed_at), col(ModelVersion.version)
            )
            if service is not None:
                query = query.where(ModelVersion.service == service)
            return session.exec(query).all()

    def version(self, service: str, version: str) -> ModelVersion | None:
        with self._session() as session:
            return session.get(ModelVersion, (service, version))

    def states(self) -> Sequence[tuple[str, str, str, float]]:
        """(service, version, state, share) of every version; one query, no large columns."""
        table = ModelVersion.__table__  # type: ignore[attr-defined]
        query = sa.select(table.c.service, table.c.version, table.c.state, table.c.share)
        with self.engine.connect() as connection:
            return [
                (row.service, row.version, row.state, row.share)
                for row in connection.execute(query.order_by(table.c.service, table.c.version))
            ]

    def add(self, row: ModelVersion, cause: Cause, moves: Iterable[Move] = ()) -> list[ModelEvent]:
        """Insert a version, after others were moved out of its way.

        Raises:
            ConflictError: `model-changed`: somebody else was quicker.
        """
        moment = now()
        with self._session() as session:
            events = self._move(session, moves, cause, moment)
            session.add(row)
            events.append(_event(row, None, cause, moment))
            session.add(events[-1])
            self._commit(session)
            return events

    def move(self, moves: Iterable[Move], cause: Cause) -> list[ModelEvent]:
        """Move versions, all of them or none, in this order.

        Returns:
            The rows that say so, in the order of the moves.

        Raises:
            ConflictError: `model-changed`: one is not in the expected state any more, or
                another version of its service took the place.
        """
        moment = now()
        with self._session() as session:
            events = self._move(session, moves, cause, moment)
            self._commit(session)
            return events

    def record_test(self, service: str, version: str, tested: CasesRun, cause: Cause) -> ModelEvent:
        """Keep what a run of the cases found, and that it was run."""
        with self._session() as session:
            row = session.get_one(ModelVersion, (service, version))
            row.tested_at, row.test_passed = now(), tested.passed
            row.tested_digest, row.tested_software = tested.digest, tested.software
            row.test_report = dict(tested.report)
            event = _event(row, row.state, cause, now())
            session.add_all((row, event))
            self._commit(session)
            return event

    def describe(self, service: str, version: str, **values: Any) -> None:
        """Change what is known of a version's files: title, digest, settings_hash, folder."""
        table = ModelVersion.__table__  # type: ignore[attr-defined]
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.service == service, table.c.version == version)
                .values(**values)
            )

    def events(
        self, service: str | None = None, version: str | None = None, limit: int = 1000
    ) -> Sequence[ModelEvent]:
        """Newest first."""
        with self._session() as session:
            query = select(ModelEvent).order_by(col(ModelEvent.id).desc()).limit(limit)
            if service is not None:
                query = query.where(ModelEvent.service == service)
            if version is not None:
                query = query.where(ModelEvent.version == version)
            return session.exec(query).all()

    def untold(self) -> Sequence[ModelEvent]:
        """What the audit has not been told of yet, oldest first."""
        with self._session() as session:
            query = select(ModelEvent).where(col(ModelEvent.untold).is_not(sa.null()))
            return session.exec(query.order_by(col(ModelEvent.id))).all()

    def mark_told(self, events: Iterable[ModelEvent]) -> None:
        """The audit of these is in the queue."""
        table = ModelEvent.__table__  # type: ignore[attr-defined]
        ids = [event.id for event in events]
        with self.engine.begin() as connection:
            connection.execute(sa.update(table).where(table.c.id.in_(ids)).values(untold=sa.null()))

    def _session(self) -> Session:
        return Session(self.engine, expire_on_commit=False)

    def _move(
        self, session: Session, moves: Iterable[Move], cause: Cause, moment: datetime
    ) -> list[ModelEvent]:
        table = ModelVersion.__table__  # type: ignore[attr-defined]
        events = []
        for move in moves:
            # One conditional statement: what was looked at before may have changed since.
            changed = (
                sa.update(table)
                .where(
                    table.c.service == move.service,
                    table.c.version == move.version,
                    table.c.state == move.expected,
                )
                .values(state=move.state, share=move.share, changed_at=moment)
            )
            try:
                count = session.connection().execute(changed).rowcount
            except IntegrityError as error:
                raise _changed() from error
            if count != 1:
                raise _changed()
            row = session.get_one(ModelVersion, (move.service, move.version))
            why = replace(cause, reason=move.reason) if move.reason else cause
            events.append(_event(row, move.expected, why, moment))
            session.add(events[-1])
        return events

    def _commit(self, session: Session) -> None:
        try:
            session.commit()
        except IntegrityError as error:
            raise _changed() from error


def _event(row: ModelVersion, from_state: str | None, cause: Cause, moment: datetime) -> ModelEvent:
    return ModelEvent(
        at=moment,
        service=row.service,
        version=row.version,
        action=cause.action,
        from_state=from_state,
        to_state=row.state,
        share=row.share,
        who=cause.who,
        how=cause.how,
        reason=cause.reason,
        digest=row.digest,
        untold=dict(cause.caller),
    )


def _changed() -> ConflictError:
    return ConflictError(
        "somebody else changed a version of this service meanwhile", code="model-changed"
    )
