"""The transaction of one result: all of it stands in the server, or nothing does."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable
from typing import Any, Final

from fhir_ext.resources.audit_event import audit_event
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.detected_issue import detected_issue, is_known
from fhir_ext.resources.device import model_device, software_device
from fhir_ext.resources.panel import members, panel
from fhir_ext.resources.provenance import provenance
from fhir_ext.resources.risk_assessment import risk_assessment
from fhir_ext.resources.task import review_task
from fhir_ext.results import ServiceResult

Json = dict[str, Any]

#: Statuses in which a resource is still the machine's own and may be cancelled by it.
_OPEN: Final = {
    "Observation": frozenset({"registered", "preliminary"}),
    "RiskAssessment": frozenset({"registered", "preliminary"}),
    "DetectedIssue": frozenset({"registered", "preliminary"}),
    "Task": frozenset({"draft", "requested", "received", "accepted", "ready"}),
}

#: `ifMatch` that only a resource passes which is not there.
NO_VERSION: Final = 'W/"0"'

#: Elements of `meta` that belong to a stored version, not to the resource.
_VERSION_META: Final = ("versionId", "lastUpdated", "source")


def result_bundle(result: ServiceResult, context: WriteContext) -> Json:
    """Everything that one result writes, as one transaction of PUTs under computed ids.

    The same arguments give the same bytes.

    Raises:
        KeyError: a region, an outcome or an issue has no code.
        ValueError: an instant of the context is naive, or a risk or an issue rests on no
            number that stands.
    """
    said = [panel(result, context), *members(result, context)]
    raised = [
        *(risk_assessment(result, risk, context) for risk in result.risks),
        *(
            detected_issue(result, issue, context)
            for issue in result.issues
            if not is_known(issue, context)
        ),
    ]
    task = review_task(result, [_reference(item) for item in raised], context)
    written = [*said, *raised, *([task] if task else [])]
    targets = [_reference(item) for item in written]
    return transaction(
        [
            put_entry(model_device(result.model)),
            put_entry(software_device(context.software_version)),
            *(put_entry(item) for item in written),
            *_cancellations(context.superseded, {item["id"] for item in written}),
            put_entry(provenance(result, targets, context)),
            put_entry(audit_event(result, targets, context)),
        ]
    )


def merge_bundles(bundles: Iterable[Json]) -> Json:
    """One transaction for several results; what they share (Devices) is written once.

    Raises:
        ValueError: two bundles say different things under one id.
    """
    entries: dict[str, Json] = {}
    for bundle in bundles:
        for entry in bundle["entry"]:
            url = entry["request"]["url"]
            if entries.setdefault(url, entry) != entry:
                raise ValueError("two results write different content under one id")
    return transaction(list(entries.values()))


def _cancellations(superseded: Iterable[Json], written: set[str]) -> list[Json]:
    """Entries that cancel what is superseded and no human has signed.

    `ifMatch` lets the transaction fail when a human was quicker: the server then answers with
    a conflict and the caller reads again.
    """
    entries = []
    for item in superseded:
        if item["id"] in written or item.get("status") not in _OPEN.get(item["resourceType"], ()):
            continue
        entries.append(update_entry({**copy.deepcopy(item), "status": "cancelled"}))
    return entries


def update_entry(resource: Json) -> Json:
    """PUT of a resource that was read and changed: only over the version that was read.

    Args:
        resource: with the `meta` that the server gave.
    """
    meta = resource.get("meta", {})
    version = meta.get("versionId")
    kept = {key: value for key, value in meta.items() if key not in _VERSION_META}
    entry = put_entry({**resource, "meta": kept} if kept else _without_meta(resource))
    if version is not None:
        entry["request"]["ifMatch"] = f'W/"{version}"'
    return entry


def create_entry(resource: Json) -> Json:
    """PUT of a resource that must not exist yet: HAPI then answers 409.

    HAPI 8.8.0 looks at `ifMatch` only where there is something to match, and no version is
    ever 0; `ifNoneMatch` it ignores for PUT.
    """
    entry = put_entry(resource)
    entry["request"]["ifMatch"] = NO_VERSION
    return entry


def create_only(bundle: Json, *, but: Container[str] = ()) -> Json:
    """The transaction of results as one that writes over nothing.

    What is shared (Devices) and what says its version itself (cancellations) stays as it is.

    Args:
        but: URLs that may be written over.
    """
    entries = []
    for entry in bundle["entry"]:
        request = entry["request"]
        shared = entry["resource"]["resourceType"] == "Device"
        if not (shared or "ifMatch" in request or request["url"] in but):
            entry = create_entry(entry["resource"])
        entries.append(entry)
    return transaction(entries)


def _without_meta(resource: Json) -> Json:
    return {key: value for key, value in resource.items() if key != "meta"}


def _reference(resource: Json) -> Json:
    return {"reference": f"{resource['resourceType']}/{resource['id']}"}


def put_entry(resource: Json) -> Json:
    """PUT of a resource under its own id, whatever stands there."""
    url = f"{resource['resourceType']}/{resource['id']}"
    return {"resource": resource, "request": {"method": "PUT", "url": url}}


def transaction(entries: list[Json]) -> Json:
    """Transaction Bundle of entries with their requests."""
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}
