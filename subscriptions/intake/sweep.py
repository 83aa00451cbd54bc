"""The guarantee behind the hooks: every changed ImagingStudy is found again by `_lastUpdated`.

HAPI drops a notice after about a minute of failures and forgets undelivered ones when it
stops, so hooks alone lose studies. A sweep enqueues what changed since the watermark, with
an overlap because commits become visible out of order; what a hook already brought falls
on the same workflow id and changes nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.logs import event, get_logger
from fhir_ext.store.repository import Repository
from subscriptions.queue import WorkQueue, new_message

log = get_logger(__name__)

CURSOR = "sweep/ImagingStudy"
PAGE = 200


def sweep(
    fhir: FhirClient,
    queue: WorkQueue,
    repository: Repository,
    overlap: timedelta,
    *,
    again: str = "",
) -> int:
    """Enqueue every ImagingStudy version changed since the watermark minus `overlap`.

    Without a watermark (a new or lost database) it starts at the beginning.

    Args:
        again: a word that makes this sweep's entries new ones, so that versions which were
            worked on before are looked at again; for a HAPI restored from a backup.

    Returns:
        How many ImagingStudies were looked at.

    Raises:
        UpstreamError: HAPI is down; the watermark then stays where the last page left it.
    """
    watermark = repository.cursor(CURSOR)
    params: dict[str, object] = {
        "status": "available",
        "_sort": "_lastUpdated",
        "_count": PAGE,
        "_elements": "id,meta",
    }
    if watermark:
        since = datetime.fromisoformat(watermark) - overlap
        params["_lastUpdated"] = f"ge{since.astimezone(UTC).isoformat()}"
    count = 0
    for bundle in fhir.pages("ImagingStudy", params):
        for entry in bundle.get("entry", []):
            resource = entry["resource"]
            meta = resource["meta"]
            queue.enqueue(new_message(resource["id"], str(meta["versionId"]), run=again))
            count += 1
            watermark = max(filter(None, (watermark, _utc(meta["lastUpdated"]))))
        if watermark:
            repository.set_cursor(CURSOR, watermark)
    event(log, "sweep-done", count=count)
    return count


def forget_watermark(repository: Repository) -> None:
    """Make the next sweep start at the beginning."""
    repository.set_cursor(CURSOR, "")


def _utc(instant: str) -> str:
    """An instant in one zone, so that watermarks compare as text."""
    return datetime.fromisoformat(instant).astimezone(UTC).isoformat(timespec="microseconds")
