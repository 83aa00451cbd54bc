"""A classification as DICOM SR: a TID 1501 group of a TID 1500 report.

    Measurement Group, one per classification                   (TID 1501)
    ├── tracking identifier and UID, algorithm, finding site
    ├── qualitative evaluation: the category, or the coded reason why there is none
    ├── probability of every category                           (TID 300)
    └── source images

highdicom takes about a second to import: import this module only where an SR is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from highdicom.sr import (
    CodedConcept,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    TrackingIdentifier,
)
from pydicom import Dataset

from fhir_ext.dicom.sr import algorithm, concept, document, report, source_images
from fhir_ext.resources import codes
from fhir_ext.resources.codes import Coding
from fhir_ext.resources.observation import tracking_uid
from fhir_ext.results import Classification, ServiceResult

_NO_UNITS = CodedConcept(value="1", meaning="no units", scheme_designator="UCUM")


def build_classification_sr(
    result: ServiceResult,
    item: Classification,
    evidence: Sequence[Dataset],
    issued: datetime,
    procedure: Coding = codes.MAMMOGRAPHY,
) -> Dataset:
    """The SR of one classification; the same arguments give the same bytes.

    Args:
        result: the work that it came from.
        item: the category, or why there is none.
        evidence: the source instances (headers suffice); patient and study modules are
            copied from the first.
        issued: content date and time; aware.
        procedure: procedure reported.

    Raises:
        ValueError: no evidence, or `issued` is naive.
        KeyError: the classification or its category has no code.
    """
    group = classification_group(result, item, evidence)
    return document(result, report(result, [group], procedure), evidence, issued)


def classification_group(
    result: ServiceResult, item: Classification, sources: Sequence[Dataset]
) -> MeasurementsAndQualitativeEvaluations:
    """TID 1501 of one classification, for a report that may hold other groups."""
    name = concept(codes.STANDARD_CLASSIFICATION[item.name])
    if item.chosen is not None:
        value = codes.STANDARD_CATEGORY[item.name][item.chosen]
    else:
        value = codes.REFUSAL_REASON.coding_or_other(item.refusal.rule if item.refusal else "")
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=tracking_uid(result, item.region), identifier=codes.REGION_TEXT[item.region]
        ),
        algorithm_id=algorithm(result),
        finding_sites=[
            FindingSite(
                anatomic_location=concept(codes.REGION_SITE[item.region]),
                laterality=concept(codes.REGION_LATERALITY[item.region]),
            )
        ],
        measurements=[
            Measurement(
                name=concept(codes.CLASSIFICATION.coding(f"{item.name}-{category}-probability")),
                value=round(probability, 6),
                unit=_NO_UNITS,
            )
            for category, probability in zip(item.categories, item.probabilities, strict=False)
        ],
        qualitative_evaluations=[QualitativeEvaluation(name=name, value=concept(value))],
        source_images=source_images(sources),
    )
