"""The transaction of one result: all of it stands in the server, or nothing does."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final

from fhir_ext.resources.audit_event import audit_event
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.detected_issue import detected_issue, is_known
from fhir_ext.resources.device import model_device, software_device
from fhir_ext.resources.observation import measurement, panel
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

#: Elements of `meta` that belong to a stored version, not to the resource.
_VERSION_META: Final = ("versionId", "lastUpdated", "source")


def result_bundle(result: ServiceResult, context: WriteContext) -> Json:
    """Everything that one result writes, as one transaction of PUTs under computed ids.

    The same arguments give the same bytes.

    Raises:
        KeyError: the service, a measurement, an outcome or an issue has no code.
        ValueError: an instant of the context is naive, or a risk or an issue rests on no
            number that stands.
    """
    said = [
        panel(result, context),
        *(measurement(result, item, context) for item in result.measurements),
    ]
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
    return _transaction(
        [
            _put(model_device(result.model)),
            _put(software_device(context.software_version)),
            *(_put(item) for item in written),
            *_cancellations(context.superseded, {item["id"] for item in written}),
            _put(provenance(result, targets, context)),
            _put(audit_event(result, targets, context)),
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
    return _transaction(list(entries.values()))


def _cancellations(superseded: Iterable[Json], written: set[str]) -> list[Json]:
    """Entries that cancel what is superseded and no human has signed.

    `ifMatch` lets the transaction fail when a human was quicker: the server then answers with
    a conflict and the caller reads again.
    """
    entries = []
    for item in superseded:
        if item["id"] in written or item.get("status") not in _OPEN.get(item["resourceType"], ()):
            continue
        cancelled = copy.deepcopy(item)
        cancelled["status"] = "cancelled"
        version = cancelled.get("meta", {}).get("versionId")
        cancelled["meta"] = {
            key: value
            for key, value in cancelled.get("meta", {}).items()
            if key not in _VERSION_META
        }
        entry = _put(cancelled)
        if version is not None:
            entry["request"]["ifMatch"] = f'W/"{version}"'
        entries.append(entry)
    return entries


def _reference(resource: Json) -> Json:
    return {"reference": f"{resource['resourceType']}/{resource['id']}"}


def _put(resource: Json) -> Json:
    url = f"{resource['resourceType']}/{resource['id']}"
    return {"resource": resource, "request": {"method": "PUT", "url": url}}


def _transaction(entries: list[Json]) -> Json:
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}
