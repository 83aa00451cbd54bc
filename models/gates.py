"""Gates: which acquisitions a model may see. One engine; the rules are data.

A gate is one entry of a manifest's `gates`. It speaks of the whole service or, with
`applies_to`, of some measurements only: a sharp kernel spoils a density index and
leaves a volume alone. A gate that refuses yields a `Refusal`: a result, not an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fhir_ext.dicom.volume import CTVolume
from fhir_ext.results import Refusal

#: Every rule code that `models` may put into a Refusal, with its meaning
#: (CodeSystem `refusal-reason`).
RULES: Mapping[str, str] = MappingProxyType(
    {
        "modality": "The modality is not one the model was made for.",
        "image-type": "The image type (localizer, secondary, projection) is not measurable.",
        "kernel": "The convolution kernel is not known to be smooth enough.",
        "slice-thickness": "The nominal slice thickness is outside the accepted range.",
        "spacing": "The distance of slices or pixels is outside the accepted range.",
        "slice-count": "The stack holds too few slices.",
        "coverage": "The stack does not cover the organ.",
        "gap": "Slices are missing inside the stack.",
        "irregular-spacing": "The distance of slices varies.",
        "duplicate-slices": "Several slices lie at the same place.",
        "single-slice": "The stack is a single slice.",
        "gantry-tilt": "The stack is sheared by a tilted gantry.",
        "contrast-agent": "A contrast agent was given.",
        "kvp": "The tube voltage is outside the accepted range.",
        "patient-age": "The patient's age is outside the accepted range.",
        "burned-in-annotation": "Text is burned into the pixels.",
        "lung-mask-implausible": "The lungs that were found cannot be believed.",
        "implausible-value": "The number is outside what a body can show.",
    }
)

NOT_STATED = "not stated"
_SEEN_LENGTH = 64


class _Gate(BaseModel):
    """What all gates have in common.

    Attributes:
        applies_to: names of measurements, or `all`.
        because: the reason in words, for people who read the manifest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    applies_to: Literal["all"] | tuple[str, ...] = "all"
    because: str = ""

    def covers(self, measurement: str) -> bool:
        return self.applies_to == "all" or measurement in self.applies_to

    def check(self, volume: CTVolume) -> Refusal | None:
        raise NotImplementedError


class _Range(BaseModel):
    """A closed range; at least one bound; `unknown` decides when the header is silent."""

    min: float | None = None
    max: float | None = None
    unknown: Literal["refuse", "accept"] = "refuse"

    @model_validator(mode="after")
    def _bounded(self) -> _Range:
        if self.min is None and self.max is None:
            raise ValueError("needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max")
        return self

    def holds(self, value: float | None) -> bool:
        if value is None:
            return self.unknown == "accept"
        # Decimal strings such as 5.0 and measured 4.9999 must meet the same bound.
        slack = 1e-3
        above = self.min is None or value >= self.min - slack
        below = self.max is None or value <= self.max + slack
        return above and below

    def needed(self, unit: str) -> str:
        low = None if self.min is None else f"at least {self.min:g} {unit}"
        high = None if self.max is None else f"at most {self.max:g} {unit}"
        return " and ".join(part for part in (low, high) if part)


class ModalityGate(_Gate):
    """Modality (0008,0060) is one of `allow`."""

    rule: Literal["modality"]
    allow: tuple[str, ...] = Field(min_length=1)

    def check(self, volume: CTVolume) -> Refusal | None:
        seen = volume.acquisition.modality
        if seen in self.allow:
            return None
        return Refusal(self.rule, _shown(seen), ", ".join(self.allow))


class ImageTypeGate(_Gate):
    """No value of ImageType (0008,0008) is in `forbid`."""

    rule: Literal["image-type"]
    forbid: tuple[str, ...] = Field(min_length=1)

    def check(self, volume: CTVolume) -> Refusal | None:
        found = [value for value in volume.acquisition.image_type if value in self.forbid]
        if not found:
            return None
        return Refusal(self.rule, _shown(found[0]), "none of " + ", ".join(self.forbid))


class KernelGate(_Gate):
    """ConvolutionKernel (0018,1210) is on the list of its manufacturer.

    `allow` maps a regular expression over Manufacturer (case ignored, searched) to
    regular expressions over the kernel (case ignored, matched as a whole). A kernel
    or a manufacturer that is silent or on no list is refused.
    """

    rule: Literal["kernel"]
    allow: Mapping[str, tuple[str, ...]] = Field(min_length=1)

    @field_validator("allow")
    @classmethod
    def _expressions(cls, allow: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        for expression in (*allow, *(kernel for kernels in allow.values() for kernel in kernels)):
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"bad regular expression: {error}") from error
        return allow

    def check(self, volume: CTVolume) -> Refusal | None:
        kernel = (volume.acquisition.convolution_kernel or "").strip()
        vendor = (volume.acquisition.manufacturer or "").strip()
        for maker, kernels in self.allow.items():
            if re.search(maker, vendor, re.IGNORECASE) and any(
                re.fullmatch(accepted, kernel, re.IGNORECASE) for accepted in kernels
            ):
                return None
        seen = _shown(kernel) if vendor or not kernel else f"{_shown(kernel)}, no manufacturer"
        return Refusal(self.rule, seen, "a smooth kernel on the list of its manufacturer")


