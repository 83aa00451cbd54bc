"""The guarantee behind the hooks: every changed resource is found again by `_lastUpdated`.

HAPI drops a notice after about a minute of failures and forgets undelivered ones when it
stops, so hooks alone lose changes. A sweep enqueues what changed since the watermark, with
an overlap because commits become visible out of order; what a hook already brought falls
on the same workflow id and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.logs import event, get_logger
from fhir_ext.store.repository import Repository
from subscriptions.queue import WorkQueue, new_message

log = get_logger(__name__)

PAGE = 200


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep looks for.

    Attributes:
        cursor: name of its watermark.
        resource_type: FHIR type.
        params: search parameters.
        enqueue: makes one version (id, version) durable; known already, it changes nothing.
    """

    cursor: str
    resource_type: str
    params: Mapping[str, str]
    enqueue: Callable[[str, str], object]


CURSOR = "sweep/ImagingStudy"


def sweep(
    fhir: FhirClient,
    queue: WorkQueue,
    repository: Repository,
    overlap: timedelta,
    *,
    again: str = "",
) -> int:
    """Enqueue every ImagingStudy version changed since the watermark minus `overlap`.

    Args:
        again: a word that makes this sweep's entries new ones, so that versions which were
            worked on before are looked at again; for a HAPI restored from a backup.

    Returns:
        How many ImagingStudies were looked at.

    Raises:
        UpstreamError: HAPI is down; the watermark then stays where the last page left it.
    """
    studies = Swept(
        CURSOR,
        "ImagingStudy",
        {"status": "available"},
        lambda study_id, version: queue.enqueue(new_message(study_id, version, run=again)),
    )
    return sweep_changed(fhir, repository, studies, overlap)


def sweep_changed(
    fhir: FhirClient, repository: Repository, swept: Swept, overlap: timedelta
) -> int:
    """Enqueue every version changed since the watermark minus `overlap`.

    Without a watermark (a new or lost database) it starts at the beginning.

    Returns:
        How many resources were looked at.

    Raises:
        UpstreamError: HAPI is down; the watermark then stays where the last page left it.
    """
    watermark = repository.cursor(swept.cursor)
    params: dict[str, object] = {
        **swept.params,
        "_sort": "_lastUpdated",
        "_count": PAGE,
        "_elements": "id,meta",
    }
    if watermark:
        since = datetime.fromisoformat(watermark) - overlap
        params["_lastUpdated"] = f"ge{since.astimezone(UTC).isoformat()}"
    count = 0
    for bundle in fhir.pages(swept.resource_type, params):
        for entry in bundle.get("entry", []):
            resource = entry["resource"]
            meta = resource["meta"]
            swept.enqueue(resource["id"], str(meta["versionId"]))
            count += 1
            watermark = max(filter(None, (watermark, _utc(meta["lastUpdated"]))))
        if watermark:
            repository.set_cursor(swept.cursor, watermark)
    event(log, "sweep-done", count=count)
    return count


def forget_watermark(repository: Repository) -> None:
    """Make the next sweep start at the beginning."""
    repository.set_cursor(CURSOR, "")


def _utc(instant: str) -> str:
    """An instant in one zone, so that watermarks compare as text."""
    return datetime.fromisoformat(instant).astimezone(UTC).isoformat(timespec="microseconds")
