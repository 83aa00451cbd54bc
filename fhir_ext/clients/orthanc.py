"""Orthanc's own REST interface: its change feed, which DICOMweb does not have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal, cast

from fhir_ext.clients.http import build_session, transport_errors
from fhir_ext.errors import ForbiddenError, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from fhir_ext.settings import ArchiveSettings

Json = dict[str, Any]
Ids = AbstractSet[str]
Level = Literal["Patient", "Study", "Series", "Instance"]

#: Entries of one page of changes; Orthanc's own default is 100.
CHANGES_PAGE = 1000
#: Studies of one page of the list.
STUDIES_PAGE = 200
#: Series and studies that are remembered before all are forgotten; some 300 bytes each.
REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the change feed.

    Attributes:
        seq: sequence number, growing over restarts of Orthanc.
        kind: Orthanc's ChangeType, for example `NewInstance` or `StableStudy`.
        level: what changed.
        orthanc_id: Orthanc's id of it; not a DICOM UID.
        study_instance_uid: Study Instance UID (0020,000D) of the study that it belongs to;
            None for a patient, and for what was deleted before it could be looked up.
        series_instance_uid: Series Instance UID (0020,000E) of a series or instance; None
            for the others.
    """

    seq: int
    kind: str
    level: Level
    orthanc_id: str
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None


@dataclass(frozen=True, slots=True)
class ChangePage:
    """The entries after a cursor.

    Attributes:
        entries: ascending by `seq`.
        last: cursor for the next call.
        done: whether nothing follows at this moment.
        reset: the store is younger than the cursor, because it was wiped or replaced; the
            next call starts from 0 and all studies must be compared. A new store that has
            already counted past the cursor cannot be told apart.
    """

    entries: tuple[Change, ...]
    last: int
    done: bool
    reset: bool = False


