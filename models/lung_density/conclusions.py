"""What follows from the numbers, whether a model or a human gave them. Imports no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from fhir_ext.results import Issue, Measurement, Region, Risk
from models.service import Conclusions

LAA_950 = "laa-950"
EMPHYSEMA_CITATION = "doi 10.2147/COPD.S284477"


class Thresholds(BaseModel):
    """Cut-offs; they come from the manifest's `thresholds`.

    Attributes:
        low_attenuation_hu: voxels at or below count as low attenuation.
        percentile: of the HU histogram.
        emphysema_laa_950_percent: LAA-950 of both lungs from which CT emphysema is stated.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low_attenuation_hu: float
    percentile: float
    emphysema_laa_950_percent: float


def conclude(measurements: tuple[Measurement, ...], thresholds: Thresholds) -> Conclusions:
    """Risk and issue when LAA-950 of both lungs stands and reaches the threshold.

    There is one band: the source gives one threshold and no grades.
    """
    whole = (m for m in measurements if m.name == LAA_950 and m.region is Region.LUNGS)
    value = next((m.value for m in whole), None)
    limit = thresholds.emphysema_laa_950_percent
    if value is None or value < limit:
        return (), ()
    rule = f"LAA-950 of both lungs is {value:.1f} %; {limit:g} % or more is CT emphysema"
    risk = Risk("emphysema", "high", f"{rule} ({EMPHYSEMA_CITATION}).", (LAA_950,))
    issue = Issue(
        code="emphysema-on-ct",
        severity="moderate",
        detail=f"{rule}.",
        evidence=(LAA_950,),
        known_condition="emphysema",
    )
    return (risk,), (issue,)
