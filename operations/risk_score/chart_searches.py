"""The searches behind a score, for everything that the asked models need.

Observations are one search, their codes merged, newest first. What is fetched without codes,
because classifications nest and FHIR has no search for "begins with", comes along with the
Patient, as long as there is little of it; orders of medications are fetched by themselves, since
only those in use are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, Final
from urllib.parse import quote, urlencode

from fhir_ext.auth.grant import SmartScope
from fhir_ext.gateway.access import Access
from operations.risk_score.chart_codes import (
    MEDICATION_TYPES,
    NODULE_INPUTS,
    ChartTable,
    CodeSet,
    chart_table,
)
from operations.risk_score.chart_time import years_before

Json = dict[str, Any]
Params = tuple[tuple[str, str], ...]

#: What a search may bring at once; more than the newest of it is seldom looked at.
PAGE: Final = 100

#: Types that come along with the Patient, and how many resources may: HAPI takes 1000 at most
#: and does not say what it leaves out.
_ALONG: Final = ("Condition", "FamilyMemberHistory", "MedicationStatement")
ALONG: Final = 800

_ELEMENTS: Final = {
    "Patient": "gender,birthDate,deceased,extension",
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

    def paged(self) -> dict[str, Any]:
        """Parameters for following its pages."""
        params: dict[str, Any] = {"_count": PAGE}
        for key, value in self.params:
            params.setdefault(key, []).append(value)
        return params


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


@dataclass(frozen=True, slots=True)
class Plan:
    """What a batch asks for.

    Attributes:
        patient: relative URL of the Patient and what comes along.
        along: types that come along with the Patient.
        searches: the rest.
    """

    patient: str
    along: tuple[str, ...]
    searches: tuple[Search, ...]


class Planner:
    """Works out the searches for some inputs of one patient."""

    def __init__(self, table: ChartTable | None = None) -> None:
        self._table = table or chart_table()

    def plan(
        self, patient_id: str, names: Collection[str], as_of: date, *, today: date, rights: Rights
    ) -> Plan:
        """The searches for some inputs; without names, the Patient alone.

        Args:
            as_of: nothing later is asked for, and nothing that is too old on that day.
        """
        kinds: dict[str, list[str]] = {}
        for rule in self._table.of(names):
            for kind in MEDICATION_TYPES if rule.resource == "Medication" else (rule.resource,):
                if kind not in ("Patient", "Observation"):
                    kinds.setdefault(kind, []).append(rule.name)
        along = tuple(k for k in kinds if k in _ALONG and rights(k) == ((),))
        searches = list(self._observations(patient_id, names, as_of, today, rights))
        for kind, wanted in kinds.items():
            if kind not in along:
                named = tuple(dict.fromkeys(wanted))
                searches += _of_type(kind, patient_id, named, rights)
        return Plan(_patient_url(patient_id, along, rights), along, tuple(searches))

    def closer(self, search: Search, resources: list[Json]) -> Iterator[Search]:
        """Searches for the inputs of which a full page of Observations holds nothing."""
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

    def _observations(
        self, patient_id: str, names: Collection[str], as_of: date, today: date, rights: Rights
    ) -> Iterator[Search]:
        codes = {name: found for name in names if (found := self._tokens(name))}
        if not codes:
            return
        params = [
            ("patient", patient_id),
            ("code", ",".join(sorted({token for found in codes.values() for token in found}))),
            ("_sort", "-date"),
            ("_elements", _ELEMENTS["Observation"]),
        ]
        windows = [self._window(name) for name in codes]
        if all(windows):
            oldest = years_before(as_of, max(window or 0 for window in windows))
            params.append(("date", f"ge{oldest.isoformat()}"))
        if as_of < today:
            params.append(("date", f"le{as_of.isoformat()}"))
        for restriction in rights("Observation"):
            yield Search("Observation", tuple(codes), (*params, *restriction))

    def _window(self, name: str) -> int | None:
        """Years that the Observations of an input may lie back; None for any time."""
        if name in NODULE_INPUTS:
            return self._table.nodule.years
        found = [r.years for r in self._table.of((name,)) if r.resource == "Observation"]
        return max((years or 0 for years in found), default=0) if all(found) else None

    def _tokens(self, name: str) -> list[str]:
        """Codes of the Observations that give an input."""
        if name in NODULE_INPUTS:
            return self._table.nodule.codes.tokens()
        sets: list[CodeSet] = []
        for rule in self._table.of((name,)):
            if rule.resource == "Observation":
                sets += [rule.codes, rule.panels]
        return sorted({token for codes in sets for token in codes.tokens()})


def paged(kind: str, patient_id: str) -> dict[str, Any]:
    """Parameters of a search for everything of a type that comes along otherwise."""
    return {"patient": patient_id, "_elements": _ELEMENTS[kind], "_count": PAGE}


def _patient_url(patient_id: str, along: tuple[str, ...], rights: Rights) -> str:
    if not along:
        return f"Patient/{patient_id}"
    elements = ",".join(_ELEMENTS[kind] for kind in ("Patient", *along))
    params = [("_id", patient_id), *(("_revinclude", f"{kind}:patient") for kind in along)]
    if "MedicationStatement" in along and rights("Medication") == ((),):
        params.append(("_include:iterate", "MedicationStatement:medication"))
    params += [("_elements", elements), ("_count", str(ALONG))]
    return f"Patient?{urlencode(params, quote_via=quote, safe=',:')}"


def _of_type(
    kind: str, patient_id: str, names: tuple[str, ...], rights: Rights
) -> Iterator[Search]:
    params = [("patient", patient_id), ("_elements", _ELEMENTS[kind])]
    if kind in MEDICATION_TYPES:
        params.append(("status", "active"))
        if rights("Medication") == ((),):
            params.append(("_include", f"{kind}:medication"))
    for restriction in rights(kind):
        yield Search(kind, names, (*params, *restriction))
