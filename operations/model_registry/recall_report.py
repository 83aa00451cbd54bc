"""Who is concerned by a recall: patients, studies, results, and everyone who received them.

Computed when it is asked for, from what HAPI holds: our own database keeps no patients. What
the FHIR server hands out beside our gateway leaves no AuditEvent, and cannot be listed here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import NotFoundError
from fhir_ext.resources import codes
from fhir_ext.resources.context import instant
from fhir_ext.resources.ids import recall_provenance_id, recall_task_id
from fhir_ext.resources.recall import Group, url_of
from operations.model_registry.recall import devices_of, groups_of, with_dependents

Json = dict[str, Any]

#: Interactions whose answer holds resources; `codes.INTERACTIONS`.
_HANDS_OUT: Final = frozenset(
    {
        "read",
        "vread",
        "search-type",
        "search-system",
        "history-instance",
        "history-type",
        "history-system",
        "operation",
        "batch",
        "transaction",
    }
)

#: Types of which a result is made; a search of another type may bring one along.
_RESULTS: Final = frozenset({"DetectedIssue", "Observation", "RiskAssessment", "Task"})
_BRINGS_ALONG: Final = re.compile(r"_(rev)?include")

#: Subscriptions by which this software is told of work; they are no receivers.
_OWN: Final = "fhir-ext-"


@dataclass(frozen=True, slots=True)
class Result:
    """What one piece of work amounts to.

    Attributes:
        patient, study: references.
        written, withdrawn: FHIR instants; withdrawn is empty where nothing was.
        unsigned: references that became entered-in-error.
        signed: references that a human answers for, and that stand.
        measured: results of other versions that were measured in its SEG, and that stand.
        dependents: scores that rest on one of them.
        untouched: references that had been cancelled or rejected before.
    """

    patient: str
    study: str
    written: str
    withdrawn: str
    unsigned: tuple[str, ...]
    signed: tuple[str, ...]
    measured: tuple[str, ...]
    dependents: tuple[str, ...]
    untouched: tuple[str, ...]


@dataclass(slots=True)
class Receiver:
    """Somebody who asked the gateway for data of these patients while results stood.

    Attributes:
        client, user: as AuditEvents name them; user is empty for a program on its own.
        certain: requests that named one of the results.
        possible: searches and operations whose answer may have held one.
        patients: how many of the patients.
        first, last: FHIR instants.
    """

    client: str
    user: str
    certain: int = 0
    possible: int = 0
    patients: set[str] = field(default_factory=set)
    first: str = ""
    last: str = ""


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A Subscription of the FHIR server that results could match.

    Attributes:
        id: of the Subscription.
        criteria: its search, without values, which may name a patient.
        endpoint: scheme and host; paths may hold secrets.
        at_most: results of its type; the FHIR server keeps no record of what it delivered.
    """

    id: str
    criteria: str
    endpoint: str
    at_most: int


