"""Rules about a stack of slices, measured from its positions, and about rows and columns."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from fhir_ext.dicom.volume import Geometry
from fhir_ext.results import Refusal
from models.gates.base import SLACK, GateBase, Unknown, Word
from models.gates.subject import BLOOD_POOL, Facet, Subject


class SpacingGate(GateBase):
    """Distances measured from the slice positions and the pixel spacing, in mm."""

    needs: ClassVar[Facet] = "stack"

    rule: Literal["spacing"]
    max_between_slices: float | None = Field(None, gt=0)
    max_in_plane: float | None = Field(None, gt=0)
    min_between_slices: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _bounded(self) -> SpacingGate:
        low, high = self.min_between_slices, self.max_between_slices
        if low is None and high is None and self.max_in_plane is None:
            raise ValueError("needs max_between_slices, max_in_plane or min_between_slices")
        if low is not None and high is not None and low > high:
            raise ValueError("min_between_slices is above max_between_slices")
        return self

    def check(self, subject: Subject) -> Refusal | None:
        slices, row, column = subject.volume.geometry.spacing_mm
        for limit, seen, what in (
            (self.max_between_slices, slices, "between slices"),
            (self.max_in_plane, max(row, column), "between pixels"),
        ):
            if limit is not None and seen > limit + SLACK:
                return Refusal(self.rule, f"{seen:.2f} mm {what}", f"at most {limit:g} mm {what}")
        low = self.min_between_slices
        if low is not None and slices < low - SLACK:
            needed = f"at least {low:g} mm between slices"
            return Refusal(self.rule, f"{slices:.2f} mm between slices", needed)
        return None


class SliceCountGate(GateBase):
    """At least `min` slices, at most `max`."""

    needs: ClassVar[Facet] = "stack"

    rule: Literal["slice-count"]
    min: int = Field(ge=1)
    max: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> SliceCountGate:
        if self.max is not None and self.max < self.min:
            raise ValueError("min is above max")
        return self

    def check(self, subject: Subject) -> Refusal | None:
        count = subject.volume.voxels.shape[0]
        if count < self.min:
            return Refusal(self.rule, f"{count} slices", f"at least {self.min} slices")
        if self.max is not None and count > self.max:
            return Refusal(self.rule, f"{count} slices", f"at most {self.max} slices")
        return None


class CoverageGate(GateBase):
    """Length of the stack along the slice axis: slices times their distance, in mm."""

    needs: ClassVar[Facet] = "stack"

    rule: Literal["coverage"]
    min: float = Field(gt=0)

    def check(self, subject: Subject) -> Refusal | None:
        volume = subject.volume
        length = volume.voxels.shape[0] * volume.geometry.spacing_mm[0]
        if length + SLACK >= self.min:
            return None
        return Refusal(self.rule, f"{length:.0f} mm", f"at least {self.min:g} mm")


class GeometryGate(GateBase):
    """The stack has no issue of this kind (`CTVolume.issues`)."""

    needs: ClassVar[Facet] = "stack"

    rule: Literal["gap", "irregular-spacing", "duplicate-slices", "single-slice", "gantry-tilt"]

    def check(self, subject: Subject) -> Refusal | None:
        for issue in subject.volume.issues:
            if issue.code == self.rule:
                return Refusal(self.rule, issue.detail, f"no {self.rule.replace('-', ' ')}")
        return None


class SliceOrientationGate(GateBase):
    """The normal of the slices leans at most `max_degrees` from an axis of the patient.

    Attributes:
        plane: axial slices are normal to the long axis, coronal ones to that from front to
            back, sagittal ones to that from side to side.
    """

    needs: ClassVar[Facet] = "stack"

    rule: Literal["slice-orientation"]
    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    max_degrees: float = Field(ge=0, lt=90)

    def check(self, subject: Subject) -> Refusal | None:
        lean = _lean(subject.volume.geometry, ("sagittal", "coronal", "axial").index(self.plane))
        if lean <= self.max_degrees:
            return None
        needed = f"at most {self.max_degrees:g} degrees"
        return Refusal(self.rule, f"{lean:.0f} degrees", needed)


class BloodPoolGate(GateBase):
    """Contrast by what the pixels say: mean HU of blood, measured in segments.

    Attributes:
        structures: where blood is; of several that can be measured the brightest counts.
        max_hu: more is enhanced.
        min_hu: less is not enhanced.
        unknown: whether it is refused that none of the structures can be measured.
    """

    needs: ClassVar[Facet] = "segments"
    reasons: ClassVar[tuple[str, ...]] = (
        "blood-pool-enhanced",
        "blood-pool-unenhanced",
        "blood-pool-unknown",
    )

    rule: Literal["blood-pool"]
    structures: tuple[Word, ...] = Field(min_length=1)
    max_hu: float | None = None
    min_hu: float | None = None
    unknown: Unknown = "refuse"

    @model_validator(mode="after")
    def _bounded(self) -> BloodPoolGate:
        if self.max_hu is None and self.min_hu is None:
            raise ValueError("needs max_hu, min_hu or both")
        if self.max_hu is not None and self.min_hu is not None and self.min_hu > self.max_hu:
            raise ValueError("min_hu is above max_hu")
        return self

    def check(self, subject: Subject) -> Refusal | None:
        measure = subject.quantities.get(BLOOD_POOL)
        seen = None if measure is None else measure(self.structures)
        if seen is None:
            if self.unknown == "accept":
                return None
            where = ", ".join(name.replace("-", " ") for name in self.structures)
            return Refusal("blood-pool-unknown", "none", f"a segment of one of: {where}")
        if self.max_hu is not None and seen > self.max_hu:
            return Refusal("blood-pool-enhanced", f"{seen:.0f} HU", f"at most {self.max_hu:g} HU")
        if self.min_hu is not None and seen < self.min_hu:
            return Refusal(
                "blood-pool-unenhanced", f"{seen:.0f} HU", f"at least {self.min_hu:g} HU"
            )
        return None


class ImageSizeGate(GateBase):
    """At least so many rows and columns."""

    needs: ClassVar[Facet] = "raster"

    rule: Literal["image-size"]
    min_rows: int = Field(ge=1)
    min_columns: int = Field(ge=1)

    def check(self, subject: Subject) -> Refusal | None:
        rows, columns = subject.size
        if rows >= self.min_rows and columns >= self.min_columns:
            return None
        needed = f"at least {self.min_rows} x {self.min_columns} pixels"
        return Refusal(self.rule, f"{rows} x {columns} pixels", needed)


def _lean(geometry: Geometry, axis: int) -> float:
    """Degrees between the normal of the slices and an axis of the patient (LPS), 0 to 90."""
    across = np.cross(np.array(geometry.column_step), np.array(geometry.row_step))
    cosine = min(1.0, float(abs(across[axis]) / np.linalg.norm(across)))
    return float(np.degrees(np.arccos(cosine)))
