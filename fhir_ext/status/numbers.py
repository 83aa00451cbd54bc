"""Numbers for the page, read from HAPI in few requests and without waiting for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from fhir_ext.errors import FhirExtError
from fhir_ext.logs import get_logger, incident
from fhir_ext.resources.reading import PanelReading, read_panel

log = get_logger(__name__)

Json = dict[str, Any]

#: Longest wait (s) of one page for HAPI.
WAIT: Final = 2.0

#: Numbers older than this (s) are read again.
FRESH: Final = 4.0

#: Numbers older than this (s) are not shown, however slow HAPI is.
STALE: Final = 30.0

#: Ids in one search; a longer list would not fit the request line that Tomcat takes (8 KiB).
BATCH: Final = 100

#: What `read_panel` looks at.
ELEMENTS: Final = (
    "status,code,bodySite,component,hasMember,valueQuantity,valueCodeableConcept,dataAbsentReason"
)

#: What reading a resource raises that somebody else wrote in another shape.
_MISSHAPEN = (KeyError, TypeError, AttributeError, ValueError)


class Searcher(Protocol):
    """The part of the FHIR client that is needed."""

    def search(self, resource_type: str, params: Mapping[str, Any], limit: int = ...) -> list[Json]:
        """All matches."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Panels that were read; an id with None is one that HAPI does not have.

    Attributes:
        problem: why the others could not be read; empty when all were.
    """

    panels: Mapping[str, PanelReading | None]
    problem: str = ""


@dataclass(slots=True)
class _Round:
    """One reading of HAPI; `done` is set when the rest is final."""

    panels: dict[str, PanelReading | None] = field(default_factory=dict)
    problem: str = ""
    begun: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)

    def answers(self, panel_ids: Sequence[str]) -> bool:
        """Whether it says of all these panels how they stand, or why that is not known."""
        return bool(self.problem) or self.panels.keys() >= set(panel_ids)


class NumbersReader:
    """Reads panels for all viewers of the page.

    One reading runs at a time and serves everyone who asks meanwhile; a HAPI that hangs
    costs one thread, and each page `WAIT` seconds.

    Args:
        fhir: HAPI.
    """

    def __init__(self, fhir: Searcher) -> None:
        self._fhir = fhir
        self._lock = threading.Lock()
        self._last = _Round(begun=float("-inf"))
        self._running: _Round | None = None

    def read(self, panel_ids: Sequence[str]) -> Numbers:
        """The panels with these ids, at most `STALE` seconds old."""
        if not panel_ids:
            return Numbers({})
        deadline = time.monotonic() + WAIT
        while True:
            with self._lock:
                last = self._last
                age = time.monotonic() - last.begun
                if age < FRESH and last.answers(panel_ids):
                    return Numbers(last.panels, last.problem)
                running = self._running or self._start(panel_ids)
            if not running.done.wait(timeout=max(0.0, deadline - time.monotonic())):
                kept = last.panels if age < STALE else {}
                return Numbers(kept, "the FHIR server did not answer in time")
            if running.answers(panel_ids):
                return Numbers(running.panels, running.problem)

    def _start(self, panel_ids: Sequence[str]) -> _Round:
        """Called with the lock held."""
        running = self._running = _Round()
        threading.Thread(
            target=self._run, args=(running, tuple(panel_ids)), name="numbers", daemon=True
        ).start()
        return running

    def _run(self, running: _Round, panel_ids: Sequence[str]) -> None:
        try:
            running.panels = read_panels(self._fhir, panel_ids)
        except FhirExtError as error:
            running.problem = error.message
        except Exception as error:  # noqa: BLE001  the page must say so instead of waiting for ever
            running.problem = f"incident {incident(log, 'numbers-unreadable', error)} in the log"
        finally:
            with self._lock:
                self._last, self._running = running, None
            running.done.set()


def read_panels(fhir: Searcher, panel_ids: Sequence[str]) -> dict[str, PanelReading | None]:
    """Panels with their members, in one search per `BATCH` resources.

    Raises:
        UpstreamError: HAPI is down.
    """
    panels = _by_id(fhir, panel_ids)
    members = _by_id(fhir, dict.fromkeys(_member_ids(panels.values())))
    held = _Held({**members, **panels})
    return {panel_id: _panel(held, panel_id) for panel_id in panel_ids}


class _Held:
    """Resources that were read already, behind the interface that `read_panel` takes."""

    def __init__(self, observations: Mapping[str, Json]) -> None:
        self._observations = observations

    def find(self, _resource_type: str, resource_id: str) -> Json | None:
        return self._observations.get(resource_id)

    def search(
        self, _resource_type: str, params: Mapping[str, Any], limit: int = BATCH
    ) -> list[Json]:
        ids = params["_id"].split(",")
        return [self._observations[item] for item in ids if item in self._observations][:limit]


def _panel(held: _Held, panel_id: str) -> PanelReading | None:
    try:
        return read_panel(held, panel_id)
    except _MISSHAPEN:
        return None


def _by_id(fhir: Searcher, ids: Iterable[str]) -> dict[str, Json]:
    wanted = list(ids)
    found: dict[str, Json] = {}
    for begin in range(0, len(wanted), BATCH):
        some = ",".join(wanted[begin : begin + BATCH])
        # As many on one page as were asked for: no second request for the rest.
        params = {"_id": some, "_count": BATCH, "_elements": ELEMENTS}
        for resource in fhir.search("Observation", params, limit=BATCH):
            found[resource["id"]] = resource
    return found


def _member_ids(panels: Iterable[Json]) -> list[str]:
    references = [
        item.get("reference", "") for panel in panels for item in panel.get("hasMember", [])
    ]
    return [reference.removeprefix("Observation/").partition("/")[0] for reference in references]