@dataclass(frozen=True, slots=True)
class RecallReport:
    """One recall, or what a recall would concern.

    Attributes:
        recall: the Task of the recall, when there was one: status, reason, who, when.
    """

    service: str
    version: str
    devices: tuple[str, ...]
    recall: Json | None
    results: tuple[Result, ...]
    receivers: tuple[Receiver, ...]
    subscribers: tuple[Subscriber, ...]
    made: str

    @property
    def patients(self) -> tuple[str, ...]:
        return tuple(sorted({item.patient for item in self.results if item.patient}))

    @property
    def studies(self) -> tuple[str, ...]:
        return tuple(sorted({item.study for item in self.results if item.study}))

    @property
    def counts(self) -> dict[str, int]:
        """Without a patient: what may be shown on a screen or in a log."""
        return {
            "patients": len(self.patients),
            "studies": len(self.studies),
            "pieces of work": len(self.results),
            "withdrawn": sum(len(item.unsigned) for item in self.results),
            "signed": sum(len(item.signed) for item in self.results),
            "measured in its segmentations": sum(len(item.measured) for item in self.results),
            "scores that rest on them": sum(len(item.dependents) for item in self.results),
            "receivers": len(self.receivers),
            "subscriptions": len(self.subscribers),
        }

    def as_json(self) -> Json:
        """All of it; holds references to patients."""
        return {
            "service": self.service,
            "version": self.version,
            "devices": list(self.devices),
            "recall": self.recall,
            "made": self.made,
            "counts": self.counts,
            "patients": list(self.patients),
            "studies": list(self.studies),
            "results": [
                {
                    "patient": item.patient,
                    "study": item.study,
                    "written": item.written,
                    "withdrawn": item.withdrawn or None,
                    "unsigned": list(item.unsigned),
                    "signed": list(item.signed),
                    "measured": list(item.measured),
                    "dependents": list(item.dependents),
                    "untouched": list(item.untouched),
                }
                for item in self.results
            ],
            "receivers": [
                {
                    "client": item.client,
                    "user": item.user or None,
                    "certain": item.certain,
                    "possible": item.possible,
                    "patients": sorted(item.patients),
                    "first": item.first,
                    "last": item.last,
                }
                for item in self.receivers
            ],
            "subscriptions": [
                {
                    "id": item.id,
                    "criteria": item.criteria,
                    "endpoint": item.endpoint,
                    "at_most": item.at_most,
                }
                for item in self.subscribers
            ],
        }


def recall_report(fhir: FhirClient, service: str, version: str) -> RecallReport:
    """What a version wrote and who received it; before a recall, what one would concern.

    Raises:
        NotFoundError: HAPI knows no Device of this version.
        UpstreamError: HAPI is down.
    """
    devices = devices_of(fhir, service, version)
    if not devices:
        raise NotFoundError("no results of this model version are known", code="not-found")
    ids = tuple(sorted(str(device["id"]) for device in devices))
    results = tuple(
        _result(fhir, group) for one in ids for page in groups_of(fhir, one) for group in page
    )
    recall = next((task for one in ids if (task := fhir.find("Task", recall_task_id(one)))), None)
    return RecallReport(
        service=service,
        version=version,
        devices=tuple(f"Device/{one}" for one in ids),
        recall=_told(recall) if recall else None,
        results=results,
        receivers=tuple(_receivers(fhir, results)),
        subscribers=tuple(_subscribers(fhir, results)),
        made=instant(datetime.now(UTC)),
    )


def _told(task: Json) -> Json:
    """The part of a recall's Task that a report repeats."""
    who = task["requester"]
    return {
        "task": url_of(task),
        "status": task["status"],
        "reason": task["reasonCode"].get("text", ""),
        "who": who.get("reference") or who["identifier"]["value"],
        "asked": task["authoredOn"],
        "finished": task.get("executionPeriod", {}).get("end"),
    }


def _result(fhir: FhirClient, group: Group) -> Result:
    group = with_dependents(fhir, group)
    trail = None
    if group.recalled:
        trail = fhir.find("Provenance", recall_provenance_id(group.provenance["id"]))
    unsigned = {url_of(item) for item in (*group.recalled, *group.unsigned)}
    signed = {url_of(item) for item in group.signed}
    return Result(
        patient=group.patient,
        study=group.study,
        written=str(group.provenance["recorded"]),
        withdrawn=str(trail["recorded"]) if trail else "",
        unsigned=tuple(sorted(unsigned)),
        signed=tuple(sorted(signed)),
        measured=tuple(map(url_of, group.measured)),
        dependents=tuple(map(url_of, group.dependents)),
        untouched=tuple(sorted({url_of(i) for i in group.resources} - unsigned - signed)),
    )