class SliceThicknessGate(_Gate, _Range):
    """SliceThickness (0018,0050) in mm."""

    rule: Literal["slice-thickness"]

    def check(self, volume: CTVolume) -> Refusal | None:
        return _ranged(self.rule, self, volume.acquisition.slice_thickness_mm, "mm")


class KvpGate(_Gate, _Range):
    """KVP (0018,0060) in kV."""

    rule: Literal["kvp"]

    def check(self, volume: CTVolume) -> Refusal | None:
        return _ranged(self.rule, self, volume.acquisition.kvp, "kV")


class PatientAgeGate(_Gate, _Range):
    """Age in years at the study. The age itself is not repeated in the refusal."""

    rule: Literal["patient-age"]

    def check(self, volume: CTVolume) -> Refusal | None:
        age = volume.acquisition.patient_age_years
        if self.holds(age):
            return None
        seen = NOT_STATED if age is None else "outside the range"
        return Refusal(self.rule, seen, self.needed("years"))


class SpacingGate(_Gate):
    """Distances measured from the slice positions and the pixel spacing, in mm."""

    rule: Literal["spacing"]
    max_between_slices: float | None = Field(None, gt=0)
    max_in_plane: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _bounded(self) -> SpacingGate:
        if self.max_between_slices is None and self.max_in_plane is None:
            raise ValueError("needs max_between_slices, max_in_plane or both")
        return self

    def check(self, volume: CTVolume) -> Refusal | None:
        slices, row, column = volume.geometry.spacing_mm
        for limit, seen, what in (
            (self.max_between_slices, slices, "between slices"),
            (self.max_in_plane, max(row, column), "between pixels"),
        ):
            if limit is not None and seen > limit + 1e-3:
                return Refusal(self.rule, f"{seen:.2f} mm {what}", f"at most {limit:g} mm {what}")
        return None


class SliceCountGate(_Gate):
    """At least `min` slices."""

    rule: Literal["slice-count"]
    min: int = Field(ge=1)

    def check(self, volume: CTVolume) -> Refusal | None:
        count = volume.voxels.shape[0]
        if count >= self.min:
            return None
        return Refusal(self.rule, f"{count} slices", f"at least {self.min} slices")


class CoverageGate(_Gate):
    """Length of the stack along the slice axis: slices times their distance, in mm."""

    rule: Literal["coverage"]
    min: float = Field(gt=0)

    def check(self, volume: CTVolume) -> Refusal | None:
        length = volume.voxels.shape[0] * volume.geometry.spacing_mm[0]
        if length + 1e-3 >= self.min:
            return None
        return Refusal(self.rule, f"{length:.0f} mm", f"at least {self.min:g} mm")


class GeometryGate(_Gate):
    """The stack has no issue of this kind (`CTVolume.issues`)."""

    rule: Literal["gap", "irregular-spacing", "duplicate-slices", "single-slice", "gantry-tilt"]

    def check(self, volume: CTVolume) -> Refusal | None:
        for issue in volume.issues:
            if issue.code == self.rule:
                return Refusal(self.rule, issue.detail, f"no {self.rule.replace('-', ' ')}")
        return None


class ContrastGate(_Gate):
    """ContrastBolusAgent (0018,0010) is absent or empty."""

    rule: Literal["contrast-agent"]

    def check(self, volume: CTVolume) -> Refusal | None:
        if not (volume.acquisition.contrast_agent or "").strip():
            return None
        return Refusal(self.rule, "a contrast agent is named", "no contrast agent")


class BurnedInAnnotationGate(_Gate):
    """BurnedInAnnotation (0028,0301) is not YES; silence is accepted unless told otherwise."""

    rule: Literal["burned-in-annotation"]
    unknown: Literal["refuse", "accept"] = "accept"

    def check(self, volume: CTVolume) -> Refusal | None:
        stated = volume.acquisition.burned_in_annotation
        if stated == "NO" or (not stated and self.unknown == "accept"):
            return None
        return Refusal(self.rule, _shown(stated), "NO")


Gate = Annotated[
    ModalityGate
    | ImageTypeGate
    | KernelGate
    | SliceThicknessGate
    | KvpGate
    | PatientAgeGate
    | SpacingGate
    | SliceCountGate
    | CoverageGate
    | GeometryGate
    | ContrastGate
    | BurnedInAnnotationGate,
    Field(discriminator="rule"),
]


def evaluate(
    gates: Iterable[Gate], volume: CTVolume, measurement: str | None = None
) -> tuple[Refusal, ...]:
    """All refusals of a volume, in the order of the gates.

    Args:
        gates: what to check.
        volume: the volume.
        measurement: only gates that cover this measurement; without it, all gates.

    Returns:
        Empty when the volume is accepted.
    """
    asked = (gate for gate in gates if measurement is None or gate.covers(measurement))
    found = (gate.check(volume) for gate in asked)
    return tuple(refusal for refusal in found if refusal is not None)


def _ranged(rule: str, limits: _Range, value: float | None, unit: str) -> Refusal | None:
    if limits.holds(value):
        return None
    seen = NOT_STATED if value is None else f"{value:g} {unit}"
    return Refusal(rule, seen, limits.needed(unit))


def _shown(value: str | None) -> str:
    """A header value for a refusal: printable, short, never empty."""
    text = "".join(char for char in (value or "") if char.isprintable()).strip()
    return text[:_SEEN_LENGTH] or NOT_STATED
