"""What a manifest adds to what its service says: standard codes, and how much was found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fhir_ext.resources.codes import COUNT_SUFFIX
from fhir_ext.results import Classification, Detection, Measurement, Refusal, StandardCode
from models.manifest import Manifest
from models.manifest.base import Code
from models.manifest.outputs import Classification as ClassificationOutput
from models.manifest.outputs import Detections, Segmentation
from models.service import ServiceOutput

#: Where nobody says why nothing was looked for.
_NOT_SAID = Refusal("other", "the service says nothing of it", "an answer of the service")


def complete(manifest: Manifest, output: ServiceOutput) -> ServiceOutput:
    """An output with the codes that the manifest states and the counts that follow from it.

    For every output of places or segments there is a number `<name>-count`: how many places
    were found, or how many segments hold a voxel. That none was found is an answer, and a
    refusal has its place. What the service counted itself stands.
    """
    named = {(item.name, item.region): item.code for item in manifest.measurements}
    measurements = tuple(
        replace(item, code=item.code or stated(named.get((item.name, item.region))))
        for item in output.measurements
    )
    given = {(item.name, item.region) for item in measurements}
    counts = (item for item in _counts(manifest, output) if (item.name, item.region) not in given)
    return replace(
        output,
        measurements=(*measurements, *counts),
        classifications=tuple(_classified(manifest, item) for item in output.classifications),
        detections=tuple(_detected(manifest, item) for item in output.detections),
    )


def _counts(manifest: Manifest, output: ServiceOutput) -> Iterator[Measurement]:
    withheld = dict(output.withheld)
    for wanted in manifest.outputs:
        if not isinstance(wanted, Detections | Segmentation):
            continue
        name = f"{wanted.name}{COUNT_SUFFIX}"
        found = None if wanted.name in withheld else _count(wanted, output)
        if found is not None:
            yield Measurement(name, wanted.region, "1", value=float(found))
        else:
            why = withheld.get(wanted.name, _NOT_SAID)
            yield Measurement(name, wanted.region, "1", refusal=why)


def _count(wanted: Detections | Segmentation, output: ServiceOutput) -> int | None:
    """How much was found; None when nobody looked."""
    if isinstance(wanted, Detections):
        key = (wanted.name, wanted.region)
        found = sum((item.name, item.region) == key for item in output.detections)
        return found if found or output.searched else None
    masks = [mask.labels for mask in output.masks if mask.name == wanted.name]
    if not masks:
        return None
    present = np.zeros(256, dtype=np.bool_)
    for labels in masks:
        # Plane by plane: bincount makes eight bytes of each voxel.
        for plane in labels:
            present |= np.bincount(plane.reshape(-1), minlength=256) > 0
    return sum(bool(present[label.value]) for label in wanted.labels if label.value < 256)


def _classified(manifest: Manifest, item: Classification) -> Classification:
    for output in manifest.outputs:
        if not isinstance(output, ClassificationOutput) or output.region is not item.region:
            continue
        if output.exclusive and output.name == item.name:
            known = {each.name: stated(each.code) for each in output.classes}
            codes = tuple(known.get(category) for category in item.categories)
            return replace(
                item,
                code=item.code or stated(output.code),
                category_codes=item.category_codes or (codes if any(codes) else ()),
            )
        for each in () if output.exclusive else output.classes:
            if each.name == item.name:
                return replace(item, code=item.code or stated(each.code))
    return item


def _detected(manifest: Manifest, item: Detection) -> Detection:
    for output in manifest.outputs:
        if isinstance(output, Detections) and (output.name, output.region) == (
            item.name,
            item.region,
        ):
            known = {each.name: stated(each.code) for each in output.classes}
            return replace(
                item,
                code=item.code or stated(output.code),
                category_code=item.category_code or known.get(item.category),
            )
    return item


def stated(code: Code | None) -> StandardCode | None:
    """A code of a manifest as results carry it."""
    return None if code is None else StandardCode(code.system, code.code, code.display)
