"""How slices lie apart, and whether the edge of the images cuts a segment."""

from __future__ import annotations

import numpy as np

from fhir_ext.dicom.volume import CTVolume, Geometry
from fhir_ext.results import Refusal
from models.segmentation.structures import Structure


def pixel_mm2(geometry: Geometry) -> float:
    """Area of a pixel of a slice."""
    return float(np.linalg.norm(_across(geometry)))


def slice_distance_mm(geometry: Geometry) -> float:
    """Distance of slices along their normal, which a sheared stack's steps exceed."""
    across = _across(geometry)
    return float(abs(across @ np.array(geometry.slice_step)) / np.linalg.norm(across))


def whole(structure: Structure, volume: CTVolume, limit: float) -> Refusal | None:
    """Refuse a structure that the first or last slice, row or column cuts.

    Args:
        structure: on the volume's grid.
        volume: whose edges count.
        limit: largest share of the structure's widest cut along an axis that may lie on its edge.
    """
    worst = 0.0
    for axis, (span, size) in enumerate(zip(structure.box, volume.voxels.shape, strict=True)):
        others = tuple(other for other in range(3) if other != axis)
        areas = structure.mask.sum(axis=others)
        on_edge = max(
            int(areas[0]) if span.start == 0 else 0, int(areas[-1]) if span.stop == size else 0
        )
        worst = max(worst, on_edge / int(areas.max()))
    if worst <= limit:
        return None
    seen = f"{100 * worst:.0f} % of its widest cut on the edge"
    return Refusal("coverage", seen, f"at most {100 * limit:g} %")


def _across(geometry: Geometry) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Normal of the slices, as long as the area of a pixel."""
    return np.cross(np.array(geometry.column_step), np.array(geometry.row_step))
