"""Volumes of countable truth: tubes, balls, lesions, on any grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fhir_ext.dicom.volume import Acquisition, CTVolume, Geometry
from models.segmentation.structures import Structure

Mask = npt.NDArray[np.bool_]
Point = tuple[float, float, float]
FRAME = "1.2.826.3.9"


def geometry_of(
    shape: tuple[int, int, int], spacing_mm: Point, rotation: npt.NDArray[np.float64] | None = None
) -> Geometry:
    """A grid around the origin of the patient; slices to the head, rows to the back."""
    turn = np.eye(3) if rotation is None else rotation
    dz, dy, dx = spacing_mm
    steps = [turn @ np.array(v) for v in ((0, 0, dz), (0, dy, 0), (dx, 0, 0))]
    origin = -sum(step * (n - 1) / 2 for step, n in zip(steps, shape, strict=True))
    slices, rows, columns = (tuple(float(v) for v in step) for step in steps)
    first = tuple(float(v) for v in np.asarray(origin))
    return Geometry(first, columns, rows, slices, FRAME)


def places(geometry: Geometry, shape: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """LPS of every voxel centre in mm: (3, slices, rows, columns)."""
    matrix = np.array([geometry.slice_step, geometry.row_step, geometry.column_step]).T
    index = np.indices(shape, dtype=np.float64).reshape(3, -1)
    found = matrix @ index + np.array(geometry.origin)[:, None]
    return found.reshape(3, *shape)


def tube(where: npt.NDArray[np.float64], start: Point, end: Point, radius_mm: float) -> Mask:
    """A cylinder with flat ends."""
    a, b = np.array(start), np.array(end)
    axis = (b - a) / np.linalg.norm(b - a)
    from_start = where - a[:, None, None, None]
    along = np.tensordot(axis, from_start, 1)
    across = from_start - axis[:, None, None, None] * along
    inside = (across**2).sum(0) <= radius_mm**2
    return np.asarray(inside & (along >= 0) & (along <= np.linalg.norm(b - a)))


def ball(where: npt.NDArray[np.float64], centre: Point, radius_mm: float) -> Mask:
    return np.asarray(((where - np.array(centre)[:, None, None, None]) ** 2).sum(0) <= radius_mm**2)


def arch(
    where: npt.NDArray[np.float64], radius_mm: float, bend_mm: float, legs_mm: tuple[float, float]
) -> Mask:
    """An aorta: half a ring in a sagittal plane and two legs downwards, the first in front.

    The ring's middle lies at z = 0; the legs stand at y = -bend_mm and y = bend_mm.
    """
    x, y, z = where
    ring = np.sqrt((np.hypot(y, z) - bend_mm) ** 2 + x**2) <= radius_mm
    front, back = (
        (np.hypot(y - side * bend_mm, x) <= radius_mm) & (z <= 0) & (z >= -leg)
        for side, leg in zip((-1.0, 1.0), legs_mm, strict=True)
    )
    return np.asarray((ring & (z >= 0)) | front | back)


def volume_of(hu: npt.NDArray[Any], geometry: Geometry, **acquisition: Any) -> CTVolume:
    """A CT volume that every gate accepts unless `acquisition` says otherwise."""
    accepted: dict[str, Any] = {
        "modality": "CT",
        "manufacturer": "SIEMENS",
        "convolution_kernel": "B30f",
        "slice_thickness_mm": geometry.spacing_mm[0],
        "kvp": 120.0,
        "patient_age_years": 60.0,
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
    }
    return CTVolume(
        voxels=np.ascontiguousarray(hu, dtype=np.int16),
        geometry=geometry,
        acquisition=Acquisition(**{**accepted, **acquisition}),
        study_instance_uid="1.2.826.3",
        series_instance_uid="1.2.826.3.1",
        sop_instance_uids=tuple(f"1.2.826.3.1.{i + 1}" for i in range(len(hu))),
    )


def structure(name: str, mask: Mask) -> Structure:
    """A mask as a structure, cut to its box."""
    spans = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    z, y, x = (slice(int(s[0]), int(s[-1]) + 1) for s in spans)
    return Structure(name, (z, y, x), np.ascontiguousarray(mask[z, y, x]))
