"""Rules about projection images: radiographs and mammograms."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pydantic import Field

from fhir_ext.dicom.mammography import IMPLANT_DISPLACED, VIEWS, Mammogram
from fhir_ext.results import Refusal
from models.gates.base import SLACK, AllowGate, GateBase, Unknown, Word, shown, told
from models.gates.subject import Facet, Subject

_SIDES: Final = frozenset({"L", "R", "B"})
_MAMMOGRAPHY_VIEWS: Final = frozenset(VIEWS.values())
#: View Position (0018,5101) of a radiograph, PS3.3 C.8.7.1.1.
_RADIOGRAPHY_VIEWS: Final = frozenset({"PA", "AP", "LL", "RL", "RLD", "LLD", "RLO", "LLO"})


class PixelSpacingGate(GateBase):
    """The size of a pixel is stated; with `calibrated`, corrected for the magnification.

    Attributes:
        min_mm, max_mm: bounds of rows and columns.
        calibrated: Pixel Spacing (0028,0030) with a Calibration Type (0028,0A02); the size in
            the plane of the detector does not do.
    """

    needs: ClassVar[Facet] = "image"

    rule: Literal["pixel-spacing"]
    min_mm: float | None = Field(None, gt=0)
    max_mm: float | None = Field(None, gt=0)
    calibrated: bool = False

    def check(self, subject: Subject) -> Refusal | None:
        spacing = subject.projection.spacing
        needed = "a pixel spacing"
        if spacing is None:
            return Refusal(self.rule, "not stated", needed)
        if self.calibrated and not spacing.calibrated:
            return Refusal(self.rule, f"that of {spacing.kind}", "a calibrated pixel spacing")
        sides = (spacing.rows, spacing.columns)
        if self.max_mm is not None and max(sides) > self.max_mm + SLACK:
            return Refusal(self.rule, f"{max(sides):g} mm", f"at most {self.max_mm:g} mm")
        if self.min_mm is not None and min(sides) < self.min_mm - SLACK:
            return Refusal(self.rule, f"{min(sides):g} mm", f"at least {self.min_mm:g} mm")
        return None


class LateralityGate(AllowGate):
    """The side is stated in one way, and is one of `allow` (L, R or B)."""

    needs: ClassVar[Facet] = "image"

    rule: Literal["laterality"]

    def check(self, subject: Subject) -> Refusal | None:
        return _single(self.rule, subject.projection.lateralities, self.allow, _SIDES, " or ")


class PresentationIntentGate(AllowGate):
    """Presentation Intent Type (0008,0068), or what the SOP class says, is one of `allow`."""

    needs: ClassVar[Facet] = "image"

    rule: Literal["presentation-intent"]
    unknown: Unknown = "refuse"

    def check(self, subject: Subject) -> Refusal | None:
        return self.judge(self.rule, subject.projection.intent, self.unknown)


class ViewPositionGate(AllowGate):
    """The projection of a radiograph is stated in one way, and is one of `allow`, such as PA."""

    needs: ClassVar[Facet] = "radiograph"

    rule: Literal["view-position"]
    unknown: Unknown = "refuse"

    def check(self, subject: Subject) -> Refusal | None:
        views = subject.projection.views
        if not views and self.unknown == "accept":
            return None
        return _single(self.rule, views, self.allow, _RADIOGRAPHY_VIEWS, " or ")


class RowDirectionGate(GateBase):
    """Patient Orientation (0020,0020): a row of pixels leads to a side that is in `allow`.

    `L` and `R` are images whose rows lie across the patient, as frontal ones are read.
    """

    needs: ClassVar[Facet] = "radiograph"

    rule: Literal["row-direction"]
    allow: tuple[Literal["L", "R", "A", "P", "H", "F"], ...] = Field(min_length=1)
    unknown: Unknown = "refuse"

    def check(self, subject: Subject) -> Refusal | None:
        seen = subject.radiograph.orientation
        if not seen and self.unknown == "accept":
            return None
        side = tuple(word[:1] for word in seen[:1])
        return _single(self.rule, side, self.allow, frozenset("LRAPHF"), " or ")


class MammographyViewGate(GateBase):
    """The view of a mammogram is stated in one way, and with `allow` is one of these."""

    needs: ClassVar[Facet] = "mammogram"

    rule: Literal["mammography-view"]
    allow: tuple[Word, ...] = ()

    def check(self, subject: Subject) -> Refusal | None:
        views = subject.mammogram.views
        if len(views) == 1 and not self.allow:
            return None
        if not self.allow:
            needed = "one view, stated in one way"
            return Refusal(self.rule, told(views, _MAMMOGRAPHY_VIEWS), needed)
        return _single(self.rule, views, self.allow, _MAMMOGRAPHY_VIEWS, " or ")


class BreastImplantGate(GateBase):
    """No implant is stated, and none was displaced for a view."""

    needs: ClassVar[Facet] = "mammogram"

    rule: Literal["breast-implant"]

    def check(self, subject: Subject) -> Refusal | None:
        image = subject.mammogram
        if not image.implant and IMPLANT_DISPLACED not in image.modifiers:
            return None
        return Refusal(self.rule, "an implant is stated", "no implant")


class SpecialViewGate(GateBase):
    """A plain view: no modifier, no magnification, no spot paddle.

    Attributes:
        max_magnification: of the Estimated Radiographic Magnification Factor (0018,1114). A
            breast that lies on the detector has 1.0 to 1.1, a magnification view 1.5.
        modifiers: names of view modifiers that are accepted all the same.
        paddles: words of Paddle Description (0018,11A4) that tell a special view.
    """

    needs: ClassVar[Facet] = "mammogram"

    rule: Literal["special-view"]
    max_magnification: float | None = Field(None, ge=1)
    modifiers: tuple[Word, ...] = ()
    paddles: tuple[Word, ...] = ("SPOT", "MAG")

    def check(self, subject: Subject) -> Refusal | None:
        special = self._special(subject.mammogram)
        return Refusal(self.rule, special, "a standard view") if special else None

    def _special(self, image: Mammogram) -> str:
        """Why a view is no standard one; empty when it is."""
        odd = [name for name in image.modifiers if name not in self.modifiers]
        if odd:
            return ", ".join(odd)
        limit, seen = self.max_magnification, image.magnification
        if limit is not None and seen is not None and seen > limit:
            return f"magnified {seen:g} times"
        if any(word in image.paddle for word in self.paddles):
            return "spot or magnification paddle"
        return ""


def _single(
    rule: str, values: tuple[str, ...], allow: tuple[str, ...], known: frozenset[str], joint: str
) -> Refusal | None:
    """Refuse what is stated in no way, in several ways, or is not accepted."""
    if len(values) == 1 and values[0] in allow:
        return None
    return Refusal(rule, told(values, known), shown(joint.join(allow)))
