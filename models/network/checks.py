"""What the outputs of a manifest must say so that they can be read from a network alone."""

from __future__ import annotations

from collections.abc import Iterator

from models.manifest import Manifest
from models.manifest.demands import unfit
from models.manifest.outputs import (
    Classification,
    Detections,
    MeasurementOutput,
    Output,
    Segmentation,
)
from models.network.layout import Layout

#: Labels of a mask are uint8.
_MOST_LABELS = 255


def check_outputs(manifest: Manifest, layout: Layout) -> None:
    """Refuse a manifest with an output that the network service cannot give.

    Raises:
        ManifestError: for the first one.
    """
    if manifest.inputs.images != "volume":
        raise unfit(manifest, "inputs.images", "must be volume, or the service needs code")
    parts = layout.planes or manifest.preprocessing.patches is not None
    for index, output in enumerate(manifest.outputs):
        for field, reason in _problems(output, layout, parts=parts):
            raise unfit(manifest, f"outputs.{index}.{field}", reason)


def check_whole(manifest: Manifest) -> None:
    """Refuse a manifest with an output that is not one answer of a network for the whole input.

    Raises:
        ManifestError: for the first one.
    """
    for index, output in enumerate(manifest.outputs):
        if not isinstance(output, MeasurementOutput | Classification):
            raise unfit(manifest, f"outputs.{index}.kind", "must be one for the whole image")
        for field, reason in _readable(output):
            raise unfit(manifest, f"outputs.{index}.{field}", reason)


def _problems(output: Output, layout: Layout, *, parts: bool) -> Iterator[tuple[str, str]]:
    yield from _readable(output)
    if isinstance(output, MeasurementOutput | Classification):
        if parts:
            yield "kind", "is one for the whole volume, but the network sees parts of it"
    elif isinstance(output, Segmentation):
        if max(label.value for label in output.labels) > _MOST_LABELS:
            yield "labels", f"must be at most {_MOST_LABELS}"
    else:
        yield from _detections(output, layout)


def _readable(output: Output) -> Iterator[tuple[str, str]]:
    if output.tensor is None:
        yield "tensor", "is needed, or the service needs code"
    if output.uncertainty is not None and not isinstance(output, MeasurementOutput):
        yield "uncertainty", "is for numbers only"
    if (
        isinstance(output, Classification)
        and output.exclusive
        and all(item.threshold is not None for item in output.classes)
    ):
        yield "classes", "one must have no threshold: it holds when no other does"


def _detections(output: Detections, layout: Layout) -> Iterator[tuple[str, str]]:
    if output.scores is None:
        yield "scores", "is needed"
    if output.labels is None and len(output.classes) > 1:
        yield "labels", "is needed for more than one class"
    if output.box != "ccc-sizes" and (output.box == "xyxy") != layout.planes:
        yield "box", "must be xyxy for networks of planes, and only for them"
