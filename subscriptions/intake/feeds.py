"""Where the bridge hears of changes: Orthanc's change feed, or QIDO polling.

Both only say "this study changed"; neither is trusted to say when a study is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Protocol

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.clients.orthanc import OrthancChanges
from fhir_ext.logs import event, get_logger
from fhir_ext.store.repository import Repository, now

log = get_logger(__name__)


class ChangeFeed(Protocol):
    """A source of Study Instance UIDs that may have changed since the last call."""

    def compare_all(self) -> Iterator[str]:
        """Studies whose size differs from what was bridged; called when a worker starts."""
        ...

    def changed(self) -> Iterator[str]:
        """Studies that changed since the last call; advances the stored cursor."""
        ...


@dataclass(slots=True)
class OrthancFeed:
    """`/changes` of Orthanc with the cursor in our database."""

    changes: OrthancChanges
    repository: Repository
    cursor: str = "archive/changes"

    def compare_all(self) -> Iterator[str]:
        for study in self.changes.study_list():
            row = self.repository.archive_study(study.study_instance_uid)
            if row is None or row.archive_mark != study.last_update:
                yield study.study_instance_uid
                self.repository.update_archive_study(
                    study.study_instance_uid, archive_mark=study.last_update
                )

    def changed(self) -> Iterator[str]:
        since = int(self.repository.cursor(self.cursor) or 0)
        while True:
            page = self.changes.changes(since)
            if page.reset:
                # A wiped store counts from one again; our cursor would wait for ever.
                event(log, "archive-was-reset")
                since = 0
                self.repository.set_cursor(self.cursor, "0")
                yield from self.compare_all()
                return
            seen: set[str] = set()
            for change in page.entries:
                uid = change.study_instance_uid
                if uid and uid not in seen:
                    seen.add(uid)
                    yield uid
            if page.last > since:
                # After the yields: a study is marked before the cursor passes its entry.
                since = page.last
                self.repository.set_cursor(self.cursor, str(since))
            if page.done:
                return


@dataclass(slots=True)
class QidoFeed:
    """Polls QIDO-RS by study date and compares instance counts, for archives without a feed.

    A study older than `days` that grows is found by `fhir-ext reconcile --since`.
    """

    archive: DicomWebClient
    repository: Repository
    days: int = 3
    _seen: dict[str, int] = field(default_factory=dict)

    def compare_all(self) -> Iterator[str]:
        return self.changed()

    def changed(self) -> Iterator[str]:
        today = now().date()
        yield from self.since(today - timedelta(days=self.days), today + timedelta(days=1))

    def since(self, first: date, last: date) -> Iterator[str]:
        """Studies of a range of study dates whose instance count we have not seen yet."""
        for study in self.archive.search_studies(first, last):
            uid, count = study.study_instance_uid, study.instance_count
            if self._seen.get(uid) == count:
                continue
            row = self.repository.archive_study(uid)
            self._seen[uid] = count
            if row is None or row.archive_mark != f"count:{count}":
                yield uid
                self.repository.update_archive_study(uid, archive_mark=f"count:{count}")
