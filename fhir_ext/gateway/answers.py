"""Answers that are read before they are sent: what may not be seen is taken out.

An answer from which nothing must be taken is sent in the bytes that HAPI wrote.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from fhir_ext.errors import NotFoundError
from fhir_ext.gateway.contents import patient_ids, redact
from fhir_ext.gateway.exact import dumps, loads_exact
from fhir_ext.gateway.sight import Sight, unseen
from fhir_ext.gateway.upstream import parsed

Json = dict[str, Any]

#: Patients that an answer names, found without parsing it: references, and Patients themselves
#: in JSON and XML as HAPI writes them. Each begins with a literal, which is what makes a regular
#: expression quick over an answer that mostly does not match.
_REFERENCED = re.compile(rb'"Patient/([A-Za-z0-9\-.]{1,64})[/"]')
_JSON_PATIENT = re.compile(rb'"resourceType": ?"Patient",\s*"id": ?"([A-Za-z0-9\-.]{1,64})"')
_XML_PATIENT = re.compile(
    rb'<Patient xmlns="http://hl7.org/fhir">\s*<id value="([A-Za-z0-9\-.]{1,64})"'
)

#: Statuses whose diagnostics speak of the request, not of what stands in the server.
TELLING = frozenset({"400", "412", "415", "422"})

_NOT_FOUND = {
    "resourceType": "OperationOutcome",
    "issue": [{"severity": "error", "code": "not-found", "diagnostics": "no such resource"}],
}


def patients_in(body: bytes) -> frozenset[str]:
    """Ids of the Patients that an unparsed answer names."""
    found = {*_REFERENCED.findall(body), *_JSON_PATIENT.findall(body)}
    if b"<Patient " in body:
        found.update(_XML_PATIENT.findall(body))
    return frozenset(patient.decode() for patient in found)


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer that may be sent.

    Attributes:
        body: JSON.
        patients: ids of Patients whose data it holds.
    """

    body: bytes
    patients: frozenset[str]


def visible(body: bytes, sight: Sight, *, pretty: bool = False, of_type: bool = False) -> Shown:
    """A resource or Bundle as far as it may be seen.

    Args:
        of_type: whether a history is that of a type, which may be empty.

    Raises:
        NotFoundError: it is a single resource that may not be seen at all, or the history of
            one of which no version may be seen: its length would tell that it is there.
        UpstreamError: it is not JSON.
    """
    value = parsed(body)
    if value.get("type") == "history" and of_type and not value.get("entry"):
        return Shown(body, frozenset())
    if not _clean(value, sight):
        return Shown(body, _patients(value))
    value = loads_exact(body)
    _clean(value, sight)
    return Shown(dumps(value, pretty=pretty), _patients(value))


def _clean(value: Json, sight: Sight) -> bool:
    """Take out of an answer what may not be seen; whether there was anything."""
    if value.get("resourceType") == "Bundle":
        return _clean_bundle(value, sight)
    if not sight.shows_asked(value, "r"):
        raise unseen()
    return redact(value)


def _clean_bundle(bundle: Json, sight: Sight) -> bool:
    if bundle.get("type") in ("batch-response", "transaction-response"):
        # All of them, not only up to the first that changes.
        changes = [_clean_reply(entry, sight) for entry in bundle.get("entry", [])]
        return any(changes)
    entries = bundle.get("entry", [])
    kept = [entry for entry in entries if _shown(entry, sight)]
    changed = len(kept) < len(entries)
    if bundle.get("type") == "history" and not kept:
        raise unseen()
    if changed:
        bundle["entry"] = kept
        # It counts what was taken out.
        bundle.pop("total", None)
        if not kept:
            del bundle["entry"]
    redacted = [redact(entry["resource"]) for entry in kept if "resource" in entry]
    return changed or any(redacted)


def _shown(entry: Json, sight: Sight) -> bool:
    resource = entry.get("resource")
    # An entry of a history without a resource tells that something was deleted, and of whom
    # cannot be told any more.
    if not isinstance(resource, dict):
        return False
    match = entry.get("search", {}).get("mode") == "match"
    return sight.shows_asked(resource, "s") if match else sight.shows(resource)


def _clean_reply(entry: Json, sight: Sight) -> bool:
    """One entry of a batch-response or transaction-response."""
    resource = entry.get("resource")
    if not isinstance(resource, dict):
        return not sight.everything() and _clean_refusal(entry)
    try:
        return _clean(resource, sight)
    except NotFoundError:
        pass
    if "location" in entry.get("response", {}):
        # What was written is told, without its content.
        del entry["resource"]
        return True
    entry.clear()
    entry["response"] = {"status": "404 Not Found", "outcome": _NOT_FOUND}
    return True


def _clean_refusal(entry: Json) -> bool:
    """An entry without a resource: what the FHIR server says in an error, as far as it is told."""
    response = entry.get("response", {})
    status = str(response.get("status", ""))[:3]
    if status in ("404", "410") and "location" not in response:
        entry.clear()
        entry["response"] = {"status": "404 Not Found", "outcome": _NOT_FOUND}
        return True
    outcome = response.get("outcome")
    if status < "400" or status in TELLING or not isinstance(outcome, dict):
        return False
    issues = [issue.pop("diagnostics", None) for issue in outcome.get("issue", [])]
    return any(issues)


def _patients(value: Json) -> frozenset[str]:
    if value.get("resourceType") != "Bundle":
        return patient_ids(value)
    found: frozenset[str] = frozenset()
    for entry in value.get("entry", []):
        resource = entry.get("resource")
        if isinstance(resource, dict):
            found |= _patients(resource)
    return found
