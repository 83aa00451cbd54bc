"""The measurement groups of an SR: one per region (TID 1501), one per place (TID 1411).

highdicom takes about a second to import: import this module only where an SR is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from highdicom.sr import (
    CodedConcept,
    MeasurementsAndQualitativeEvaluations,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumeSurface,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom import Dataset

from fhir_ext.dicom import sr_items as items
from fhir_ext.resources import codes
from fhir_ext.resources.codes import Coding, naming
from fhir_ext.resources.codes.segments import SEGMENT_METHOD
from fhir_ext.resources.detection import detection_uid
from fhir_ext.resources.observation import refusal_text, tracking_uid
from fhir_ext.results import Classification, Measurement, Refusal, Region, ServiceResult

#: (name of the output, region) of a number or category.
Key = tuple[str, Region]

#: Decimals of millimetres that are written.
_DECIMALS: Final = 2

Group = MeasurementsAndQualitativeEvaluations | VolumetricROIMeasurementsAndQualitativeEvaluations


def groups(
    result: ServiceResult, sources: Sequence[Dataset], by_hand: frozenset[Key]
) -> list[Group]:
    """All groups of a result; the first one names the images, which are those of all.

    Args:
        sources: the source instances (headers suffice).
        by_hand: what a human gave.

    Raises:
        KeyError: a region has no code.
    """
    found: list[Group] = []
    for at, region in enumerate(_regions(result)):
        found.append(_region(result, region, None if at else sources, by_hand))
    found += [_place(result, at) for at in range(len(result.detections))]
    _annotate(result, found)
    return found


def _regional(result: ServiceResult) -> tuple[Measurement | Classification, ...]:
    return (*result.measurements, *result.classifications)


def _regions(result: ServiceResult) -> list[Region]:
    """Regions that have a group, in its order."""
    return list(dict.fromkeys(item.region for item in _regional(result)))


def _region(
    result: ServiceResult,
    region: Region,
    sources: Sequence[Dataset] | None,
    by_hand: frozenset[Key],
) -> MeasurementsAndQualitativeEvaluations:
    """TID 1501 of one region: a whole organ, so no coordinates."""
    numbers = [item for item in result.measurements if item.region is region]
    decided = [item for item in result.classifications if item.region is region]
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=tracking_uid(result, region), identifier=codes.REGION_TEXT[region]
        ),
        algorithm_id=items.algorithm(result),
        finding_sites=[items.finding_site(region)],
        measurements=[
            *(
                items.number(
                    _name(result, item),
                    item.value,
                    item.unit,
                    uncertainty=item.uncertainty,
                    by_hand=(item.name, region) in by_hand,
                    method=_method(result, item),
                )
                for item in numbers
                if item.value is not None
            ),
            *(
                items.number(
                    items.concept(naming.probability_coding(result, item, category)),
                    round(probability, 6),
                    "1",
                )
                for item in decided
                for category, probability in zip(item.categories, item.probabilities, strict=False)
            ),
        ],
        qualitative_evaluations=[
            *(
                items.evaluation(
                    items.concept(naming.measurement_codings(result, item)[0]),
                    _reason(item.refusal),
                )
                for item in numbers
                if item.refusal is not None
            ),
            *(
                items.evaluation(
                    items.best(naming.classification_codings(result, item)),
                    _answer(result, item),
                    by_hand=(item.name, region) in by_hand,
                )
                for item in decided
            ),
        ],
        source_images=None if sources is None else items.source_images(sources),
    )


def _name(result: ServiceResult, item: Measurement) -> CodedConcept:
    """A standard concept where there is one, else ours."""
    return items.best(naming.measurement_codings(result, item))


def _method(result: ServiceResult, item: Measurement) -> Coding | None:
    ours = naming.MEASUREMENTS.is_ours(result.service, item.name)
    return SEGMENT_METHOD.get(item.name) if ours else None


def _answer(result: ServiceResult, item: Classification) -> CodedConcept:
    if item.chosen is not None:
        return items.best(naming.category_codings(result, item, item.chosen))
    assert item.refusal is not None
    return _reason(item.refusal)


def _reason(refusal: Refusal) -> CodedConcept:
    return items.concept(codes.REFUSAL_REASON.coding_or_other(refusal.rule))


def _place(result: ServiceResult, at: int) -> Group:
    """TID 1411 of one detection: the ellipsoid that fills its box, in patient coordinates.

    Without a frame of reference coordinates mean nothing: TID 1501 then, without them.
    """
    item = result.detections[at]
    name = naming.detection_codings(result, item)
    part = codes.RESULT_PART.coding
    tracking = TrackingIdentifier(
        uid=detection_uid(result, at), identifier=f"{name[0].display} {at + 1}"
    )
    kind, site = items.best(naming.found_codings(result, item)), items.finding_site(item.region)
    numbers = [
        items.number(items.concept(part("score")), round(item.score, 6), "1"),
        *(
            items.number(items.concept(part(f"size-{axis}")), round(size, _DECIMALS), "mm")
            for axis, size in zip("xyz", item.size_mm, strict=True)
        ),
    ]
    if not result.frame_of_reference_uid:
        return MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking,
            finding_type=kind,
            algorithm_id=items.algorithm(result),
            finding_sites=[site],
            measurements=numbers,
        )
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_volume_surface=_surface(result, at),
        finding_type=kind,
        algorithm_id=items.algorithm(result),
        finding_sites=[site],
        measurements=numbers,
    )


def _surface(result: ServiceResult, at: int) -> VolumeSurface:
    """The ends of the axes, one after the other (PS3.3 C.18.9.1.2); a point without a size."""
    item = result.detections[at]
    centre = np.array(item.centre_mm, dtype=np.float64)
    half = np.array(item.size_mm, dtype=np.float64) / 2
    points = [centre + sign * half[axis] * np.eye(3)[axis] for axis in range(3) for sign in (-1, 1)]
    solid = bool((half > 0).all())
    return VolumeSurface(
        graphic_type="ELLIPSOID" if solid else "POINT",
        graphic_data=np.round(np.array(points) if solid else centre[None], _DECIMALS + 1),
        frame_of_reference_uid=result.frame_of_reference_uid,
        source_series=SourceSeriesForSegmentation(
            referenced_series_instance_uid=result.series_instance_uid
        ),
    )


def _annotate(result: ServiceResult, found: Sequence[Group]) -> None:
    """What was seen and needed where something is withheld, and what a reader must know.

    It stands in the group of the output; what belongs to no group, in the first one.
    """
    if not found:
        return
    regions = _regions(result)
    texts: dict[int, list[str]] = {}
    for withheld in _regional(result):
        if withheld.refusal is not None:
            at = regions.index(withheld.region)
            texts.setdefault(at, []).append(refusal_text(withheld.refusal))
    for name, text in result.notes:
        places = [
            regions.index(item.region)
            for item in _regional(result)
            if item.name == name and item.refusal is None
        ]
        places += [len(regions) + at for at, d in enumerate(result.detections) if d.name == name]
        for at in dict.fromkeys(places or [0]):
            texts.setdefault(at, []).append(text)
    for at, said in texts.items():
        content = found[at][0].ContentSequence
        for item in items.comments(said):
            content.append(item)
