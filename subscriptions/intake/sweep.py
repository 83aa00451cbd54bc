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
from typing import Any

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.logs import event, get_logger
from fhir_ext.store.repository import Repository
from subscriptions.queue import WorkQueue, new_message

log = get_logger(__name__)

Json = dict[str, Any]

PAGE = 200


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep looks for.

    Attributes:
        cursor: name of its watermark.
        resource_type: FHIR type.
        params: search parameters.
        take: does what is to be done about one version, durably; done already, it changes
            nothing. Gets the resource, of which `elements` are there.
        elements: of `_elements`; all without.
    """

    cursor: str
    resource_type: str
    params: Mapping[str, str]
    take: Callable[[Json], object]
    elements: str | None = "id,meta"


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
        lambda study: queue.enqueue(new_message(study["id"], version_of(study), run=again)),
    )
    count = sweep_changed(fhir, repository, studies, overlap)
    event(log, "sweep-done", count=count)
    return count


def sweep_changed(
    fhir: FhirClient, repository: Repository, swept: Swept, overlap: timedelta
) -> int:
    """Take every version changed since the watermark minus `overlap`.

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
        **({"_elements": swept.elements} if swept.elements else {}),
    }
    if watermark:
        since = datetime.fromisoformat(watermark) - overlap
        params["_lastUpdated"] = f"ge{since.astimezone(UTC).isoformat()}"
    count = 0
    for bundle in fhir.pages(swept.resource_type, params):
        for entry in bundle.get("entry", []):
            resource = entry["resource"]
            swept.take(resource)
            count += 1
            watermark = max(filter(None, (watermark, _utc(resource["meta"]["lastUpdated"]))))
        if watermark:
            repository.set_cursor(swept.cursor, watermark)
    return count


def version_of(resource: Json) -> str:
    """`meta.versionId`."""
    return str(resource["meta"]["versionId"])


def forget_watermark(repository: Repository) -> None:
    """Make the next sweep start at the beginning."""
    repository.set_cursor(CURSOR, "")


def _utc(instant: str) -> str:
    """An instant in one zone, so that watermarks compare as text."""
    return datetime.fromisoformat(instant).astimezone(UTC).isoformat(timespec="microseconds")
