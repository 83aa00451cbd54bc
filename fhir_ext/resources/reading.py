"""Results read back from the FHIR server, in the words of `fhir_ext.results`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from fhir_ext.resources.codes import (
    CLASSIFIED_SITE,
    CONDITIONS,
    LATERALITY,
    LUNG,
    MEASUREMENT,
    REFUSAL_REASON,
    REGION_LATERALITY,
    REGION_SITE,
    RESULT_PART,
    SERIES_INSTANCE_UID,
)
from fhir_ext.resources.codes.naming import (
    CLASSIFICATIONS,
    DETECTIONS,
    MEASUREMENTS,
    category_in,
    service_in,
)
from fhir_ext.results import Region

Json = dict[str, Any]

#: Site and side, empty for what is not one of a pair, to region.
_REGION: Final = {
    (site.code, REGION_LATERALITY[region].code if region in REGION_LATERALITY else ""): region
    for region, site in REGION_SITE.items()
} | {(site.code, ""): region for region, site in CLASSIFIED_SITE.items()}


class Reader(Protocol):
    """The part of the FHIR client that is needed."""

    def find(self, resource_type: str, resource_id: str) -> Json | None: ...

    def search(self, resource_type: str, params: Mapping[str, Any], limit: int = ...) -> list[Json]:
        """All matches."""


@dataclass(frozen=True, slots=True)
class MemberReading:
    """One member of a panel as it stands in the server.

    Attributes:
        name: of the output, as `fhir_ext.results` has it.
        value, unit: number and UCUM unit; the score of a detection; None and empty when
            withheld, and of a classification.
        reason: code in the CodeSystem `refusal-reason`; empty when nothing is withheld.
        status: FHIR R4 Observation.status.
        kind: what it is.
        category: the category that stands, or the class of what was found; else empty.
        category_text: the same for people.
    """

    observation_id: str
    name: str
    region: Region
    status: str
    value: float | None = None
    unit: str = ""
    reason: str = ""
    kind: Literal["measurement", "classification", "detection"] = "measurement"
    category: str = ""
    category_text: str = ""


@dataclass(frozen=True, slots=True)
class PanelReading:
    """A panel with its members, in the order in which they were written.

    Attributes:
        code: code of the panel in the CodeSystem `measurement`; empty for a site's service.
        series_instance_uid: the series that was measured; empty when not stated.
        service: whose panel it is; empty when it is none of ours.
    """

    observation_id: str
    code: str
    status: str
    series_instance_uid: str
    members: tuple[MemberReading, ...]
    service: str = ""


def read_panel(fhir: Reader, panel_id: str) -> PanelReading | None:
    """A panel and its members in two requests; None when the panel does not exist.

    Members that do not exist any more, or say nothing in our codes, are left out.
    """
    panel = fhir.find("Observation", panel_id)
    if panel is None:
        return None
    ids = [
        item["reference"].removeprefix("Observation/").partition("/")[0]
        for item in panel.get("hasMember", [])
    ]
    found = fhir.search("Observation", {"_id": ",".join(ids)}) if ids else []
    by_id = {item["id"]: item for item in found}
    members = (read_member(by_id[member]) for member in ids if member in by_id)
    return PanelReading(
        observation_id=panel["id"],
        code=_code(panel["code"], MEASUREMENT.url),
        status=panel["status"],
        series_instance_uid=component_of(panel, SERIES_INSTANCE_UID.code).get("valueString", ""),
        members=tuple(member for member in members if member is not None),
        service=service_in(panel["code"]) or "",
    )


def read_member(observation: Json) -> MemberReading | None:
    """One number, category or place; None when it is not one of ours."""
    kind, name = _kind(observation["code"])
    region = _region(observation)
    if kind is None or region is None:
        return None
    quantity = observation.get("valueQuantity", {})
    if kind == "detection":
        score = component_of(observation, RESULT_PART.coding("score").code)
        quantity = score.get("valueQuantity", {})
    concept = observation.get("valueCodeableConcept", {})
    return MemberReading(
        observation_id=observation["id"],
        name=name,
        region=region,
        status=observation["status"],
        value=quantity.get("value"),
        unit=quantity.get("code", ""),
        reason=_code(observation.get("dataAbsentReason", {}), REFUSAL_REASON.url),
        kind=kind,
        category=category_in(concept) or DETECTIONS.name_in(concept),
        category_text=next((str(c.get("display", "")) for c in concept.get("coding", [])), ""),
    )


def _kind(
    concept: Json,
) -> tuple[Literal["measurement", "classification", "detection"] | None, str]:
    """What an Observation's code says that it is, and of which output."""
    if name := MEASUREMENTS.name_in(concept):
        return "measurement", name
    if name := CLASSIFICATIONS.name_in(concept):
        return "classification", name
    if name := DETECTIONS.name_in(concept):
        return "detection", name
    return None, ""


def _region(observation: Json) -> Region | None:
    side = component_of(observation, LATERALITY.code).get("valueCodeableConcept", {})
    side_code = next((c.get("code", "") for c in side.get("coding", [])), "")
    sites = [c.get("code", "") for c in observation.get("bodySite", {}).get("coding", [])]
    # Others write a side alone; the lung is the only organ whose numbers are read from them.
    sites = sites or [LUNG.code]
    return next((_REGION[site, side_code] for site in sites if (site, side_code) in _REGION), None)


def _code(concept: Json, system: str) -> str:
    codings = concept.get("coding", [])
    return next((c["code"] for c in codings if c.get("system") == system), "")


def component_of(observation: Json, code: str) -> Json:
    """The first component with a code; empty when there is none."""
    for component in observation.get("component", []):
        if any(c.get("code") == code for c in component["code"].get("coding", [])):
            return dict(component)
    return {}


def known_conditions(fhir: Reader, patient_reference: str, asked: Iterable[str]) -> frozenset[str]:
    """Keys of `CONDITIONS`, of those asked for, that are on a patient's problem list."""
    known = set()
    for key in sorted(set(asked)):
        codes = ",".join(f"{coding.system}|{coding.code}" for coding in CONDITIONS[key])
        found = fhir.search("Condition", {"patient": patient_reference, "code": codes})
        if any(_is_active(condition) for condition in found):
            known.add(key)
    return frozenset(known)


def _is_active(condition: Json) -> bool:
    """Whether a Condition counts as known: neither refuted nor entered in error."""
    codings = condition.get("verificationStatus", {}).get("coding", [])
    return not any(coding.get("code") in ("refuted", "entered-in-error") for coding in codings)