def _receivers(fhir: FhirClient, results: Iterable[Result]) -> list[Receiver]:
    """Who asked for a patient's data between the writing of a result and its withdrawal."""
    found: dict[tuple[str, str], Receiver] = {}
    by_patient: dict[str, list[Result]] = {}
    for result in results:
        if result.patient:
            by_patient.setdefault(result.patient, []).append(result)
    for patient, theirs in by_patient.items():
        since = min(_moment(item.written) for item in theirs)
        # The instant itself may be a millisecond off in the index.
        asked = {"patient": patient, "outcome": "0", "date": f"ge{since.isoformat()}"}
        for bundle in fhir.pages("AuditEvent", {**asked, "_count": 200}):
            for entry in bundle.get("entry", []):
                _note(found, entry["resource"], patient, theirs)
    return sorted(found.values(), key=lambda item: (item.client, item.user))


def _note(
    found: dict[tuple[str, str], Receiver], event: Json, patient: str, results: list[Result]
) -> None:
    asked = {c.get("code") for c in event.get("subtype", [])} & _HANDS_OUT
    recorded = _moment(event["recorded"])
    standing = [*filter(None, (_handed_out(item, recorded) for item in results))]
    if not asked or not standing:
        return
    named = {str(e.get("what", {}).get("reference", "")) for e in event.get("entity", [])}
    certain = any(named & references for references in standing)
    if not certain and not _may_hold(event, asked):
        return
    client, user = _who(event)
    receiver = found.setdefault((client, user), Receiver(client, user))
    receiver.certain += certain
    receiver.possible += not certain
    receiver.patients.add(patient)
    stamps = [instant(recorded), receiver.first, receiver.last]
    receiver.first, receiver.last = min(filter(None, stamps)), max(stamps)


def _handed_out(item: Result, recorded: datetime) -> set[str]:
    """References to what stood of a piece of work, and to what was measured in it."""
    if recorded < _moment(item.written):
        return set()
    gone = item.withdrawn and _moment(item.withdrawn) < recorded
    return {*item.signed, *item.measured, *(() if gone else item.unsigned)}


def _may_hold(event: Json, asked: set[str | None]) -> bool:
    """Whether the answer to a search or an operation may have held a result."""
    if asked & {"read", "vread", "history-instance"}:
        return False
    if asked & {"operation", "batch", "transaction"}:
        return True
    query = next(filter(None, map(_query, event.get("entity", []))), None)
    if query is None:
        return True
    kind = query.partition("?")[0].partition("/")[0]
    return kind in _RESULTS or not kind or bool(_BRINGS_ALONG.search(query))


def _query(entity: Json) -> str | None:
    try:
        return base64.b64decode(entity["query"], validate=True).decode(errors="replace")
    except (KeyError, binascii.Error):
        return None


def _who(event: Json) -> tuple[str, str]:
    """Client application, and the user behind it: as `fhir_ext.resources.access_event` writes."""
    server = {codes.APPLICATION_AGENT.code, codes.SOURCE_ROLE.code, codes.DESTINATION_ROLE.code}
    client = user = ""
    for agent in event.get("agent", []):
        kinds = {c.get("code") for c in agent.get("type", {}).get("coding", [])}
        who = agent.get("who", {})
        name = str(who.get("reference") or agent.get("altId") or who.get("display") or "")
        if kinds & server:
            client = client or (str(agent.get("altId") or "") if name else "")
        elif agent.get("requestor"):
            user = name
    return client or "?", user


def _subscribers(fhir: FhirClient, results: Iterable[Result]) -> Iterator[Subscriber]:
    counts: dict[str, int] = {}
    for result in results:
        for url in (*result.unsigned, *result.signed):
            kind = url.partition("/")[0]
            counts[kind] = counts.get(kind, 0) + 1
    for item in fhir.search("Subscription", {"_count": 200}):
        kind, _, query = str(item.get("criteria", "")).partition("?")
        if item["id"].startswith(_OWN) or item.get("status") == "off" or not counts.get(kind):
            continue
        names = sorted({part.partition("=")[0] for part in query.split("&") if part})
        where = urlsplit(str(item.get("channel", {}).get("endpoint", "")))
        yield Subscriber(
            id=str(item["id"]),
            criteria=f"{kind}?{'&'.join(names)}",
            endpoint=f"{where.scheme}://{where.netloc.rpartition('@')[2]}",
            at_most=counts[kind],
        )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