@dataclass(frozen=True, slots=True)
class OrthancStudy:
    """One study of the store.

    Attributes:
        orthanc_id: Orthanc's id of it.
        study_instance_uid: Study Instance UID (0020,000D).
        last_update: when its last instance arrived, `YYYYMMDDThhmmss`; deleting instances
            leaves it as it is.
        instance_count: number of instances; None where it was not asked for.
    """

    orthanc_id: str
    study_instance_uid: str
    last_update: str
    instance_count: int | None = None


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What the store holds; the size in bytes as stored."""

    patients: int
    studies: int
    series: int
    instances: int
    disk_bytes: int


class OrthancChanges:
    """What one Orthanc (1.9.4 or newer) says of its content; for one thread at a time.

    Orthanc's ids are hashes of the DICOM identifiers, so what an id stands for never
    changes and is remembered. Every method raises `UpstreamError` (and children) when the
    archive is down, slow, refuses our credentials or is not an Orthanc.

    Args:
        settings: `orthanc_url` must be set.
    """

    def __init__(self, settings: ArchiveSettings) -> None:
        if settings.orthanc_url is None:
            raise ValueError("archive.orthanc_url is not set")
        self._root = settings.orthanc_url.rstrip("/")
        self._session = build_session(settings.auth, settings.timeout)
        #: Orthanc id of a study to its Study Instance UID.
        self._studies: dict[str, str] = {}
        #: Orthanc id of a series to (Orthanc id of its study, Series Instance UID).
        self._series: dict[str, tuple[str, str]] = {}

    def changes(self, since: int, limit: int = CHANGES_PAGE) -> ChangePage:
        """The entries with a sequence number above `since`, at most `limit`.

        Deletions are not among them: Orthanc drops all entries of what is gone. A page
        costs at most three requests, however many instances are new.
        """
        answer = self._get("/changes", since=since, limit=limit)
        with _expected():
            last, done = int(answer["Last"]), bool(answer["Done"])
            if last < since:
                return ChangePage((), last, done=True, reset=True)
            return ChangePage(self._entries(answer["Changes"]), last, done)

    def last_seq(self) -> int:
        """Sequence number of the newest change; 0 in a store that never had one."""
        answer = self._get("/changes", last="")
        with _expected():
            return int(answer["Last"])

    def study_list(self, *, counts: bool = False) -> Iterator[OrthancStudy]:
        """All studies, a page at a time, in no order.

        Args:
            counts: also the instance counts, which cost as much as the list for each ten
                instances of a study.
        """
        since = 0
        while rows := self._get("/studies", expand="", since=since, limit=STUDIES_PAGE):
            with _expected():
                studies = self._study_page(rows, counts=counts)
            yield from studies
            since += len(studies)

    def statistics(self) -> StoreStatistics:
        answer = self._get("/statistics")
        with _expected():
            return StoreStatistics(
                patients=int(answer["CountPatients"]),
                studies=int(answer["CountStudies"]),
                series=int(answer["CountSeries"]),
                instances=int(answer["CountInstances"]),
                disk_bytes=int(answer["TotalDiskSize"]),
            )

    def _study_page(self, rows: Sequence[Json], *, counts: bool) -> list[OrthancStudy]:
        count: dict[str, int] = {}
        if counts:
            count = dict.fromkeys((str(row["ID"]) for row in rows), 0)
            for series in self._bulk(count, "Series"):
                # A study may have been deleted or stored between the two requests.
                if series["ParentStudy"] in count:
                    count[series["ParentStudy"]] += len(series["Instances"])
        return [
            OrthancStudy(
                orthanc_id=str(row["ID"]),
                study_instance_uid=str(row["MainDicomTags"]["StudyInstanceUID"]),
                last_update=str(row.get("LastUpdate", "")),
                instance_count=count.get(row["ID"]),
            )
            for row in rows
        ]

    def _entries(self, rows: Sequence[Json]) -> tuple[Change, ...]:
        """Changes with the UIDs of what they belong to."""
        if max(len(self._series), len(self._studies)) > REMEMBERED:
            self._series.clear()
            self._studies.clear()
        ids: dict[str, set[str]] = {"Study": set(), "Series": set(), "Instance": set()}
        for row in rows:
            ids.get(row["ResourceType"], set()).add(row["ID"])
        series_of = self._learn_series(ids["Series"], ids["Instance"])
        series = ids["Series"] | set(series_of.values())
        parents = {self._series[item][0] for item in series & self._series.keys()}
        self._learn_studies(ids["Study"] | parents)
        return tuple(self._entry(row, series_of) for row in rows)

    def _entry(self, row: Json, series_of: Mapping[str, str]) -> Change:
        level, orthanc_id = row["ResourceType"], str(row["ID"])
        study: str | None = orthanc_id if level == "Study" else None
        series_uid: str | None = None
        series = series_of.get(orthanc_id) if level == "Instance" else orthanc_id
        if place := self._series.get(series or ""):
            study, series_uid = place
        study_uid = self._studies.get(study) if study else None
        return Change(int(row["Seq"]), row["ChangeType"], level, orthanc_id, study_uid, series_uid)

    def _learn_series(self, series: Ids, instances: Ids) -> dict[str, str]:
        """Remember where series belong; returns instance to series, by Orthanc's ids."""
        series_of: dict[str, str] = {}
        for row in self._bulk(instances | (series - self._series.keys()), "Series"):
            uid = str(row["MainDicomTags"]["SeriesInstanceUID"])
            self._series[row["ID"]] = (str(row["ParentStudy"]), uid)
            series_of |= {item: str(row["ID"]) for item in row["Instances"] if item in instances}
        return series_of

    def _learn_studies(self, studies: Ids) -> None:
        for row in self._bulk(studies - self._studies.keys(), "Study"):
            self._studies[row["ID"]] = str(row["MainDicomTags"]["StudyInstanceUID"])

    def _bulk(self, ids: Iterable[str], level: Level) -> list[Json]:
        """What the resources are part of, at a level; ids that are gone are left out."""
        resources = sorted(ids)
        if not resources:
            return []
        query = {"Resources": resources, "Level": level, "Metadata": False}
        return cast("list[Json]", self._call("POST", "/tools/bulk-content", json=query))

    def _get(self, path: str, **params: str | int) -> Any:
        return self._call("GET", path, params=params)

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            with transport_errors("the archive"):
                response = self._session.request(method, self._root + path, **arguments)
                status = response.status_code
                if status == 200:
                    return response.json()
        except ForbiddenError as error:
            raise UpstreamUnavailable("no token for the archive", code=error.code) from error
        if status in (401, 403):
            raise UpstreamUnavailable(f"the archive answered {status}", code="archive-refused-us")
        if status in (408, 504):
            raise UpstreamTimeout(f"the archive answered {status}")
        if status in (404, 405):
            raise _not_orthanc()
        raise UpstreamUnavailable(f"the archive answered {status}")


@contextlib.contextmanager
def _expected() -> Iterator[None]:
    """An answer of another shape comes from something that is not an Orthanc."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise _not_orthanc() from error


def _not_orthanc() -> UpstreamError:
    return UpstreamError(
        "archive.orthanc_url does not answer as Orthanc 1.9.4 or newer does",
        code="archive-not-orthanc",
    )
