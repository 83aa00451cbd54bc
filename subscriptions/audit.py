"""The chore `audit`: accesses that the gateway noted become AuditEvents in the FHIR server."""

from __future__ import annotations

from collections.abc import Iterable
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
from fhir_ext.resources.bundle import put_entry, transaction
from fhir_ext.resources.device import software_device
from fhir_ext.resources.ids import software_device_id

Json = dict[str, Any]

#: AuditEvents in one transaction. HAPI 8.8.0 on H2 and two busy cores took 105 to 236 a second
#: in tens, 240 to 280 in 25s and 50s, 190 to 300 in hundreds, which hold it for half a second.
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
        size = self._bundle_events
        bundles = (events[first : first + size] for first in range(0, len(events), size))
        refused = unreadable + sum(map(self._write, bundles))
        if refused:
            raise ParkedWork(
                f"{refused} of {len(events) + unreadable} audit entries cannot be written",
                code="fhir-refused",
            )

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
        """Write events in one transaction, or each alone; returns how many are refused."""
        try:
            self._fhir.transaction(transaction([put_entry(event) for event in events]))
        except (UnprocessableError, NotFoundError):
            pass
        except UpstreamError as error:
            # A single event may make the server fail; that it is up shows below.
            if error.code != "fhir-server-error":
                raise
        else:
            return 0
        left = [event for event in events if not self._put(event)]
        loose = [without_links(event, self._server.base_url) for event in left]
        return sum(not self._put(event) for event in loose)

    def _put(self, event: Json) -> bool:
        """Write one event; False when the server refuses it.

        Raises:
            UpstreamError: the server fails at what it took before, so the event is not to blame.
        """
        try:
            self._fhir.put(event)
        except (UnprocessableError, NotFoundError):
            return False
        except UpstreamError as error:
            if error.code != "fhir-server-error":
                raise
            self._fhir.put(software_device(__version__))
            return False
        return True
