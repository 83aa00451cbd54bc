"""The searches behind a score: one batch for everything that the asked models need.

Codes are merged by resource type. Conditions, medications and family history are fetched
without codes: classifications nest, and FHIR has no search for "begins with".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode

from fhir_ext.auth.grant import SmartScope
from fhir_ext.errors import NotFoundError
from fhir_ext.gateway.access import Access
from operations.risk_score.chart_codes import (
    MEDICATION_TYPES,
    NODULE_INPUTS,
    ChartTable,
    CodeSet,
    chart_table,
)

Json = dict[str, Any]
Params = tuple[tuple[str, str], ...]

#: What a search may bring at once; more than the newest of it is seldom looked at.
PAGE: Final = 100

#: Of the inputs that a full page left open, so many of the newest values are looked at.
CLOSER: Final = 20

#: A chart with more conditions, medications or relatives than this is read in part.
LONGEST: Final = 2000

_ELEMENTS: Final = {
    "Observation": "status,code,effective,issued,value,component,bodySite,derivedFrom",
    "Condition": "clinicalStatus,verificationStatus,code,onset,abatement,recordedDate",
    "MedicationRequest": "status,intent,doNotPerform,medication,authoredOn,code,contained",
    "MedicationStatement": "status,medication,effective,dateAsserted,code,contained",
    "FamilyMemberHistory": "status,date,relationship,condition",
}

#: Search parameters of a scope that may be added to a search as they are.
_PLAIN: Final = frozenset({"category", "code", "status", "clinical-status", "intent", "date"})

#: What a type may be read with: parameters to add, one search for each; none: not at all.
Rights = Callable[[str], tuple[Params, ...]]


class Reader(Protocol):
    """The part of the FHIR client that is needed."""

    def batch(self, queries: list[str]) -> list[Json | None]: ...

    def search(self, resource_type: str, params: dict[str, Any], limit: int = ...) -> list[Json]:
        """All matches."""


@dataclass(frozen=True, slots=True)
class Search:
    """One search of the batch.

    Attributes:
        names: inputs that it is for.
        params: without `_count`.
    """

    resource_type: str
    names: tuple[str, ...]
    params: Params

    def url(self, count: int) -> str:
        query = (*self.params, ("_count", str(count)))
        return f"{self.resource_type}?{urlencode(query, quote_via=quote)}"


def everything(_resource_type: str) -> tuple[Params, ...]:
    """Rights of our own programs."""
    return ((),)


def rights_of(access: Access) -> Rights:
    """What the token of a request may read.

    A type needs a scope that searches or reads it. Where a scope has a restriction, only what
    every restricted scope names is looked at, and a restriction that cannot be added to a
    search counts as no scope.
    """

    def rights(resource_type: str) -> tuple[Params, ...]:
        letters = [c for c in "sr" if access.may(c, resource_type)]
        scopes = [
            scope
            for scope in access.grant.scopes
            if any(scope.covers(resource_type, frozenset(letter)) for letter in letters)
        ]
        if not any(scope.restriction for scope in scopes):
            return ((),) if scopes else ()
        return tuple(dict.fromkeys(s.restriction for s in scopes if _can_be_added(s)))

    return rights


def _can_be_added(scope: SmartScope) -> bool:
    return bool(scope.restriction) and all(name in _PLAIN for name, _ in scope.restriction)


class ChartFetcher:
    """Fetches what the chart of one patient says about some inputs.

    Args:
        fhir: the FHIR server.
    """

    def __init__(self, fhir: Reader, table: ChartTable | None = None) -> None:
        self._fhir = fhir
        self._table = table or chart_table()

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
        before = as_of if as_of < today else None
        searches = list(self.searches(patient_id, names, before, rights))
        queries = [f"Patient/{patient_id}", *(search.url(PAGE) for search in searches)]
        patient, *answers = self._fhir.batch(queries)
        if patient is None:
            raise NotFoundError("there is no such Patient", code="resource-not-found")
        found = [patient] if rights("Patient") else []
        closer: list[Search] = []
        for search, answer in zip(searches, answers, strict=True):
            resources = _resources(answer)
            if len(resources) < PAGE:
                found += resources
            elif search.resource_type == "Observation":
                found += resources
                closer += self._closer(search, resources)
            else:
                params = {**dict(search.params), "_count": PAGE}
                found += self._fhir.search(search.resource_type, params, LONGEST)
        if closer:
            for answer in self._fhir.batch([search.url(CLOSER) for search in closer]):
                found += _resources(answer)
        return patient, _once(found)

    def searches(
        self, patient_id: str, names: Collection[str], before: date | None, rights: Rights
    ) -> Iterator[Search]:
        """The searches of the batch, besides that for the Patient.

        Args:
            before: nothing later is asked for; None for today.
        """
        codes = {name: self._tokens(name) for name in names}
        observed = tuple(name for name, tokens in codes.items() if tokens)
        if observed:
            tokens = sorted({token for name in observed for token in codes[name]})
            yield from _observation_search(patient_id, observed, tokens, before, rights)
        others: dict[str, list[str]] = {}
        for rule in self._table.of(names):
            for kind in MEDICATION_TYPES if rule.resource == "Medication" else (rule.resource,):
                if kind not in ("Patient", "Observation"):
                    others.setdefault(kind, []).append(rule.name)
        for kind, wanted in others.items():
            yield from _other_search(kind, patient_id, tuple(dict.fromkeys(wanted)), rights)

    def _tokens(self, name: str) -> list[str]:
        """Codes of the Observations that give an input."""
        if name in NODULE_INPUTS:
            return self._table.nodule.codes.tokens()
        sets: list[CodeSet] = []
        for rule in self._table.of((name,)):
            if rule.resource == "Observation":
                sets += [rule.codes, rule.panels]
        return sorted({token for codes in sets for token in codes.tokens()})

    def _closer(self, search: Search, resources: list[Json]) -> Iterator[Search]:
        """Searches for the inputs of which a full page holds nothing."""
        seen = {
            f"{coding.get('system')}|{coding.get('code')}"
            for resource in resources
            for coding in resource.get("code", {}).get("coding", [])
        }
        for name in search.names:
            tokens = self._tokens(name)
            if not seen & set(tokens):
                params = tuple(
                    (key, ",".join(tokens) if key == "code" else value)
                    for key, value in search.params
                )
                yield Search(search.resource_type, (name,), params)


def _observation_search(
    patient_id: str,
    names: tuple[str, ...],
    tokens: list[str],
    before: date | None,
    rights: Rights,
) -> Iterator[Search]:
    params = [
        ("patient", patient_id),
        ("code", ",".join(tokens)),
        ("_sort", "-date"),
        ("_elements", _ELEMENTS["Observation"]),
    ]
    if before is not None:
        params.append(("date", f"le{before.isoformat()}"))
    for restriction in rights("Observation"):
        yield Search("Observation", names, (*params, *restriction))


def _other_search(
    kind: str, patient_id: str, names: tuple[str, ...], rights: Rights
) -> Iterator[Search]:
    params = [("patient", patient_id), ("_elements", _ELEMENTS[kind])]
    if kind in MEDICATION_TYPES:
        params.append(("status", "active"))
        if rights("Medication") == ((),):
            params.append(("_include", f"{kind}:medication"))
    for restriction in rights(kind):
        yield Search(kind, names, (*params, *restriction))


def _resources(answer: Json | None) -> list[Json]:
    return [
        entry["resource"]
        for entry in (answer or {}).get("entry", [])
        if entry.get("search", {}).get("mode") != "outcome"
    ]


def _once(resources: Iterable[Json]) -> list[Json]:
    """Each resource once, where several searches found it."""
    return list({(r["resourceType"], r.get("id")): r for r in resources}.values())
