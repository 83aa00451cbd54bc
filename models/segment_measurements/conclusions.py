"""What follows from the numbers, whether the service or a human gave them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict

from fhir_ext.results import Issue, Measurement, Region
from models.service import Conclusions

AGATSTON: Final = "agatston-score"
DIAMETER: Final = "vessel-diameter"
RATIO: Final = "pa-aorta-ratio"
TRABECULAR: Final = "trabecular-attenuation"

#: The four arteries that CAC-DRS counts.
ARTERIES: Final = (
    Region.LEFT_MAIN,
    Region.LEFT_ANTERIOR_DESCENDING,
    Region.CIRCUMFLEX,
    Region.RIGHT_CORONARY,
)

Key = tuple[str, Region]


class Thresholds(BaseModel):
    """Cut-offs; they come from the manifest's `thresholds`.

    Attributes:
        agatston_present: score from which calcium is stated.
        cac_drs_2, cac_drs_3: scores from which CAC-DRS says A2 and A3 (PMC6765460).
        ascending_aorta_mm, ascending_aorta_high_mm: dilated from, and near to repair.
        pulmonary_trunk_mm, pa_aorta_ratio: above these the trunk is dilated (PMC3275437).
            29 mm is the limit of men and therefore of everybody; that of women is 27 mm.
        l1_hu: at or below, L1 is as dark as in osteoporosis (Pickhardt 2013).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    agatston_present: float
    cac_drs_2: float
    cac_drs_3: float
    ascending_aorta_mm: float
    ascending_aorta_high_mm: float
    pulmonary_trunk_mm: float
    pa_aorta_ratio: float
    l1_hu: float


def conclude(measurements: tuple[Measurement, ...], limits: Thresholds) -> Conclusions:
    """Issues; no risks, for none of the sources grades one by these numbers alone."""
    values = {(m.name, m.region): m.value for m in measurements if m.value is not None}
    found = (
        _calcium(values, limits),
        _aorta(values, limits),
        _trunk(values, limits),
        _bone(values, limits),
    )
    return (), tuple(issue for issue in found if issue is not None)


def cac_drs(score: float, limits: Thresholds) -> str:
    """Category A of CAC-DRS for an Agatston score.

    The source says 1 to 99; a score between 0 and 1 is called A1 here, since calcium is there.
    """
    if score <= 0:
        return "A0"
    if score < limits.cac_drs_2:
        return "A1"
    return "A2" if score < limits.cac_drs_3 else "A3"


def _calcium(values: Mapping[Key, float], limits: Thresholds) -> Issue | None:
    score = values.get((AGATSTON, Region.CORONARY_ARTERIES))
    if score is None or score < limits.agatston_present:
        return None
    category = cac_drs(score, limits)
    arteries = [values[AGATSTON, region] for region in ARTERIES if (AGATSTON, region) in values]
    if len(arteries) == len(ARTERIES):
        category += f"/N{sum(value > 0 for value in arteries)}"
    return Issue(
        code="coronary-calcium",
        severity="low" if score < limits.cac_drs_2 else "moderate",
        detail=f"Agatston score {score:.1f}, CAC-DRS {category}.",
        evidence=(AGATSTON,),
        region=Region.CORONARY_ARTERIES,
    )


def _aorta(values: Mapping[Key, float], limits: Thresholds) -> Issue | None:
    width = values.get((DIAMETER, Region.ASCENDING_AORTA))
    if width is None or width < limits.ascending_aorta_mm:
        return None
    return Issue(
        code="thoracic-aorta-dilated",
        severity="high" if width >= limits.ascending_aorta_high_mm else "moderate",
        detail=(
            f"The ascending aorta is {width:.1f} mm wide; "
            f"{limits.ascending_aorta_mm:g} mm or more is dilated."
        ),
        evidence=(DIAMETER,),
        region=Region.ASCENDING_AORTA,
    )


def _trunk(values: Mapping[Key, float], limits: Thresholds) -> Issue | None:
    width = values.get((DIAMETER, Region.PULMONARY_TRUNK))
    ratio = values.get((RATIO, Region.PULMONARY_TRUNK))
    said, evidence = [], []
    if width is not None and width > limits.pulmonary_trunk_mm:
        said.append(f"{width:.1f} mm wide (limit {limits.pulmonary_trunk_mm:g} mm)")
        evidence.append(DIAMETER)
    if ratio is not None and ratio > limits.pa_aorta_ratio:
        said.append(f"{ratio:.3f} of the ascending aorta (limit {limits.pa_aorta_ratio:g})")
        evidence.append(RATIO)
    if not said:
        return None
    return Issue(
        code="pulmonary-trunk-dilated",
        severity="moderate",
        detail=f"The pulmonary trunk is {' and '.join(said)}.",
        evidence=tuple(evidence),
        region=Region.PULMONARY_TRUNK,
    )


def _bone(values: Mapping[Key, float], limits: Thresholds) -> Issue | None:
    attenuation = values.get((TRABECULAR, Region.VERTEBRA_L1))
    if attenuation is None or attenuation > limits.l1_hu:
        return None
    return Issue(
        code="low-vertebral-attenuation",
        severity="moderate",
        detail=(
            f"The core of L1 has {attenuation:.0f} HU; "
            f"{limits.l1_hu:g} HU or less is more than 90 % specific for osteoporosis."
        ),
        evidence=(TRABECULAR,),
        region=Region.VERTEBRA_L1,
    )
