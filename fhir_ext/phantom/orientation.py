"""The same patient acquired head or feet first, supine or prone."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from fhir_ext.dicom.volume import Geometry

#: PatientPosition (0018,5100), PS3.3 C.7.3.1.1.2.
OrientationName = Literal["HFS", "FFS", "HFP", "FFP"]
ORIENTATIONS: tuple[OrientationName, ...] = ("HFS", "FFS", "HFP", "FFP")


def orient(
    voxels: npt.NDArray[np.int16],
    spacing_mm: tuple[float, float, float],
    orientation: OrientationName,
    frame_of_reference_uid: str = "",
) -> tuple[npt.NDArray[np.int16], Geometry]:
    """Turn a phantom array into the array a scanner in that orientation would give.

    The anatomy keeps its place in the patient coordinate system: array and geometry
    turn together. Head first, the slices run from feet to head; feet first, from head
    to feet. Prone, rows run to the front and columns to the patient's right.

    Args:
        voxels: (slices, rows, columns); slices to the head, rows to the back, columns to the left.
        spacing_mm: voxel size (slice, row, column).
        orientation: patient position.
        frame_of_reference_uid: copied into the geometry.

    Returns:
        The C-contiguous array and where it lies.
    """
    towards_head = orientation in ("HFS", "HFP")
    supine = orientation in ("HFS", "FFS")
    signs = (1 if towards_head else -1, 1 if supine else -1, 1 if supine else -1)
    turned = np.ascontiguousarray(voxels[:: signs[0], :: signs[1], :: signs[2]])
    dz, dy, dx = (step * sign for step, sign in zip(spacing_mm, signs, strict=True))
    slices, rows, columns = voxels.shape
    origin = (-dx * (columns - 1) / 2, -dy * (rows - 1) / 2, -dz * (slices - 1) / 2)
    geometry = Geometry(
        origin=origin,
        column_step=(dx, 0.0, 0.0),
        row_step=(0.0, dy, 0.0),
        slice_step=(0.0, 0.0, dz),
        frame_of_reference_uid=frame_of_reference_uid,
    )
    return turned, geometry
