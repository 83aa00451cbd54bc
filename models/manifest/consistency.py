"""Checks over several fields of a manifest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from models.gates.contradictions import contradictions
from models.manifest.base import Location, inconsistent
from models.manifest.outputs import (
    Classification,
    Detections,
    MeasurementOutput,
    Segmentation,
)
from models.manifest.runtimes import NetworkRuntime

if TYPE_CHECKING:
    from models.manifest.model import Manifest


def check_consistency(manifest: Manifest) -> None:
    """Raise the first thing that contradicts another.

    Raises:
        PydanticCustomError: with the place, see `base.inconsistent`.
    """
    for at, reason in _contradictions(manifest):
        raise inconsistent(at, reason)


def _contradictions(manifest: Manifest) -> Iterator[tuple[Location, str]]:
    yield from contradictions(
        manifest.inputs.images,
        manifest.gates,
        manifest.inputs.gates(),
        tuple(dict.fromkeys(output.name for output in manifest.outputs)),
    )
    yield from _rounds(manifest)
    yield from _tensors(manifest)
    yield from _names(manifest)
    yield from _review(manifest)
    yield from _evaluation(manifest)
    yield from _cases(manifest)
    runtime = manifest.runtime
    if isinstance(runtime, NetworkRuntime):
        fixed = runtime.fixed_batch
        if fixed is not None and manifest.batching.max_size > fixed:
            yield ("batching", "max_size"), f"the network takes batches of {fixed} only"


def _rounds(manifest: Manifest) -> Iterator[tuple[Location, str]]:
    """A segmentation that was drawn in segmentations would be its own next input, for ever."""
    if manifest.inputs.segmented:
        for index, output in enumerate(manifest.outputs):
            if isinstance(output, Segmentation):
                at = ("outputs", index, "kind")
                yield at, "a model that is shown segmentations may not give any"


def _tensors(manifest: Manifest) -> Iterator[tuple[Location, str]]:
    runtime = manifest.runtime
    known = set()
    if isinstance(runtime, NetworkRuntime):
        known = {tensor.name for tensor in runtime.outputs}
    for index, output in enumerate(manifest.outputs):
        if output.tensor is not None and output.tensor not in known:
            yield ("outputs", index, "tensor"), "is no output of the runtime"
        doubt = output.uncertainty
        if doubt is not None and doubt.tensor is not None and doubt.tensor not in known:
            yield ("outputs", index, "uncertainty", "tensor"), "is no output of the runtime"
        if isinstance(output, Detections):
            for name in ("scores", "labels", "count"):
                if getattr(output, name) not in {None, *known}:
                    yield ("outputs", index, name), "is no output of the runtime"


def _names(manifest: Manifest) -> Iterator[tuple[Location, str]]:
    """Classes that are results of their own share the names of results."""
    taken = {(output.name, output.region) for output in manifest.outputs}
    for index, output in enumerate(manifest.outputs):
        if not isinstance(output, Classification) or output.exclusive:
            continue
        for place, item in enumerate(output.classes):
            if (item.name, output.region) in taken:
                yield ("outputs", index, "classes", place, "name"), "is the name of another result"
            taken.add((item.name, output.region))


def _review(manifest: Manifest) -> Iterator[tuple[Location, str]]:
    if manifest.review_rules and manifest.review != "rule":
        yield ("review_rules",), "are only for review: rule"
    names = {output.name for output in manifest.outputs}
    for index, rule in enumerate(manifest.review_rules):
        if rule.output not in names:
            yield ("review_rules", index, "output"), "is no output of the model"
            continue
        outputs = [output for output in manifest.outputs if output.name == rule.output]
        if rule.score_below is not None:
            if not all(isinstance(item, Classification | Detections) for item in outputs):
                yield ("review_rules", index, "score_below"), "is for classes and detections"
        elif not all(isinstance(item, MeasurementOutput) for item in outputs):
            yield ("review_rules", index), "is for numbers only"
        if rule.uncertainty_above is not None and any(o.uncertainty is None for o in outputs):
            at = ("review_rules", index, "uncertainty_above")
            yield at, "the output has no uncertainty"


def _evaluation(manifest: Manifest) -> Iterator[tuple[Location, str]]:
    names = {output.name for output in manifest.outputs}
    for index, evaluation in enumerate(manifest.evaluation):
        for place, metric in enumerate(evaluation.metrics):
            if metric.output is not None and metric.output not in names:
                at = ("evaluation", index, "metrics", place, "output")
                yield at, "is no output of the model"
        for place, part in enumerate(evaluation.subgroups):
            if part.count > evaluation.count:
                at = ("evaluation", index, "subgroups", place, "count")
                yield at, "is more than the evaluation has"


def _cases(manifest: Manifest) -> Iterator[tuple[Location, str]]:
    outputs = {output.name for output in manifest.outputs}
    runtime = manifest.runtime
    tensors = set()
    if isinstance(runtime, NetworkRuntime):
        tensors = {tensor.name for tensor in runtime.outputs}
    names: set[str] = set()
    for index, case in enumerate(manifest.cases):
        if case.name in names:
            yield ("cases", index, "name"), "two cases have the same name"
        names.add(case.name)
        for place, expected in enumerate(case.expect):
            if expected.output not in (tensors if expected.tensors else outputs):
                yield ("cases", index, "expect", place, "output"), "is no output of the model"
            if (case.input.kind == "tensors") != (expected.tensors is not None):
                at = ("cases", index, "expect", place)
                yield at, "tensors are expected of tensors, values and refusals of images"
