"""Where the array that a network sees lies in the volume and in the patient.

The array's axes are called z, y and x: first, second and last. Indices are continuous; the
centre of voxel i is i.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fhir_ext.dicom.volume import CTVolume, Geometry
from fhir_ext.results import Refusal
from models.manifest.inputs import Preprocessing
from models.network.layout import Layout, Shape

Floats = npt.NDArray[np.float64]
_T = TypeVar("_T", bound=np.generic)

IMAGE_SIZE = "image-size"
#: Most voxels of one array: a header can ask for any number of them.
MAX_VOXELS = 1 << 30
#: Resampling that moves no voxel by more than this part of itself is left out.
_SAME = 1e-3
_UNEVEN = frozenset({"gap", "irregular-spacing"})
#: Axis of the LPS frame and sign of the direction that a letter names.
_LETTERS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the array.

    Attributes:
        source: axis of the volume's array that it runs along.
        flipped: against that axis.
        voxels: length of that axis.
        length: voxels after resampling; both grids have the same middle.
        scale: voxels of the volume for one of the array.
        before, padded: padding before the image, and length with all padding.
    """

    source: int
    flipped: bool
    voxels: int
    length: int
    scale: float
    before: int
    padded: int

    @property
    def resampled(self) -> bool:
        return self.scale != 1.0

    def inward(self, index: Floats) -> Floats:
        """Places in the oriented volume of places in the array."""
        from_middle = index - self.before - (self.length - 1) / 2
        return from_middle * self.scale + (self.voxels - 1) / 2

    def outward(self) -> Floats:
        """Places in the array of every voxel of the oriented volume; none in the padding."""
        from_middle = np.arange(self.voxels) - (self.voxels - 1) / 2
        places = from_middle / self.scale + (self.length - 1) / 2
        found: Floats = np.clip(places, 0, self.length - 1) + self.before
        return found


@dataclass(frozen=True, slots=True)
class Grid:
    """The array of one volume.

    Attributes:
        axes: z, y, x.
        geometry: of the volume.
        uneven: why a place in the array is no place in the patient: slices at unequal distances
            have a step that is nobody's.
    """

    axes: tuple[Axis, Axis, Axis]
    geometry: Geometry
    uneven: Refusal | None = None

    @property
    def shape(self) -> Shape:
        """Of the array with its padding."""
        z, y, x = (axis.padded for axis in self.axes)
        return z, y, x

    def oriented(self, volume: npt.NDArray[_T]) -> npt.NDArray[_T]:
        """An array of the volume (slices, rows, columns) along z, y, x; shares memory."""
        turned = volume.transpose([axis.source for axis in self.axes])
        z, y, x = (slice(None, None, -1 if axis.flipped else 1) for axis in self.axes)
        return turned[z, y, x]

    def holds(self, index: Floats) -> npt.NDArray[np.bool_]:
        """Whether places (n, 3) in the array are inside of the image, not in its padding."""
        low = np.array([axis.before for axis in self.axes]) - 0.5
        high = low + [axis.length for axis in self.axes]
        return np.asarray(((index >= low) & (index <= high)).all(axis=1))

    def to_patient(self, index: Floats) -> Floats:
        """(x, y, z) in mm (LPS) of places (n, 3) in the array."""
        places = np.empty_like(index)
        for at, axis in enumerate(self.axes):
            place = axis.inward(index[:, at])
            places[:, axis.source] = axis.voxels - 1 - place if axis.flipped else place
        found: Floats = np.asarray(self.geometry.origin) + places @ _steps(self.geometry)
        return found

    def extent(self, size: Floats) -> Floats:
        """Full widths along x, y, z in mm of boxes (n, 3) whose sides are voxels of the array.

        For oblique volumes it is the smallest box along x, y, z that holds the given one.
        """
        steps = _steps(self.geometry)
        scaled = np.array([steps[axis.source] * axis.scale for axis in self.axes])
        found: Floats = size @ np.abs(scaled)
        return found


