"""Pieces of an SR that all its groups use: concepts, numbers, categories, comments.

highdicom takes about a second to import: import this module only where an SR is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    ContentSequence,
    FindingSite,
    Measurement,
    NumContentItem,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
)
from pydicom import Dataset

from fhir_ext.resources import codes
from fhir_ext.resources.codes import MANUFACTURER, Coding
from fhir_ext.results import Region, ServiceResult, Uncertainty

_SCHEME: Final = {codes.SCT: "SCT", codes.DCM: "DCM", codes.LN: "LN"}
_UNITS: Final = {
    "%": "Percent",
    "[hnsf'U]": "Hounsfield unit",
    "mL": "milliliter",
    "mm": "millimeter",
    "mm3": "cubic millimeter",
    "1": "no units",
}
#: The two halves of CID 225 that TID 310 has.
_RANGES: Final = (
    ("371886008", "+, range of upper measurement uncertainty"),
    ("371885007", "-, range of lower measurement uncertainty"),
)


def concept(coding: Coding) -> CodedConcept:
    """A coding of ours or of a standard as SR writes it."""
    return CodedConcept(
        value=coding.code,
        meaning=coding.display[:64],
        scheme_designator=_SCHEME.get(coding.system, codes.PRIVATE_SCHEME),
    )


def best(codings: Sequence[Coding]) -> CodedConcept:
    """The first coding of a standard that DICOM has a designator for, else the first of all.

    A system without a designator would have to be written as ours, which it is not.
    """
    return concept(next((item for item in codings if item.system in _SCHEME), codings[0]))


def our_scheme() -> CodingSchemeIdentificationItem:
    """Who is behind our coding scheme designator (PS3.3 C.12.1.1.6)."""
    return CodingSchemeIdentificationItem(
        designator=codes.PRIVATE_SCHEME,
        name="fhir-ext local codes",
        responsible_organization="fhir-ext developers",
    )


def unit(ucum: str) -> CodedConcept:
    """A UCUM unit."""
    return CodedConcept(value=ucum, meaning=_UNITS.get(ucum, ucum), scheme_designator="UCUM")


def number(
    name: CodedConcept,
    value: float,
    ucum: str,
    *,
    uncertainty: Uncertainty | None = None,
    by_hand: bool = False,
    method: Coding | None = None,
) -> Measurement:
    """TID 300; a human's number says so, and an uncertainty is TID 310 in the number's unit."""
    if by_hand:
        method = codes.HUMAN_VALUE.coding("human-value")
    found = Measurement(
        name=name,
        value=value,
        unit=unit(ucum),
        method=None if method is None else concept(method),
    )
    if uncertainty is not None:
        # highdicom's MeasurementProperties states every range without a unit.
        ranges = [
            NumContentItem(
                name=CodedConcept(value=code, meaning=meaning, scheme_designator="SCT"),
                value=uncertainty.value,
                unit=unit(ucum),
                relationship_type=RelationshipTypeValues.HAS_PROPERTIES,
            )
            for code, meaning in _RANGES
        ]
        found[0].ContentSequence = ContentSequence(
            [*(found[0].get("ContentSequence") or ()), *ranges]
        )
    return found


def evaluation(
    name: CodedConcept, value: CodedConcept, *, by_hand: bool = False
) -> QualitativeEvaluation:
    """A question and its coded answer; a human's answer says so as a human's number does."""
    found = QualitativeEvaluation(name=name, value=value)
    if by_hand:
        method = CodeContentItem(
            name=concept(codes.MEASUREMENT_METHOD),
            value=concept(codes.HUMAN_VALUE.coding("human-value")),
            relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
        )
        found[0].ContentSequence = ContentSequence([method])
    return found


def comments(texts: Iterable[str]) -> list[TextContentItem]:
    """Comments inside of a measurement group."""
    return [
        TextContentItem(
            name=concept(codes.COMMENT),
            value=text,
            relationship_type=RelationshipTypeValues.CONTAINS,
        )
        for text in dict.fromkeys(texts)
    ]


def finding_site(region: Region) -> FindingSite:
    """TID 1501: where, with the side of one of a pair."""
    side = codes.REGION_LATERALITY.get(region)
    return FindingSite(
        anatomic_location=concept(codes.REGION_SITE[region]),
        laterality=None if side is None else concept(side),
    )


def algorithm(result: ServiceResult) -> AlgorithmIdentification:
    """TID 4019: the model version, its settings, and what its uncertainties mean."""
    parameters = [f"settings sha256 {result.model.settings_hash}"]
    for item in result.measurements:
        if item.uncertainty is not None:
            parameters.append(f"uncertainty of {item.name}: {_meaning(item.uncertainty)}")
    return AlgorithmIdentification(
        name=result.model.id,
        version=result.model.version,
        parameters=list(dict.fromkeys(parameters)),
        manufacturer=MANUFACTURER,
    )


def _meaning(uncertainty: Uncertainty) -> str:
    if uncertainty.kind == "sd":
        return "one standard deviation"
    level = "" if uncertainty.level is None else f" of level {uncertainty.level:g}"
    return f"half of the confidence interval{level}"


def source_images(sources: Sequence[Dataset]) -> list[SourceImageForMeasurementGroup]:
    """References to the images that a group was made from."""
    return [
        SourceImageForMeasurementGroup(
            referenced_sop_class_uid=image.SOPClassUID,
            referenced_sop_instance_uid=image.SOPInstanceUID,
        )
        for image in sources
    ]
