"""Recall of a model version: what it wrote is withdrawn, or listed for a human.

`start_recall` puts it into the durable queue; `subscriptions.recall` works it off with
`Recaller`, a few pieces of work at a time, so that a death of the worker costs little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from fhir_ext.clients.fhir import CONFLICT_WAITS, FhirClient
from fhir_ext.errors import BadRequestError, ConflictError, UpstreamError
from fhir_ext.logs import event, get_logger
from fhir_ext.resources.bundle import create_entry, transaction, update_entry
from fhir_ext.resources.device import RECALLED, in_state, is_recalled, model_device
from fhir_ext.resources.ids import device_id
from fhir_ext.resources.recall import (
    Counts,
    Group,
    Recall,
    counts_for,
    is_settled,
    recall_bundle,
    sources,
    summary_task,
    url_of,
)
from fhir_ext.results import ModelIdentity

log = get_logger(__name__)

Json = dict[str, Any]

#: Name of the chore.
RECALL: Final = "recall"

#: Pieces of work on one page of a search. Targets are included, and HAPI leaves out what goes
#: beyond its limit of included resources on a page (1,000 by default).
PAGE: Final = 20

#: Longest reason that is kept.
LONGEST_REASON: Final = 500


class ChoreQueue(Protocol):
    """The part of the queue that is needed."""

    def enqueue_chore(self, name: str, key: str, payload: Mapping[str, object]) -> str: ...


#: Told of every group after something in it was withdrawn; at least once, and idempotent.
Listener = Callable[[Recall, Group], None]


def start_recall(
    queue: ChoreQueue,
    service: str,
    version: str,
    settings_hash: str,
    reason: str,
    who: str,
    *,
    again: str = "",
) -> str:
    """Recall a model version; durable when this returns, also while HAPI is down.

    The caller has brought the version into the state `recalled` before, so that no new study
    is shown to it. Asked for twice without another `again`, it happens once.

    Args:
        settings_hash: of the version's `ModelIdentity`.
        reason: one sentence without patient data; it is written into every result.
        who: `Practitioner/…` or the subject of a token, or the name of an operator.
        again: a word that has it gone through once more, which withdraws what is left; for
            a HAPI that was restored from a backup. Reason and name of the first time stand.

    Returns:
        The workflow id.

    Raises:
        BadRequestError: there is no reason, or it is too long; nobody is named.
    """
    if not reason.strip() or len(reason) > LONGEST_REASON:
        raise BadRequestError(f"a recall has a reason of at most {LONGEST_REASON} characters")
    if not who.strip():
        raise BadRequestError("a recall names who asks for it")
    recall = Recall(
        device_id=device_id(ModelIdentity(service, version, service, settings_hash)),
        service=service,
        version=version,
        settings_hash=settings_hash,
        reason=reason.strip(),
        who=who.strip(),
        started=datetime.now(UTC),
    )
    event(log, "recall-asked", service=service, version=version)
    return enqueue_recall(queue, recall, again)


def enqueue_recall(queue: ChoreQueue, recall: Recall, run: str = "") -> str:
    """Put the first part of a recall into the queue; known already, nothing changes."""
    return enqueue_part(queue, Part(recall, run))


@dataclass(frozen=True, slots=True)
class Part:
    """A recall from one point on, as it travels through the queue.

    Attributes:
        run: tells repeated runs of one recall apart.
        number: 0 for the first.
        since: `meta.lastUpdated` of the last Provenance that was looked at.
        seen: ids of the Provenances with that very instant.
        counts: of the parts before.
    """

    recall: Recall
    run: str = ""
    number: int = 0
    since: str = ""
    seen: tuple[str, ...] = ()
    counts: Counts = field(default_factory=Counts)

    @property
    def key(self) -> str:
        words = [self.recall.device_id, self.run, str(self.number) if self.number else ""]
        return "/".join(word for word in words if word)

    def as_json(self) -> Json:
        recall = self.recall
        return {
            "device_id": recall.device_id,
            "service": recall.service,
            "version": recall.version,
            "settings_hash": recall.settings_hash,
            "reason": recall.reason,
            "who": recall.who,
            "started": recall.started.isoformat(),
            "run": self.run,
            "number": self.number,
            "since": self.since,
            "seen": list(self.seen),
            "counts": self.counts.as_json(),
        }


def part_of(payload: Json) -> Part:
    """The part that `Part.as_json` gave."""
    return Part(
        Recall(
            device_id=payload["device_id"],
            service=payload["service"],
            version=payload["version"],
            settings_hash=payload["settings_hash"],
            reason=payload["reason"],
            who=payload["who"],
            started=datetime.fromisoformat(payload["started"]),
        ),
        run=payload["run"],
        number=payload["number"],
        since=payload["since"],
        seen=tuple(payload["seen"]),
        counts=Counts(**payload["counts"]),
    )


def enqueue_part(queue: ChoreQueue, part: Part) -> str:
    """Put one part into the queue; known already, nothing changes."""
    return queue.enqueue_chore(RECALL, part.key, part.as_json())


@dataclass(frozen=True, slots=True)
class Recaller:
    """Works off recalls in the FHIR server; every call is idempotent.

    Attributes:
        listeners: told of what was withdrawn, for whoever keeps copies. HAPI itself notifies
            the Subscriptions that match.
    """

    fhir: FhirClient
    listeners: Sequence[Listener] = ()

    def mark(self, recall: Recall) -> None:
        """Say in the Device that its version was recalled.

        From here on no result of it is written: `operations.analyze.write_fhir` looks here.

        Raises:
            UpstreamError: HAPI is down, or others keep writing the Device.
        """
        for wait in CONFLICT_WAITS:
            found = self.fhir.find("Device", recall.device_id)
            if found is not None and is_recalled(found):
                return
            known = found or model_device(
                ModelIdentity(recall.service, recall.version, recall.service, recall.settings_hash)
            )
            changed = in_state(known, RECALLED, recall.reason)
            entry = create_entry(changed) if found is None else update_entry(changed)
            try:
                self.fhir.transaction_once(transaction([entry]))
                return
            except ConflictError:
                time.sleep(wait)
        raise UpstreamError("others keep writing the Device", code="write-conflict")

    def report_progress(self, recall: Recall, counts: Counts, *, finished: bool) -> None:
        """Write the Task of the recall."""
        self.fhir.put(summary_task(recall, counts, finished=finished, moment=datetime.now(UTC)))

    def settle(self, recall: Recall, group: Group) -> tuple[Group, Counts]:
        """Withdraw what nobody has signed in one piece of work, and list the rest.

        Returns:
            The group as it was when it was settled, and what it amounts to.

        Raises:
            UpstreamError: HAPI is down, or others keep writing the same resources.
        """
        for wait in CONFLICT_WAITS:
            group = with_dependents(self.fhir, group)
            review = self.fhir.find("Task", group.review_id)
            if is_settled(group, review):
                return group, counts_for(group, review)
            bundle = recall_bundle(recall, group, review, datetime.now(UTC))
            try:
                self.fhir.transaction_once(bundle)
            except ConflictError:
                # A reviewer was quicker, or another worker does the same.
                time.sleep(wait)
                group = read_group(self.fhir, group.provenance)
                continue
            if group.unsigned:
                for listener in self.listeners:
                    listener(recall, group)
            return group, counts_for(group, review)
        raise UpstreamError("others keep writing the same resources", code="write-conflict")


def groups_of(fhir: FhirClient, device_id: str, since: str = "") -> Iterator[list[Group]]:
    """Pages of everything that a model version wrote, oldest first.

    Args:
        since: `meta.lastUpdated` (FHIR instant) at which to begin, inclusive.

    Raises:
        UpstreamError: HAPI is down.
    """
    params: dict[str, object] = {
        "agent": f"Device/{device_id}",
        "_include": "Provenance:target",
        "_sort": "_lastUpdated",
        "_count": PAGE,
    }
    if since:
        params["_lastUpdated"] = f"ge{since}"
    for bundle in fhir.pages("Provenance", params):
        entries = bundle.get("entry", [])
        included = {
            url_of(entry["resource"]): entry["resource"]
            for entry in entries
            if entry.get("search", {}).get("mode") == "include"
        }
        yield [
            read_group(fhir, entry["resource"], included)
            for entry in entries
            if entry.get("search", {}).get("mode", "match") == "match"
        ]


def read_group(
    fhir: FhirClient, provenance: Json, included: Mapping[str, Json] | None = None
) -> Group:
    """What one Provenance names as its targets.

    Args:
        included: resources that the search brought along; the others are read.
    """
    found = []
    for target in provenance.get("target", []):
        url = "/".join(target["reference"].split("/")[:2])
        resource = (included or {}).get(url) or fhir.find(*url.split("/"))
        if resource is not None:
            found.append(resource)
    return Group(provenance, tuple(found))


def with_dependents(fhir: FhirClient, group: Group) -> Group:
    """A group and what others made of it: measured in its SEG, or computed from its numbers.

    R4 has no search parameter for RiskAssessment.basis, so all of the patient are looked at.

    Returns:
        With what still counts of `measured` and `dependents`, each sorted by type and id.
    """
    measured = _counting(_measured_in(fhir, group))
    named = {url_of(item) for item in (*group.resources, *measured)}
    observations = {url for url in named if url.startswith("Observation/")}
    if not group.patient or not observations:
        return replace(group, measured=measured)
    scores = (
        item
        for item in fhir.search("RiskAssessment", {"subject": group.patient})
        if url_of(item) not in named
        and observations & {str(b.get("reference", "")) for b in item.get("basis", [])}
    )
    return replace(group, measured=measured, dependents=_counting(scores))


def _measured_in(fhir: FhirClient, group: Group) -> Iterator[Json]:
    """What other pieces of work wrote that name the SEG series of this one as their source."""
    series = group.segmentation_series
    if series is None or not group.study:
        return
    drawn = f"urn:oid:{series}"
    for provenance in fhir.search("Provenance", {"entity": group.study}):
        used = (what.get("identifier", {}).get("value") for what in sources(provenance))
        if drawn in used:
            yield from read_group(fhir, provenance).resources


def _counting(found: Iterable[Json]) -> tuple[Json, ...]:
    kept = (
        item
        for item in found
        if item["resourceType"] != "Task"
        and item.get("status") not in ("entered-in-error", "cancelled")
    )
    return tuple(sorted(kept, key=url_of))


def devices_of(fhir: FhirClient, service: str, version: str) -> list[Json]:
    """The Devices of one model version, one for each of the settings it ran with."""
    return [
        device
        for device in fhir.search("Device", {"model": service, "_count": 100})
        if device.get("modelNumber") == service
        and (device.get("version") or [{}])[0].get("value") == version
    ]
