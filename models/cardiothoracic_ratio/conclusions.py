"""What follows from a cardiothoracic ratio. Imports no torch."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from fhir_ext.results import Issue, Measurement
from models.service import Conclusions

RATIO: Final = "cardiothoracic-ratio"


class Thresholds(BaseModel):
    """Cut-offs; they come from the manifest's `thresholds`.

    Attributes:
        ratio: above it the heart is called wide.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ratio: float


def conclude(measurements: tuple[Measurement, ...], limits: Thresholds) -> Conclusions:
    """An issue for a human; no risk, for no source grades one by this number alone."""
    (value,) = (item.value for item in measurements if item.name == RATIO)
    if value is None or value <= limits.ratio:
        return (), ()
    issue = Issue(
        code="cardiothoracic-ratio-high",
        severity="low",
        detail=(
            f"The cardiothoracic ratio is {value:.3f}; more than {limits.ratio:g} on a PA "
            "radiograph of an adult is called a wide heart."
        ),
        evidence=(RATIO,),
    )
    return (), (issue,)
