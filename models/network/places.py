"""Detections: from boxes in patches to places in the patient."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fhir_ext.results import Detection
from models.manifest.outputs import Detections
from models.network.grid import Floats, Grid
from models.network.layout import Shape
from models.runtime.base import Array, ModelFailure
from models.said import Said

#: How far a score may be off 0 to 1.
SLACK = 1e-3


class Places:
    """A detections output; see `collector.Collector`."""

    def __init__(self, output: Detections, grid: Grid, *, planes: bool) -> None:
        self._output, self._grid, self._planes = output, grid, planes
        #: Rows of score, class from 0, centre z, y, x and size z, y, x in voxels of the array.
        self._rows: list[Floats] = []

    def add(self, start: Shape, item: Mapping[str, Array]) -> None:
        output = self._output
        assert output.tensor is not None and output.scores is not None
        count = None if output.count is None else _count(output, item[output.count])
        boxes = item[output.tensor].astype(np.float64)[:count]
        scores = item[output.scores].astype(np.float64).reshape(-1)[:count]
        classes = np.ones(len(scores))
        if output.labels is not None:
            classes = item[output.labels].astype(np.float64).reshape(-1)[:count]
        width = 4 if self._planes else 6
        if (
            boxes.ndim != 2
            or boxes.shape[1] != width
            or not (len(boxes) == len(scores) == len(classes))
        ):
            raise ModelFailure("model-output", f"{output.name}: boxes, scores and labels differ")
        # Written so that NaN fails.
        if len(scores) and not (scores.min() >= -SLACK and scores.max() <= 1 + SLACK):
            raise ModelFailure("model-output", f"{output.name}: scores are not between 0 and 1")
        kept = scores >= output.score
        centres, sizes = _boxes(boxes[kept], output.box, planes=self._planes)
        self._check(sizes, classes[kept])
        centres += start
        rows = [np.clip(scores[kept], 0, 1), classes[kept] - 1, *centres.T, *sizes.T]
        self._rows.append(np.stack(rows, axis=1))

    def finish(self, said: Said) -> None:
        output = self._output
        if self._grid.uneven is not None:
            said.withhold(output, self._grid.uneven)
            return
        rows = np.concatenate(self._rows) if self._rows else np.empty((0, 8))
        # What a network predicts outside of a patch is nothing once it is clipped to the patch.
        rows = rows[self._grid.holds(rows[:, 2:5]) & (rows[:, 5:] > 0).all(axis=1)]
        found = distinct(rows, output.same_place, output.at_most + 1)
        if len(found) > output.at_most:
            found = found[: output.at_most]
            said.notes.append(
                (
                    output.name,
                    f"There are more places; the {output.at_most} with the highest scores are "
                    "given.",
                )
            )
        centres = self._grid.to_patient(found[:, 2:5])
        extents = self._grid.extent(found[:, 5:])
        said.searched = True
        said.detections.extend(
            Detection(
                output.name,
                output.region,
                output.classes[int(row[1])].name,
                float(row[0]),
                _mm(centre),
                _mm(extent),
            )
            for row, centre, extent in zip(found, centres, extents, strict=True)
        )

    def _check(self, sizes: Floats, classes: Floats) -> None:
        name = self._output.name
        if not (np.isfinite(sizes).all() and (sizes >= 0).all()):
            raise ModelFailure("model-output", f"{name}: a box ends before it begins")
        known = np.isin(classes, np.arange(len(self._output.classes)) + 1)
        if not known.all():
            raise ModelFailure("model-output", f"{name}: a label is no class")


def distinct(rows: Floats, same_place: float, at_most: int) -> Floats:
    """Of boxes at the same place the one with the highest score, highest first.

    Args:
        rows: as `Places` keeps them; their order does not matter.
        same_place: see `Detections.same_place`.
        at_most: how many are looked for.
    """
    # All columns decide, so that equal scores do not leave it to the order of patches.
    left = rows[np.lexsort((*rows.T[:0:-1], -rows[:, 0]))]
    found: list[Floats] = []
    while len(left) and len(found) < at_most:
        best, left = left[0], left[1:]
        found.append(best)
        left = left[~_same(best, left, same_place)]
    return np.stack(found) if found else np.empty((0, 8))


def _same(best: Floats, others: Floats, same_place: float) -> npt.NDArray[np.bool_]:
    apart = np.abs(others[:, 2:5] - best[2:5])
    mutual = (apart <= np.minimum(others[:, 5:], best[5:]) / 2).all(axis=1)
    reach = (others[:, 5:] + best[5:]) / 2
    shared = np.minimum(np.maximum(reach - apart, 0), np.minimum(others[:, 5:], best[5:]))
    both = shared.prod(axis=1)
    union = others[:, 5:].prod(axis=1) + best[5:].prod() - both
    same: npt.NDArray[np.bool_] = mutual | (both >= same_place * union)
    of_one_class: npt.NDArray[np.bool_] = others[:, 1] == best[1]
    return np.logical_and(same, of_one_class)


def _boxes(boxes: Floats, order: str, *, planes: bool) -> tuple[Floats, Floats]:
    """(centres, sizes) along z, y, x: (n, 3) each; centres as indices of voxel centres."""
    half = boxes.shape[1] // 2
    first, second = boxes[:, :half], boxes[:, half:]
    if order == "ccc-sizes":
        centres, sizes = first.copy(), second
    else:
        if order.startswith("x"):
            first, second = first[:, ::-1], second[:, ::-1]
        # Corners count from the edge of the first voxel, centres from its middle.
        centres, sizes = (first + second) / 2 - 0.5, second - first
    if planes:
        centres = np.insert(centres, 0, 0.0, axis=1)
        sizes = np.insert(sizes, 0, 1.0, axis=1)
    return centres, sizes


def _count(output: Detections, values: Array) -> int:
    count = int(values.reshape(-1)[0]) if values.size == 1 else -1
    if count < 0:
        raise ModelFailure("model-output", f"{output.name}: the count is no number of boxes")
    return count


def _mm(vector: Floats) -> tuple[float, float, float]:
    """To a thousandth of a millimetre, which is finer than float32 places a box."""
    x, y, z = (round(float(value), 3) for value in vector)
    return x, y, z
