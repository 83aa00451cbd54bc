"""Which series a model sees, and what is done to its pixels before."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from models.gates import FACETS, Gate, ModalityGate, SliceCountGate
from models.gates.expressions import checked_expression
from models.manifest.base import Bounds, Part, Positive, Text

Expression = Annotated[str, Field(min_length=1), AfterValidator(checked_expression)]


class SeriesSelection(Part):
    """Which of a study's series is shown to the model when several could be.

    Attributes:
        description: expressions over SeriesDescription (0008,103E), case ignored, searched;
            one of them must be found. Empty: any description.
        exclude_description: none of these may be found.
        prefer: how the remaining ones are ranked, most important first.
        at_most: how many are shown, in that order.
    """

    description: tuple[Expression, ...] = ()
    exclude_description: tuple[Expression, ...] = ()
    prefer: tuple[
        Literal["most-slices", "thinnest", "thickest", "softest-kernel", "first", "latest"], ...
    ] = ()
    at_most: int | None = Field(None, ge=1)


Images = Literal["volume", "segmented-volume", "mammograms", "radiographs", "segmented-radiographs"]


class Inputs(Part):
    """What a series must be at least; checked as gates before all others.

    Attributes:
        images: what the model is shown: the stack of one series (`volume`); the stack with
            the SEG objects of its frame of reference (`segmented-volume`); all 2D mammograms
            of the study (`mammograms`); all its CR and DX images (`radiographs`), also with
            the SEG objects that refer to them (`segmented-radiographs`).
        modality: accepted values of Modality (0008,0060).
        min_slices: fewest slices, where a stack is shown.
        body_part: values of BodyPartExamined (0018,0015) that the planner looks for; empty:
            not looked at.
        series: choice between series.
    """

    images: Images = "volume"
    modality: tuple[Text, ...] = Field(min_length=1)
    min_slices: int = Field(1, ge=1)
    body_part: tuple[Text, ...] = ()
    series: SeriesSelection | None = None

    @model_validator(mode="after")
    def _slices_of_a_stack(self) -> Inputs:
        if self.min_slices > 1 and not self.stack:
            raise ValueError(f"min_slices is not for images: {self.images}")
        return self

    @property
    def stack(self) -> bool:
        """Whether a stack of slices is shown, rather than single images of the study."""
        return "stack" in FACETS[self.images]

    @property
    def segmented(self) -> bool:
        """Whether SEG objects are shown beside the images."""
        return self.images.startswith("segmented-")

    def gates(self) -> tuple[Gate, ...]:
        modality = ModalityGate(rule="modality", allow=self.modality)
        if not self.stack:
            return (modality,)
        return (modality, SliceCountGate(rule="slice-count", min=self.min_slices))


class Window(Part):
    """Linear map of pixel values, for CT in HU: `input` to `output`, clipped or not."""

    input: Bounds
    output: Bounds = (0.0, 1.0)
    clip: bool = True


class Normalise(Part):
    """After the window: subtract `mean`, divide by `sd`."""

    mean: float
    sd: Positive


class Patches(Part):
    """Sliding windows.

    Attributes:
        size: pixels or voxels along the array's axes.
        overlap: share of a patch that its neighbour covers too.
        blend: how overlapping outputs are averaged.
    """

    size: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=2, max_length=3)
    overlap: float = Field(0.25, ge=0, lt=1)
    blend: Literal["constant", "gaussian"] = "gaussian"


#: Letters of one axis each; an orientation has one of every pair.
_AXES = ("RL", "AP", "IS")


def _orientation(text: str) -> str:
    if (
        sorted("".join(pair) for pair in _AXES if any(letter in text for letter in pair))
        != sorted(_AXES)
        or len(text) != 3
    ):
        raise ValueError("must have one letter each of R or L, A or P, I or S")
    return text


class Preprocessing(Part):
    """What the pixels become before they reach the network, in this order.

    Attributes:
        orientation: for each array axis, the side of the patient its index grows towards:
            `SPL` is feet to head, front to back, right to left. Not for single images.
        spacing_mm: voxel size along the array's axes; None leaves it as it is.
        interpolation: of the pixel values.
        window: map of the values; None leaves them (CT: HU).
        normalise: after the window.
        sizes: size buckets: an image is padded to the smallest that holds it. Empty: none.
        pad_value: value of padding, in what the network sees.
        patches: sliding windows instead of whole volumes.
    """

    orientation: Annotated[str, AfterValidator(_orientation)] | None = None
    spacing_mm: tuple[Positive, ...] | None = Field(None, min_length=2, max_length=3)
    interpolation: Literal["linear", "nearest"] = "linear"
    window: Window | None = None
    normalise: Normalise | None = None
    sizes: tuple[tuple[Annotated[int, Field(ge=1)], ...], ...] = ()
    pad_value: float = 0.0
    patches: Patches | None = None

    @model_validator(mode="after")
    def _same_dimensions(self) -> Preprocessing:
        lengths = {len(size) for size in self.sizes}
        lengths |= {len(part) for part in (self.spacing_mm, self.orientation) if part is not None}
        if self.patches is not None:
            lengths.add(len(self.patches.size))
        if len(lengths) > 1:
            raise ValueError("sizes, patches, spacing and orientation differ in dimensions")
        return self
