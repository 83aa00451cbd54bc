"""What a model gives: measurements, classifications, segmentations, detections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from fhir_ext.results import Region
from models.manifest.base import Bounds, Code, Kebab, Part, Positive, Text


class Threshold(Part):
    """A cut-off of one output.

    Attributes:
        name: what is said when it is reached.
        at: in the output's unit.
        side: which side of it counts.
        because: the source.
    """

    name: Kebab
    at: float
    side: Literal["at-or-above", "at-or-below"] = "at-or-above"
    because: str = ""


class Uncertainty(Part):
    """How far an output may be off.

    Attributes:
        kind: `sd` and `interval` are stated below, for all results alike; `network` is a
            further output of the network, one for each result.
        value: standard deviation or half width of the interval, in the output's unit.
        level: of the interval, for example 0.95.
        tensor: output of the network that holds it.
    """

    kind: Literal["sd", "interval", "network"]
    value: Positive | None = None
    level: float | None = Field(None, gt=0, lt=1)
    tensor: str | None = None

    @model_validator(mode="after")
    def _complete(self) -> Uncertainty:
        needed = {"sd": {"value"}, "interval": {"value", "level"}, "network": {"tensor"}}[self.kind]
        given = {name for name in ("value", "level", "tensor") if getattr(self, name) is not None}
        if given != needed:
            raise ValueError(f"{self.kind} needs exactly: {', '.join(sorted(needed))}")
        return self


class _Output(Part):
    """What all outputs have.

    Attributes:
        name: code of the result; unique together with `region`.
        region: what it speaks of.
        code: code of a standard, where there is one.
        tensor: output of the network that it is read from; None when the service's own
            postprocessing gives it.
        uncertainty: how far it may be off.
    """

    name: Kebab
    region: Region
    code: Code | None = None
    tensor: str | None = None
    uncertainty: Uncertainty | None = None


class MeasurementOutput(_Output):
    """One number.

    Attributes:
        unit: UCUM.
        valid: closed range a body can show; a number outside is withheld.
        thresholds: cut-offs; a reader is told of each that is reached.
        index: which number of the tensor, from 0, when it holds several for each item.
    """

    kind: Literal["measurement"] = "measurement"
    unit: Text
    valid: Bounds
    thresholds: tuple[Threshold, ...] = ()
    index: int = Field(0, ge=0)


#: Categories of a class that may hold beside others.
PRESENT, ABSENT = "present", "absent"


class Category(Part):
    """One class of a classification or of detections.

    Attributes:
        name: what results call it.
        code: code of a standard.
        threshold: smallest probability at which it is said to be present.
    """

    name: Kebab
    code: Code | None = None
    threshold: float | None = Field(None, ge=0, le=1)


class Classification(_Output):
    """Probabilities of classes, in the order of the network's output.

    Attributes:
        classes: all of them.
        exclusive: exactly one holds (probabilities sum to 1), or any number of them: then
            each class is a result of its own, `present` or `absent`, under the class's name.
    """

    kind: Literal["classification"]
    classes: tuple[Category, ...] = Field(min_length=1)
    exclusive: bool = True

    @field_validator("classes")
    @classmethod
    def _unique(cls, classes: tuple[Category, ...]) -> tuple[Category, ...]:
        _once((item.name for item in classes), "class")
        return classes

    def results(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(name, categories) of every result that this output becomes, in order."""
        if self.exclusive:
            return ((self.name, tuple(item.name for item in self.classes)),)
        return tuple((item.name, (PRESENT, ABSENT)) for item in self.classes)


class SegmentLabel(Part):
    """One segment.

    Attributes:
        value: of the label map, or channel of the probabilities.
        name: what results call it.
        code: SegmentedPropertyTypeCodeSequence (0062,000F).
        valid_ml: plausible volume; a segment outside is withheld.
    """

    value: int = Field(ge=1)
    name: Kebab
    code: Code | None = None
    valid_ml: Bounds | None = None


class Segmentation(_Output):
    """A label for each voxel.

    Attributes:
        encoding: integers (items, z, y, x), with or without a channel; or probabilities
            (items, channels, z, y, x), channel i for value i. A network whose background has
            no channel has value i in channel i - 1.
        labels: the segments; 0 is background.
        threshold: of probabilities: a voxel is of the label with the highest one, where that
            one reaches the threshold; else background.
    """

    kind: Literal["segmentation"]
    encoding: Literal["labels", "probabilities"] = "labels"
    labels: tuple[SegmentLabel, ...] = Field(min_length=1)
    threshold: float = Field(0.5, ge=0, le=1)

    @field_validator("labels")
    @classmethod
    def _unique(cls, labels: tuple[SegmentLabel, ...]) -> tuple[SegmentLabel, ...]:
        _once((item.name for item in labels), "name")
        _once((item.value for item in labels), "value")
        return labels


class Detections(_Output):
    """Boxes with scores. `tensor` holds the boxes: (items, n, 4) or (items, n, 6).

    z, y and x are the first, second and last axis of the array that the network sees; a
    network of slices has y and x only.

    Attributes:
        classes: in the order of the network's labels, which count from 1.
        score: smallest score that is kept.
        at_most: most boxes of one series.
        box: numbers of one box, in voxels of the array. Corners lie between voxels: voxel i
            reaches from i to i + 1. `xyxy` is x, y of one corner and of the other; `xyzxyz`
            and `zyxzyx` alike. `ccc-sizes` is the centre z, y, x, where the centre of voxel i
            is i, and the full width along z, y, x; of slices y, x and y, x.
        scores: output of the network with the score of each box, 0 to 1: (items, n).
        labels: output with the class of each box, from 1: (items, n); without it all boxes
            are of the one class.
        count: output with the number of boxes that are not padding: (items,); without it all
            are boxes.
        same_place: smallest overlap (volume of the intersection over the union) at which
            two boxes of one class are the same place; they also are when each holds the
            centre of the other. The one with the higher score stays.
    """

    kind: Literal["detections"]
    classes: tuple[Category, ...] = Field(min_length=1)
    score: float = Field(ge=0, le=1)
    at_most: int = Field(100, ge=1)
    box: Literal["xyxy", "xyzxyz", "zyxzyx", "ccc-sizes"] = "xyxy"
    scores: str | None = None
    labels: str | None = None
    count: str | None = None
    same_place: float = Field(0.2, gt=0, le=1)

    @field_validator("classes")
    @classmethod
    def _unique(cls, classes: tuple[Category, ...]) -> tuple[Category, ...]:
        _once((item.name for item in classes), "class")
        return classes


def kind_of(value: Any) -> str:
    """Kind of an output in the file; a measurement when it names none."""
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "measurement" if kind is None else str(kind)


Output = Annotated[
    Annotated[MeasurementOutput, Tag("measurement")]
    | Annotated[Classification, Tag("classification")]
    | Annotated[Segmentation, Tag("segmentation")]
    | Annotated[Detections, Tag("detections")],
    Discriminator(kind_of),
]

#: Names that pydantic puts into the path of an error, and that are in no file.
OUTPUT_KINDS = frozenset({"measurement", "classification", "segmentation", "detections"})


def _once(values: Iterable[object], what: str) -> None:
    for value, count in Counter(values).items():
        if count > 1:
            raise ValueError(f"the {what} {value} appears twice")
