"""Draw the phantom and count its truth."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from fhir_ext.phantom import noise, shapes
from fhir_ext.results import Region

KernelName = Literal["soft", "sharp"]

#: Labels of `Phantom.lungs`.
LEFT, RIGHT = 1, 2
EMPHYSEMA_CEILING_HU = -960
PARENCHYMA_FLOOR_HU = -940


@dataclass(frozen=True, slots=True)
class Kernel:
    """How a reconstruction kernel changes the noise-free phantom.

    Attributes:
        convolution_kernel: ConvolutionKernel (0018,1210) as the manufacturer writes it.
        noise_sd_hu: standard deviation of the additive Gaussian noise.
        sharp: whether the noise is high-pass; low-pass otherwise.
    """

    convolution_kernel: str
    noise_sd_hu: float
    sharp: bool


#: Siemens names: B30f is a smooth body kernel, B70f a sharp lung kernel.
KERNELS: Mapping[KernelName, Kernel] = {
    "soft": Kernel("B30f", 8.0, sharp=False),
    "sharp": Kernel("B70f", 75.0, sharp=True),
}


@dataclass(frozen=True, slots=True)
class PhantomSpec:
    """What to draw.

    Attributes:
        shape: (slices, rows, columns).
        spacing_mm: voxel size (slice, row, column).
        emphysema_fraction: share of the voxels of each lung below -950 HU, 0 to 0.6.
        seed: of all random numbers.
        lungs_touch: the lungs meet in front without tissue between them.
        prone: the table lies in front of the patient.
    """

    shape: tuple[int, int, int] = (120, 256, 256)
    spacing_mm: tuple[float, float, float] = (2.5, 1.45, 1.45)
    emphysema_fraction: float = 0.12
    seed: int = 1
    lungs_touch: bool = False
    prone: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.emphysema_fraction <= 0.6:
            raise ValueError("emphysema_fraction must lie between 0 and 0.6")
        extent = [n * step for n, step in zip(self.shape, self.spacing_mm, strict=True)]
        needed = (
            shapes.LUNG_APEX_MM - shapes.LUNG_BASE_MM + 20.0,
            240.0,
            345.0,
        )
        if any(have < need for have, need in zip(extent, needed, strict=True)):
            raise ValueError("shape x spacing must cover 242 x 240 x 345 mm (slice, row, column)")


@dataclass(frozen=True, slots=True)
class RegionTruth:
    """Counted numbers of one region.

    Attributes:
        volume_ml: voxels times voxel volume.
        mean_hu: mean attenuation.
        laa_950_percent: share of voxels at or below -950 HU, in percent.
        perc15_hu: 15th percentile of the voxels (linear between order statistics).
    """

    volume_ml: float
    mean_hu: float
    laa_950_percent: float
    perc15_hu: float


@dataclass(frozen=True, slots=True)
class Truth:
    """Counted numbers of both lungs together and of each."""

    lungs: RegionTruth
    left_lung: RegionTruth
    right_lung: RegionTruth

    def region(self, region: Region) -> RegionTruth:
        return {
            Region.LUNGS: self.lungs,
            Region.LEFT_LUNG: self.left_lung,
            Region.RIGHT_LUNG: self.right_lung,
        }[region]


@dataclass(frozen=True, slots=True)
class Phantom:
    """A drawn phantom: slices to the head, rows to the back, columns to the left.

    Attributes:
        spec: what was asked for.
        voxels: int16 (slices, rows, columns) in HU, noise-free.
        lungs: uint8, same shape: 0 elsewhere, 1 left lung, 2 right lung. Vessels
            inside the lungs belong to them; trachea, main bronchi and a wall of 2 mm do not.
        truth: counted on `voxels`: before noise, and so free of any model of it.
    """

    spec: PhantomSpec
    voxels: npt.NDArray[np.int16] = field(repr=False)
    lungs: npt.NDArray[np.uint8] = field(repr=False)
    truth: Truth

    def render(self, kernel: KernelName) -> npt.NDArray[np.int16]:
        """The voxels with the noise of `kernel`: additive, Gaussian, correlated in plane only.

        Values are clipped to -1024...3071 HU, what 12 bits with intercept -1024 hold.
        """
        model = KERNELS[kernel]
        out = np.empty_like(self.voxels)
        stream = 16 + sorted(KERNELS).index(kernel)

        def one(k: int) -> None:
            rng = noise.generator(self.spec.seed, stream, k)
            plane = noise.kernel_noise(rng, out.shape[1:], model.noise_sd_hu, sharp=model.sharp)
            plane += self.voxels[k]
            np.clip(np.rint(plane, out=plane), -1024, 3071, out=plane)
            out[k] = plane

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, range(out.shape[0])))
        return out

    def count(self, voxels: npt.NDArray[np.int16]) -> Truth:
        """Count `voxels` (for example a rendering) inside the phantom's own lungs.

        What remains between this and a measurement is the error of the lung mask alone.
        """
        return _count(voxels, self.lungs, self.spec)


def build(spec: PhantomSpec | None = None) -> Phantom:
    """Draw a phantom. The same spec gives the same voxels.

    Every lung holds exactly round(emphysema_fraction x its voxels) voxels at or below
    -960 HU, in clusters of about 10 mm; no other lung voxel is below -940 HU.
    """
    spec = spec or PhantomSpec()
    voxels = np.empty(spec.shape, dtype=np.int16)
    lungs = np.zeros(spec.shape, dtype=np.uint8)
    z_mm, y_mm, x_mm = (_axis(n, step) for n, step in zip(spec.shape, spec.spacing_mm, strict=True))
    x, y = x_mm[None, :], y_mm[:, None]
    vessels = shapes.vessels()
    extent = tuple(float(axis[-1] - axis[0]) for axis in (z_mm, y_mm, x_mm))
    fields = _Fields(
        noise.SmoothField(spec.seed, 1, (extent[0], extent[1], extent[2]), 9.0),
        noise.SmoothField(spec.seed, 2, (extent[0], extent[1], extent[2]), 14.0),
    )

    def one(k: int) -> tuple[_Scores, _Scores]:
        z = float(z_mm[k])
        plane = voxels[k]
        shapes.paint_background(plane, x, y, z, table_side=-1.0 if spec.prone else 1.0)
        inside = shapes.lung(x, y, z, lungs_touch=spec.lungs_touch)
        lungs[k][inside & (x > 0)] = LEFT
        lungs[k][inside & (x <= 0)] = RIGHT
        texture = fields.texture.plane(z - z_mm[0], y_mm - y_mm[0], x_mm - x_mm[0])
        parenchyma = np.clip(-862.0 + 0.18 * y + 18.0 * texture, PARENCHYMA_FLOOR_HU, -700.0)
        np.copyto(plane, np.rint(parenchyma).astype(np.int16), where=inside)
        blood = np.zeros(plane.shape, dtype=np.bool_)
        for tube in vessels:
            blood |= tube.plane(x, y, z)
        plane[inside & blood] = shapes.BLOOD_HU
        for tube in shapes.AIRWAYS:
            plane[tube.plane(x, y, z, shapes.AIRWAY_WALL_MM)] = shapes.WALL_HU
        for tube in shapes.AIRWAYS:
            plane[tube.plane(x, y, z)] = shapes.AIR_HU
        score = fields.emphysema.plane(z - z_mm[0], y_mm - y_mm[0], x_mm - x_mm[0])
        score += np.float32(z / 150.0)
        score[blood] = -np.inf
        return (
            _Scores(np.flatnonzero(lungs[k] == LEFT), score),
            _Scores(np.flatnonzero(lungs[k] == RIGHT), score),
        )

    with ThreadPoolExecutor(2) as pool:
        planes = list(pool.map(one, range(spec.shape[0])))
    for side in (0, 1):
        _destroy([scores[side] for scores in planes], voxels, spec.emphysema_fraction)
    return Phantom(spec, voxels, lungs, _count(voxels, lungs, spec))


@dataclass(frozen=True, slots=True)
class _Fields:
    emphysema: noise.SmoothField
    texture: noise.SmoothField


class _Scores:
    """The emphysema scores of one lung in one slice and where they belong."""

    __slots__ = ("at", "values")

    def __init__(self, at: npt.NDArray[np.intp], plane: npt.NDArray[np.float32]) -> None:
        self.at = at.astype(np.int32)
        self.values = plane.ravel()[at]


def _destroy(planes: list[_Scores], voxels: npt.NDArray[np.int16], fraction: float) -> None:
    """Set the `fraction` of one lung's voxels with the highest scores to emphysema."""
    values = np.concatenate([scores.values for scores in planes])
    count = round(fraction * values.size)
    if count == 0:
        return
    chosen = np.zeros(values.size, dtype=np.bool_)
    chosen[np.argpartition(values, values.size - count)[values.size - count :]] = True
    if not np.isfinite(values[chosen]).all():
        raise ValueError("emphysema_fraction leaves no room for the vessels")
    threshold = float(values[chosen].min())
    start = 0
    for k, scores in enumerate(planes):
        stop = start + scores.values.size
        here = chosen[start:stop]
        depth = np.minimum(20.0 * (scores.values[here] - threshold), 25.0)
        hu = np.rint(EMPHYSEMA_CEILING_HU - 10.0 - depth).astype(np.int16)
        voxels[k].ravel()[scores.at[here]] = hu
        start = stop


def _axis(count: int, step: float) -> npt.NDArray[np.float32]:
    return ((np.arange(count) - (count - 1) / 2) * step).astype(np.float32)


def _count(voxels: npt.NDArray[np.int16], lungs: npt.NDArray[np.uint8], spec: PhantomSpec) -> Truth:
    ml = float(np.prod(spec.spacing_mm)) / 1000.0
    left, right = voxels[lungs == LEFT], voxels[lungs == RIGHT]
    both = np.concatenate([left, right])
    return Truth(*(_region(values, ml) for values in (both, left, right)))


def _region(values: npt.NDArray[np.int16], voxel_ml: float) -> RegionTruth:
    return RegionTruth(
        volume_ml=values.size * voxel_ml,
        mean_hu=float(values.mean(dtype=np.float64)),
        laa_950_percent=100.0 * float(np.count_nonzero(values <= -950)) / values.size,
        perc15_hu=float(np.percentile(values, 15)),
    )
