"""Segmentations: from answers for patches to a mask on the voxels of the volume."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from fhir_ext.results import Refusal
from models.manifest.outputs import Segmentation, SegmentLabel
from models.network.grid import Grid
from models.network.layout import Shape
from models.network.patches import Blender, Tiling, Weights
from models.network.pixels import Sampling, sampling
from models.runtime.base import Array, ModelFailure
from models.said import Said
from models.service import MaskOutput

#: How far a probability may be off 0 to 1.
SLACK = 1e-3
#: Share of the patches, by weight, that must agree on a label.
MAJORITY = 0.5


class Mask:
    """A segmentation; see `collector.Collector`.

    Probabilities are averaged over patches and interpolated linearly between their voxels to
    those of the volume; then the label is chosen. Labels are a vote of the patches, and come
    from the nearest voxel.
    """

    def __init__(
        self, output: Segmentation, grid: Grid, tiling: Tiling, shape: Shape, *, planes: bool
    ) -> None:
        self._output, self._grid, self._size, self._planes = output, grid, tiling.size, planes
        self._values = [label.value for label in output.labels]
        self._mask = np.zeros(shape, np.uint8)
        self._onto = _OntoVolume(grid, self._mask, output)
        self._blender = Blender(tiling, len(self._values), self._onto.take)

    def add(self, start: Shape, item: Mapping[str, Array]) -> None:
        assert self._output.tensor is not None
        values = item[self._output.tensor]
        if self._planes:
            values = np.expand_dims(values, -3)
        labels = self._output.encoding == "labels"
        self._blender.add(start, self._votes(values) if labels else self._channels(values))

    def finish(self, said: Said) -> None:
        self._blender.finish()
        output, ml = self._output, self._grid.geometry.voxel_volume_ml
        counts = _counts(self._mask)
        wrong = [label for label in output.labels if _implausible(label, counts, ml)]
        for label in wrong:
            assert label.valid_ml is not None
            self._mask[self._mask == label.value] = 0
            volume = counts[label.value] * ml
            low, high = label.valid_ml
            said.notes.append(
                (
                    output.name,
                    f"{label.name} is withheld: {volume:.4g} mL, plausible are {low:g} to "
                    f"{high:g} mL.",
                )
            )
        if len(wrong) == len(output.labels):
            said.withhold(output, Refusal("implausible-value", "no segment stands", "a segment"))
            return
        said.masks.append(MaskOutput(output.name, self._mask))

    def _votes(self, values: Array) -> Weights:
        """(z, y, x) labels, with or without a channel, to one channel for each of ours."""
        if values.ndim == 4 and len(values) == 1:
            values = values[0]
        self._check(values.shape)
        known = np.array(self._values).reshape(-1, 1, 1, 1)
        votes: Weights = (values == known).astype(np.float32)
        return votes

    def _channels(self, values: Array) -> Weights:
        """(channels, z, y, x) probabilities to those of our labels."""
        self._check(values.shape[1:])
        highest = max(self._values)
        if len(values) < highest:
            raise ModelFailure("model-output", f"{self._output.name} has {len(values)} channels")
        background = 0 if len(values) == highest else 1
        found = values[[value - 1 + background for value in self._values]].astype(np.float32)
        # Written so that NaN fails.
        if not (found.min() >= -SLACK and found.max() <= 1 + SLACK):
            raise ModelFailure("model-output", f"{self._output.name} is not between 0 and 1")
        return found

    def _check(self, shape: tuple[int, ...]) -> None:
        if tuple(shape) != tuple(self._size):
            raise ModelFailure(
                "model-output", f"{self._output.name} has shape {shape}, the image {self._size}"
            )


class _OntoVolume:
    """Writes labels into a mask of the volume, as the planes of the array become known.

    Args:
        grid: where the array lies.
        mask: uint8 (slices, rows, columns); is written.
        output: which labels.
    """

    def __init__(self, grid: Grid, mask: npt.NDArray[np.uint8], output: Segmentation) -> None:
        linear = output.encoding == "probabilities"
        self._least = output.threshold if linear else MAJORITY
        self._mask = grid.oriented(mask)
        self._labels = np.array([label.value for label in output.labels], np.uint8)
        places = (axis.outward() for axis in grid.axes)
        self._z, self._y, self._x = (
            sampling(where, axis.padded, linear=linear)
            for where, axis in zip(places, grid.axes, strict=True)
        )
        self._next = 0
        self._tail: tuple[int, Weights] | None = None

    def take(self, first: int, planes: Weights) -> None:
        """float32 (channels, planes, y, x), without a gap after what came before."""
        end = first + planes.shape[1]
        while self._next < len(self._z.low) and self._z.high[self._next] < end:
            at = self._next
            low = self._plane(int(self._z.low[at]), first, planes)
            high = self._plane(int(self._z.high[at]), first, planes)
            between = torch.lerp(low, high, float(self._z.share[at])) if self._z.share[at] else low
            self._mask[at] = self._chosen(_resampled(between, self._y, self._x))
            self._next += 1
        self._tail = end - 1, planes[:, -1].copy()

    def _plane(self, index: int, first: int, planes: Weights) -> torch.Tensor:
        if index >= first:
            return torch.from_numpy(planes[:, index - first])
        assert self._tail is not None and self._tail[0] == index
        return torch.from_numpy(self._tail[1])

    def _chosen(self, channels: torch.Tensor) -> npt.NDArray[np.uint8]:
        best, which = channels.max(0)
        labels = torch.from_numpy(self._labels)[which]
        labels[best < self._least] = 0
        found: npt.NDArray[np.uint8] = labels.numpy()
        return found


def _resampled(plane: torch.Tensor, y: Sampling, x: Sampling) -> torch.Tensor:
    return x.along(y.along(plane, 1), 2)


def _counts(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Voxels of each value; `bincount` takes 8 bytes for each voxel that it is shown."""
    counts = np.zeros(256, np.int64)
    for plane in mask:
        counts += np.bincount(plane.reshape(-1), minlength=256)
    return counts


def _implausible(label: SegmentLabel, counts: npt.NDArray[np.int64], voxel_ml: float) -> bool:
    if label.valid_ml is None:
        return False
    low, high = label.valid_ml
    return not low <= counts[label.value] * voxel_ml <= high
