"""What becomes of the conclusions (RiskAssessment, DetectedIssue) when a human decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.resources import codes
from fhir_ext.resources.codes import concept
from fhir_ext.resources.codes.naming import (
    CLASSIFICATIONS,
    MEASUREMENTS,
    codings_of_category,
    probability_in,
)
from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.detected_issue import detected_issue
from fhir_ext.resources.reading import known_conditions
from fhir_ext.resources.result_reading import result_of
from fhir_ext.resources.review import UNSIGNED, Decision, Follow, Reviewed, signed, withdrawn
from fhir_ext.resources.risk_assessment import risk_assessment
from fhir_ext.results import StandardCode
from models.manifest.base import Code
from models.manifest.outputs import Classification
from models.registry import Registry

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conclusions:
    """Follows a decision to what rests on the numbers.

    Attributes:
        registry: whose services may say what follows from changed numbers.
    """

    fhir: FhirClient
    registry: Registry

    def follow(self, reviewed: Reviewed, decision: Decision) -> list[Follow]:
        """What is written about risks and issues; what a human signed before is left out.

        Raises:
            UnprocessableError: changed numbers belong to a result that cannot be read back.
        """
        held = [item for item in _raised(reviewed) if item["status"] in UNSIGNED]
        changed = frozenset(f"Observation/{target}" for target in decision.changed)
        if not changed:
            return [Follow(item, signed(item, decision)) for item in held]
        derived = self._derived(reviewed, decision)
        follows = []
        for item in held:
            if not _rests_on(item, changed):
                follows.append(Follow(item, signed(item, decision)))
            elif (now := derived.get(item["id"]) if derived is not None else None) is not None:
                follows.append(Follow(item, _restated(item, now)))
            else:
                follows.append(Follow(item, withdrawn(item, decision, "cancelled")))
        there = {item["id"] for item in _raised(reviewed)}
        follows += [
            Follow(None, {**item, "status": "final"})
            for key, item in (derived or {}).items()
            if key not in there and _rests_on(item, changed)
        ]
        return follows

    def _derived(self, reviewed: Reviewed, decision: Decision) -> dict[str, Json] | None:
        """Risks and issues that the model's own rule draws from the numbers as they are now.

        Returns:
            By id; None when nobody here can say.
        """
        panel = reviewed.panel
        parts = device_and_study(self.fhir, panel)
        result = result_of(panel, with_values(reviewed.members, decision), *parts)
        found = self.registry.derive(result.model, result.measurements)
        if found is None:
            return None
        risks, issues = found
        context = _context(panel)
        asked = (issue.known_condition for issue in issues if issue.known_condition)
        known = known_conditions(self.fhir, context.patient_reference, asked)
        there = {item["id"] for item in reviewed.issues}
        built = [risk_assessment(result, risk, context) for risk in risks]
        for issue in issues:
            made = detected_issue(result, issue, context)
            # One that was raised before the problem list named it is still this review's.
            if made["id"] in there or issue.known_condition not in known:
                built.append(made)
        return {item["id"]: item for item in built}


def with_values(members: Sequence[Json], decision: Decision) -> list[Json]:
    """The members with the numbers of the decision in place of the machine's."""
    values = decision.values or {}
    return [
        {
            **{key: value for key, value in member.items() if key != "dataAbsentReason"},
            "valueQuantity": values[member["id"]],
        }
        if member["id"] in values
        else member
        for member in members
    ]


def device_and_study(fhir: FhirClient, panel: Json) -> tuple[Json, Json]:
    """The Device and the ImagingStudy of a panel."""
    return fhir.read(*_parts(panel["device"])), fhir.read(*_parts(panel["derivedFrom"][0]))


def _raised(reviewed: Reviewed) -> tuple[Json, ...]:
    return (*reviewed.risks, *reviewed.issues)


def _rests_on(item: Json, changed: Iterable[str]) -> bool:
    """Whether a changed number is among the evidence."""
    evidence = [detail for each in item.get("evidence", []) for detail in each.get("detail", [])]
    named = {reference.get("reference") for reference in (*item.get("basis", []), *evidence)}
    return not named.isdisjoint(changed)


def _restated(before: Json, derived: Json) -> Json:
    """The conclusion drawn again: amended when it says something else than before."""
    said = {**before, **{key: value for key, value in derived.items() if key != "meta"}}
    same = {**said, "status": before["status"]} == before
    return {**said, "status": "final" if same else "amended"}


def _context(panel: Json) -> WriteContext:
    return WriteContext(
        patient_reference=panel["subject"]["reference"],
        imaging_study_id=_parts(panel["derivedFrom"][0])[1],
        imaging_study_version="",
        issued=datetime.fromisoformat(panel["issued"]),
        started=panel.get("effectiveDateTime"),
    )


def _parts(reference: Json) -> tuple[str, str]:
    """Type and id of a relative reference."""
    kind, _, resource_id = reference["reference"].partition("/")
    return kind, resource_id.partition("/")[0]


def unit_of(member: Json, registry: Registry, service: str) -> str | None:
    """UCUM unit in which a member is, or would be, given; None when nobody can say."""
    if "valueQuantity" in member:
        return str(member["valueQuantity"].get("code", "")) or None
    name = MEASUREMENTS.name_in(member["code"])
    if name.endswith(codes.COUNT_SUFFIX):
        return "1"
    if service not in registry.services():
        return None
    outputs = registry.manifest(service).measurements
    return next((output.unit for output in outputs if output.name == name), None)


def categories_of(member: Json, registry: Registry, service: str) -> dict[tuple[str, str], Json]:
    """Every coding of every category that a member may have, to the concept that is written.

    Those that the machine gave probabilities for, and those of the manifest where it is
    installed; empty when nobody can say.
    """
    name = CLASSIFICATIONS.name_in(member["code"])
    parts = (part["code"] for part in member.get("component", []))
    known: dict[str, StandardCode | None] = dict.fromkeys(
        category for category in (probability_in(part, name) for part in parts) if category
    )
    if service in registry.services():
        known |= _categories(registry, service, name)
    found = {}
    for category, stated in known.items():
        codings = codings_of_category(service, name, category, stated)
        for coding in codings:
            found[coding.system, coding.code] = concept(*codings)
    return found


def _categories(registry: Registry, service: str, name: str) -> dict[str, StandardCode | None]:
    """Categories of a classification and what the manifest calls them elsewhere."""
    for output in registry.manifest(service).outputs:
        if not isinstance(output, Classification):
            continue
        if output.exclusive and output.name == name:
            return {item.name: stated(item.code) for item in output.classes}
        for result, categories in output.results():
            if result == name:
                return dict.fromkeys(categories)
    return {}


def stated(code: Code | None) -> StandardCode | None:
    """A code of a manifest as results carry it."""
    return None if code is None else StandardCode(code.system, code.code, code.display)
