"""Chest CT phantom of known truth, for the demo, the benches and the tests.

`build` draws the anatomy once; `Phantom.render` gives it the noise of a kernel;
`write_study` writes it as classic CT Image Storage series. numpy and pydicom only.
"""

from fhir_ext.phantom.anatomy import (
    KERNELS,
    Kernel,
    KernelName,
    Phantom,
    PhantomSpec,
    RegionTruth,
    Truth,
    build,
)
from fhir_ext.phantom.orientation import ORIENTATIONS, OrientationName, orient
from fhir_ext.phantom.series import PhantomPatient, write_series, write_study

__all__ = [
    "KERNELS",
    "ORIENTATIONS",
    "Kernel",
    "KernelName",
    "OrientationName",
    "Phantom",
    "PhantomPatient",
    "PhantomSpec",
    "RegionTruth",
    "Truth",
    "build",
    "orient",
    "write_series",
    "write_study",
]
