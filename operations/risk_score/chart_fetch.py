"""Fetches what the chart of one patient says: one batch, and more only for long charts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import date
from typing import Any, Final, Protocol

from fhir_ext.errors import NotFoundError
from operations.risk_score.chart_codes import ChartTable
from operations.risk_score.chart_searches import (
    ALONG,
    PAGE,
    Planner,
    Rights,
    Search,
    everything,
    paged,
)

Json = dict[str, Any]

#: Of the inputs that a full page left open, so many of the newest values are looked at.
CLOSER: Final = 20

#: A chart with more conditions, medications or relatives than this is read in part.
LONGEST: Final = 2000


class Reader(Protocol):
    """The part of the FHIR client that is needed."""

    def batch(self, queries: list[str]) -> list[Json | None]: ...

    def search(self, resource_type: str, params: dict[str, Any], limit: int = ...) -> list[Json]:
        """All matches."""


class ChartFetcher:
    """Fetches what the chart of one patient says about some inputs.

    Args:
        fhir: the FHIR server.
    """

    def __init__(self, fhir: Reader, table: ChartTable | None = None) -> None:
        self._fhir = fhir
        self._planner = Planner(table)

    def fetch(
        self,
        patient_id: str,
        names: Collection[str],
        as_of: date,
        *,
        today: date,
        rights: Rights = everything,
    ) -> tuple[Json, list[Json]]:
        """The Patient, and the resources that may say something about the inputs.

        Without names only the Patient is read. It is always read, to know that it exists,
        and left out of the resources when it may not be read.

        Raises:
            NotFoundError: there is no such Patient.
            UpstreamError: the FHIR server failed.
        """
        plan = self._planner.plan(patient_id, names, as_of, today=today, rights=rights)
        queries = [plan.patient, *(search.url(PAGE) for search in plan.searches)]
        first, *answers = self._fhir.batch(queries)
        along = _resources(first)
        patient = next((r for r in along if r["resourceType"] == "Patient"), None)
        if patient is None:
            raise NotFoundError("there is no such Patient", code="resource-not-found")
        found = [r for r in along if r is not patient]
        if len(along) >= ALONG:
            for kind in plan.along:
                found += self._fhir.search(kind, paged(kind, patient_id), LONGEST)
        if rights("Patient"):
            found.append(patient)
        closer: list[Search] = []
        for search, answer in zip(plan.searches, answers, strict=True):
            resources = _resources(answer)
            found += resources
            if len(resources) < PAGE:
                continue
            if search.resource_type == "Observation":
                closer += self._planner.closer(search, resources)
            else:
                found += self._fhir.search(search.resource_type, search.paged(), LONGEST)
        if closer:
            for answer in self._fhir.batch([search.url(CLOSER) for search in closer]):
                found += _resources(answer)
        return patient, _once(found)


def _resources(answer: Json | None) -> list[Json]:
    """What one entry was answered: a resource, or the resources of a Bundle."""
    if answer is None or answer["resourceType"] != "Bundle":
        return [answer] if answer else []
    return [
        entry["resource"]
        for entry in answer.get("entry", [])
        if entry.get("search", {}).get("mode") != "outcome"
    ]


def _once(resources: Iterable[Json]) -> list[Json]:
    """Each resource once, where several searches found it."""
    return list({(r["resourceType"], r.get("id")): r for r in resources}.values())
