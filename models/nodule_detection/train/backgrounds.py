"""CT volumes that nodules are placed in: DICOM series of a folder, and phantoms."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import cc3d
import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from fhir_ext.dicom.assemble import VolumeAssembler
from fhir_ext.dicom.volume import CTVolume
from fhir_ext.phantom import KernelName, PhantomSpec, build
from fhir_ext.settings import LimitSettings
from models.lung_density.preprocess import reorientation_of

Side = Literal["left", "right"]
_T = TypeVar("_T", bound=np.generic)
#: Air of a lung, in HU, and the smallest piece of it that counts, in mL.
_AIR_HU, _SMALLEST_ML = -400, 60.0
_VOC_BOX = re.compile(
    r"\s*".join(rf"<{name}>\s*(\d+)[\d.]*\s*</{name}>" for name in ("xmin", "ymin", "xmax", "ymax"))
)
#: Slice numbers of an annotated tumour may leave out one slice.
_LARGEST_STEP = 2

#: SOP Instance UID to boxes (first column, first row, last column, last row).
Annotated = Mapping[str, Sequence[tuple[int, ...]]]
Box = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Background:
    """A CT without inserted nodules.

    Attributes:
        name: for people; no identifier.
        hu: int16 (feet to head, front to back, right to left).
        spacing_mm: voxel size along these axes.
        thickness_mm: what one slice averages.
        lungs: bool, same shape: air inside the lungs, without vessels.
        ignored: boxes, (first, last) voxel along each axis, in which nothing counts: annotated
            tumours, and sides that are not tested.
        tumours: annotated boxes.
        real: scanned, and not drawn.
        scans: how much of a scan counts.
    """

    name: str
    hu: npt.NDArray[np.int16] = field(repr=False)
    spacing_mm: tuple[float, float, float]
    thickness_mm: float
    lungs: npt.NDArray[np.bool_] = field(repr=False)
    ignored: tuple[Box, ...] = ()
    tumours: tuple[Box, ...] = ()
    real: bool = True
    scans: float = 1.0


def read_series(folder: Path) -> list[CTVolume]:
    """The largest stack of every CT series below a folder, sorted by Series Instance UID."""
    series: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            try:
                header = dcmread(path, specific_tags=["SeriesInstanceUID", "Modality"])
            except InvalidDicomError:
                continue
            if header.get("Modality") == "CT":
                series[str(header.SeriesInstanceUID)].append(path)
    found = []
    for _, paths in sorted(series.items()):
        with VolumeAssembler(len(paths), LimitSettings()) as assembler:
            for path in paths:
                assembler.add(path.read_bytes())
            volumes = assembler.finish().volumes
        if volumes:
            found.append(volumes[0])
    return found


def from_volume(volume: CTVolume, name: str, annotated: Annotated | None = None) -> Background:
    """A background of a scanned series.

    Args:
        volume: the series.
        name: for people.
        annotated: boxes of tumours.
    """
    turn = reorientation_of(volume.geometry)
    hu = np.ascontiguousarray(np.flip(volume.voxels.transpose(turn.order), turn.flipped))
    steps = volume.geometry.spacing_mm
    z, y, x = (steps[axis] for axis in turn.order)
    thickness = volume.acquisition.slice_thickness_mm or steps[0]
    tumours: tuple[Box, ...] = ()
    if annotated and turn.order == (0, 1, 2):
        tumours = _tumours(volume, annotated, turn.flipped)
    return Background(name, hu, (z, y, x), thickness, _lungs(hu, (z, y, x)), tumours, tumours)


def phantom(seed: int, kernel: KernelName) -> Background:
    """A drawn chest; its vessels and airways are the same for every seed, its texture is not."""
    spec = PhantomSpec(emphysema_fraction=0.05 * (seed % 4), seed=seed)
    drawn = build(spec)
    hu = drawn.render(kernel)
    lungs = (drawn.lungs > 0) & (hu < _AIR_HU)
    name = f"phantom {seed} {kernel}"
    return Background(name, hu, spec.spacing_mm, spec.spacing_mm[0], lungs, real=False)


def halves(background: Background, learn: Side) -> tuple[Background, Background]:
    """One side of a patient to learn from, and the other to be tested on.

    Returns:
        (the one side and its mirror image in place of the other: not a voxel of the other side
        is in it; the whole scan, in which only the other side counts).
    """
    columns = np.flatnonzero(background.lungs.any((0, 1)))
    middle, last = int(columns[0] + columns[-1]) // 2, background.hu.shape[2] - 1
    own = slice(middle, None) if learn == "left" else slice(0, middle)
    side = "left" if learn == "left" else "right"
    boxes = [
        (z, y, x) for z, y, x in background.ignored if (sum(x) / 2 >= middle) == (side == "left")
    ]
    width = last + 1 - middle if learn == "left" else middle
    start = middle if learn == "left" else 0
    shift = width - start if learn == "left" else 0
    inside = [(z, y, (x[0] + shift, x[1] + shift)) for z, y, x in boxes]
    turned = [(z, y, (2 * width - 1 - x[1], 2 * width - 1 - x[0])) for z, y, x in inside]
    seen = replace(
        background,
        name=f"{background.name}, {side} side and its mirror image",
        hu=_mirrored(background.hu[:, :, own], learn),
        lungs=_mirrored(background.lungs[:, :, own], learn),
        ignored=tuple(inside + turned),
    )
    lungs = background.lungs.copy()
    lungs[:, :, own] = False
    whole = tuple((0.0, float(n - 1)) for n in background.hu.shape)
    borders = (float(own.start or 0), float((own.stop or last + 1) - 1))
    other = "right" if learn == "left" else "left"
    tested = replace(
        background,
        name=f"{background.name}, {other} side",
        lungs=lungs,
        ignored=(*background.ignored, (whole[0], whole[1], borders)),
        scans=0.5,
    )
    return seen, tested


def _mirrored(part: npt.NDArray[_T], side: Side) -> npt.NDArray[_T]:
    turned = part[:, :, ::-1]
    pair = (turned, part) if side == "left" else (part, turned)
    return np.concatenate(pair, axis=2)


def read_annotations(folder: Path) -> dict[str, list[tuple[int, ...]]]:
    """Boxes in the form of the collection Lung-PET-CT-Dx: one PASCAL VOC file for each slice,
    named by its SOP Instance UID; (xmin, ymin, xmax, ymax) in pixels."""
    found: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for path in sorted(folder.rglob("*.xml")):
        if not re.fullmatch(r"[0-9.]+", path.stem):
            continue
        for box in _VOC_BOX.findall(path.read_text(encoding="utf-8")):
            found[path.stem].append(tuple(int(text) for text in box))
    return dict(found)


def _tumours(volume: CTVolume, annotated: Annotated, flipped: tuple[int, ...]) -> tuple[Box, ...]:
    """Boxes of neighbouring slices that overlap become one box."""
    joined: list[list[list[float]]] = []
    for k, uid in enumerate(volume.sop_instance_uids):
        for x0, y0, x1, y1 in annotated.get(uid, ()):
            one = [[k, k], [y0, y1], [x0, x1]]
            for other in joined:
                near = 0 < k - other[0][1] <= _LARGEST_STEP
                if near and all(
                    a[0] <= b[1] and b[0] <= a[1] for a, b in zip(one[1:], other[1:], strict=True)
                ):
                    for mine, theirs in zip(other, one, strict=True):
                        mine[:] = min(mine[0], theirs[0]), max(mine[1], theirs[1])
                    break
            else:
                joined.append([[float(v) for v in pair] for pair in one])
    for box in joined:
        for axis in flipped:
            last = volume.voxels.shape[axis] - 1
            box[axis] = [last - box[axis][1], last - box[axis][0]]
    return tuple(((z[0], z[1]), (y[0], y[1]), (x[0], x[1])) for z, y, x in joined)


def _lungs(
    hu: npt.NDArray[np.int16], spacing_mm: tuple[float, float, float]
) -> npt.NDArray[np.bool_]:
    """Air that does not reach the border in plane, in large pieces; the airways are part of it."""
    labels = cc3d.connected_components(hu < _AIR_HU, connectivity=6)
    counts = np.bincount(labels.ravel())
    outside = np.concatenate([labels[:, (0, -1)].ravel(), labels[:, :, (0, -1)].ravel()])
    keep = counts * float(np.prod(spacing_mm)) / 1000 >= _SMALLEST_ML
    keep[0] = False
    keep[np.unique(outside)] = False
    return np.asarray(keep[labels])
