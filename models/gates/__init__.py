"""Gates: which acquisitions a model may see. One engine; the rules are data.

A gate is one entry of a manifest's `gates`. It speaks of the whole service or, with
`applies_to`, of some outputs only: a sharp kernel spoils a density index and leaves a volume
alone. A gate that refuses yields a `Refusal`: a result, not an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from fhir_ext.dicom.volume import CTVolume
from fhir_ext.results import Refusal
from models.gates.base import GateBase
from models.gates.header import (
    BurnedInAnnotationGate,
    ContrastGate,
    ImageTypeGate,
    KernelGate,
    KvpGate,
    ModalityGate,
    PatientAgeGate,
    PatientPositionGate,
    PhotometricGate,
    SliceThicknessGate,
)
from models.gates.projection import (
    BreastImplantGate,
    LateralityGate,
    MammographyViewGate,
    PixelSpacingGate,
    PresentationIntentGate,
    RowDirectionGate,
    SpecialViewGate,
    ViewPositionGate,
)
from models.gates.stack import (
    BloodPoolGate,
    CoverageGate,
    GeometryGate,
    ImageSizeGate,
    SliceCountGate,
    SliceOrientationGate,
    SpacingGate,
)
from models.gates.study import Chosen, RequiredViewsGate, choose
from models.gates.subject import BLOOD_POOL, FACETS, Quantity, Subject

Gate = Annotated[
    ModalityGate
    | ImageTypeGate
    | KernelGate
    | SliceThicknessGate
    | KvpGate
    | PatientAgeGate
    | PatientPositionGate
    | SpacingGate
    | SliceCountGate
    | CoverageGate
    | GeometryGate
    | SliceOrientationGate
    | ContrastGate
    | BloodPoolGate
    | BurnedInAnnotationGate
    | PhotometricGate
    | ImageSizeGate
    | PixelSpacingGate
    | PresentationIntentGate
    | LateralityGate
    | ViewPositionGate
    | RowDirectionGate
    | MammographyViewGate
    | BreastImplantGate
    | SpecialViewGate
    | RequiredViewsGate,
    Field(discriminator="rule"),
]


def first_refusal(
    gates: Iterable[GateBase], shown: CTVolume | Subject, measurement: str | None = None
) -> Refusal | None:
    """Ask gates in their order, until one refuses.

    Args:
        gates: of the manifest.
        shown: a volume or what else is looked at.
        measurement: only gates that apply to this output; all without it.
    """
    subject = Subject.of_volume(shown) if isinstance(shown, CTVolume) else shown
    for gate in gates:
        if measurement is None or gate.covers(measurement):
            refusal = gate.check(subject)
            if refusal is not None:
                return refusal
    return None


__all__ = [
    "BLOOD_POOL",
    "FACETS",
    "Chosen",
    "Gate",
    "GateBase",
    "ModalityGate",
    "Quantity",
    "SliceCountGate",
    "Subject",
    "choose",
    "first_refusal",
]
