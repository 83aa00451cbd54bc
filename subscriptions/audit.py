"""The chore `audit`: accesses that the gateway noted become AuditEvents in the FHIR server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from fhir_ext import __version__
from fhir_ext.audit.segments import record_of
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import (
    NotFoundError,
    ParkedWork,
    UnprocessableError,
    UpstreamError,
)
from fhir_ext.resources.access_event import AuditServer, access_events, without_links
from fhir_ext.resources.device import software_device
from fhir_ext.resources.ids import software_device_id

Json = dict[str, Any]

#: Name of the chore.
AUDIT: Final = "audit"

#: AuditEvents in one Bundle.
BUNDLE_EVENTS: Final = 50


class AccessEventWriter:
    """Writes the AuditEvents of noted accesses; a repeat changes nothing.

    Args:
        fhir: the server that gets them.
        base_url: public FHIR base of the gateway.
        bundle_events: AuditEvents in one Bundle.
    """

    def __init__(self, fhir: FhirClient, base_url: str, bundle_events: int = BUNDLE_EVENTS) -> None:
        self._fhir, self._bundle_events = fhir, bundle_events
        self._server = AuditServer(f"Device/{software_device_id(__version__)}", base_url)
        self._device_known = False

    def __call__(self, payload: Json) -> None:
        """Do the chore.

        Args:
            payload: `records`, a list of what `AccessJournal` noted.

        Raises:
            UpstreamError: the server is down; nothing is lost, all of it is tried again.
            ParkedWork: the server refuses some of the events; all others are written.
        """
        events, unreadable = self._events(payload["records"])
        if not self._device_known:
            self._fhir.put(software_device(__version__))
            self._device_known = True
        refused = unreadable + sum(self._write(some) for some in _batched(events, self))
        if refused:
            raise ParkedWork(
                f"{refused} of {len(events) + unreadable} audit entries cannot be written",
                code="fhir-refused",
            )

    @property
    def bundle_events(self) -> int:
        return self._bundle_events

    def _events(self, records: Iterable[Json]) -> tuple[list[Json], int]:
        """AuditEvents, and how many records this version cannot read."""
        events: list[Json] = []
        unreadable = 0
        for data in records:
            try:
                events += access_events(record_of(data), self._server)
            except TypeError:
                unreadable += 1
        return events, unreadable

    def _write(self, events: list[Json]) -> int:
        """Write events in one transaction, or one by one; returns how many are refused."""
        try:
            self._fhir.transaction(_bundle("transaction", events))
        except (UnprocessableError, NotFoundError):
            pass
        except UpstreamError as error:
            # A single event may make the server fail; that it is up shows below.
            if error.code != "fhir-server-error":
                raise
        else:
            return 0
        left = self._one_by_one(events)
        if left:
            left = self._one_by_one([without_links(event, self._server.base_url) for event in left])
        return len(left)

    def _one_by_one(self, events: list[Json]) -> list[Json]:
        """Write events in a batch, where each stands alone; returns those that failed.

        Raises:
            UpstreamError: the server fails at the Device too, so the events are not to blame.
        """
        device = software_device(__version__)
        answer = self._fhir.transaction(_bundle("batch", [device, *events]))
        statuses = [int(entry["response"]["status"][:3]) for entry in answer["entry"]]
        if statuses[0] >= 400 or 409 in statuses or 412 in statuses:
            raise UpstreamError("the FHIR server fails in a batch", code="fhir-server-error")
        return [event for event, status in zip(events, statuses[1:], strict=True) if status >= 400]


def _batched(events: list[Json], writer: AccessEventWriter) -> Iterator[list[Json]]:
    rest = iter(events)
    while some := list(islice(rest, writer.bundle_events)):
        yield some


def _bundle(kind: str, resources: list[Json]) -> Json:
    return {
        "resourceType": "Bundle",
        "type": kind,
        "entry": [
            {
                "resource": resource,
                "request": {
                    "method": "PUT",
                    "url": f"{resource['resourceType']}/{resource['id']}",
                },
            }
            for resource in resources
        ],
    }
