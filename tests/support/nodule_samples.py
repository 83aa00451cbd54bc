"""Small chests with nodules of known place and size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from fhir_ext.dicom.volume import Acquisition, CTVolume
from fhir_ext.phantom import OrientationName, Phantom, PhantomSpec, build, orient
from models.nodule_detection.train.backgrounds import Background
from models.nodule_detection.train.nodules import Nodule, insert

#: (x, y, z) in mm from the middle of the chest and diameter in mm; in the lungs, off the vessels.
PLACES = (((-80.0, -35.0, -5.0), 12.0), ((95.0, 30.0, 10.0), 9.0), ((-60.0, 40.0, 60.0), 16.0))


@cache
def chest(seed: int = 31) -> Phantom:
    """A phantom that no network of ours learnt from; slices of 2.5 mm."""
    return build(PhantomSpec(seed=seed, emphysema_fraction=0.0))


def background(phantom: Phantom) -> Background:
    lungs = (phantom.lungs > 0) & (phantom.voxels < -400)
    spacing = phantom.spec.spacing_mm
    return Background("chest", phantom.render("soft"), spacing, spacing[0], lungs, real=False)


def middle(phantom: Phantom) -> npt.NDArray[np.float64]:
    """Voxel (z, y, x) that the phantom's millimetres count from."""
    return (np.array(phantom.spec.shape) - 1) / 2


def nodules(
    phantom: Phantom, places: Sequence[tuple[tuple[float, float, float], float]] = PLACES
) -> list[Nodule]:
    """Solid nodules at places (x, y, z) in mm."""
    found = []
    for centre, diameter in places:
        voxel = middle(phantom) + np.array(centre[::-1]) / phantom.spec.spacing_mm
        z, y, x = (float(value) for value in voxel)
        found.append(Nodule((z, y, x), diameter, "solid"))
    return found


def volume(
    phantom: Phantom,
    placed: Sequence[Nodule] = (),
    orientation: OrientationName = "HFS",
    **changes: object,
) -> CTVolume:
    """A series of the phantom with nodules; `changes` replace values of its header."""
    hu = insert(background(phantom), list(placed), 0, np.random.default_rng(3))
    voxels, geometry = orient(hu, phantom.spec.spacing_mm, orientation)
    header: dict[str, object] = {
        "modality": "CT",
        "manufacturer": "SIEMENS",
        "convolution_kernel": "B30f",
        "slice_thickness_mm": phantom.spec.spacing_mm[0],
        "kvp": 120.0,
        "patient_age_years": 61.0,
        **changes,
    }
    acquisition = Acquisition(**header)  # type: ignore[arg-type]
    uids = tuple(f"1.2.3.{index}" for index in range(len(voxels)))
    return CTVolume(voxels, geometry, acquisition, "1.2", "1.3", uids)