def grid_of(volume: CTVolume, asked: Preprocessing, layout: Layout) -> Grid | Refusal:
    """The grid that the preprocessing of a manifest gives a volume.

    An oblique volume gets the nearest axes. The resampled array has
    `round(voxels x spacing / spacing_mm)` voxels, at least 1, of exactly `spacing_mm`, around
    the middle of the volume. Padding lies on both sides; of an odd number, the larger part
    behind.

    Returns:
        A refusal when it is larger than every size that the manifest knows.
    """
    sources = _turned(volume.geometry, asked.orientation)
    stated = asked.spacing_mm or (0.0, 0.0, 0.0)
    # Of planes two may be stated: their distance stays as it is.
    spacing = (0.0,) * (3 - len(stated)) + stated
    axes = []
    for (source, flipped), wanted in zip(sources, spacing, strict=True):
        voxels, size = volume.voxels.shape[source], volume.geometry.spacing_mm[source]
        axes.append((source, flipped, voxels, *_resampled(voxels, size, wanted)))
    lengths = (axes[0][3], axes[1][3], axes[2][3])
    padded = _padded(lengths, asked, layout)
    if isinstance(padded, Refusal):
        return padded
    z, y, x = (
        Axis(*axis, before=(to - axis[3]) // 2, padded=to)
        for axis, to in zip(axes, padded, strict=True)
    )
    uneven = (issue for issue in volume.issues if issue.code in _UNEVEN)
    refusals = (Refusal(i.code, i.detail, "slices at equal distances") for i in uneven)
    return Grid((z, y, x), volume.geometry, next(refusals, None))


def patch_of(grid: Grid, asked: Preprocessing, layout: Layout) -> Shape:
    """Size of what the network sees at once."""
    z, y, x = grid.shape
    if asked.patches is not None:
        return _shape(asked.patches.size, 1 if layout.planes else 0)
    return (1, y, x) if layout.planes else (z, y, x)


def _resampled(voxels: int, size: float, wanted: float) -> tuple[int, float]:
    """(length, scale) of one axis; `wanted` of 0 leaves it as it is."""
    if not wanted or abs(wanted / size - 1) * voxels < _SAME:
        return voxels, 1.0
    return max(1, round(voxels * size / wanted)), wanted / size


def _padded(lengths: Shape, asked: Preprocessing, layout: Layout) -> Shape | Refusal:
    if lengths[0] * lengths[1] * lengths[2] > MAX_VOXELS:
        return Refusal(IMAGE_SIZE, _voxels(lengths), f"at most {MAX_VOXELS} voxels")
    to = lengths
    if asked.sizes:
        sizes = [_shape(size, lengths[0] if layout.planes else 0) for size in asked.sizes]
        fitting = [size for size in sizes if all(map(int.__le__, lengths, size))]
        if not fitting:
            largest = max(sizes, key=lambda size: (size[0] * size[1] * size[2], size))
            return Refusal(IMAGE_SIZE, _voxels(lengths), f"at most {_voxels(largest)}")
        to = min(fitting, key=lambda size: (size[0] * size[1] * size[2], size))
    if asked.patches is not None:
        patch = _shape(asked.patches.size, 1 if layout.planes else 0)
        to = (max(to[0], patch[0]), max(to[1], patch[1]), max(to[2], patch[2]))
    return to


def _shape(size: tuple[int, ...], planes: int) -> Shape:
    """z, y, x of a stated size; of planes the number of slices is `planes`."""
    y, x = size[-2:]
    return planes or size[0], y, x


def _voxels(shape: Shape) -> str:
    return f"{shape[0]} x {shape[1]} x {shape[2]} voxels"


def _steps(geometry: Geometry) -> Floats:
    return np.array([geometry.slice_step, geometry.row_step, geometry.column_step])


def _turned(geometry: Geometry, orientation: str | None) -> list[tuple[int, bool]]:
    """For z, y, x: the axis of the volume's array, and whether it is flipped."""
    if orientation is None:
        return [(0, False), (1, False), (2, False)]
    steps = _steps(geometry)
    cosines = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    wanted = [_LETTERS[letter] for letter in orientation]
    along = [axis for axis, _ in wanted]
    order = max(
        permutations(range(3)), key=lambda axes: float(np.abs(cosines[list(axes), along]).sum())
    )
    return [
        (axis, bool(cosines[axis, lps] * sign < 0))
        for axis, (lps, sign) in zip(order, wanted, strict=True)
    ]
