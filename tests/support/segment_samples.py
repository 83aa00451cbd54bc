"""A result of measurements on segmentations, made by the service from a small phantom."""

from __future__ import annotations

import numpy as np
from analytic import geometry_of, structure, volume_of
from result_samples import result

from fhir_ext.results import ServiceResult
from models.registry import Registry
from models.segment_measurements.service import SegmentMeasurements
from models.segmentation.structures import Structures

MANIFEST = Registry().manifest("segment-measurements")
SHAPE = (20, 60, 60)
GRID = geometry_of(SHAPE, (3.0, 1.0, 1.0))


def measured() -> ServiceResult:
    """Two kidneys and a score of 120; everything else is withheld."""
    hu = np.full(SHAPE, 30, dtype=np.int16)
    hu[8:12, 30:38, 40:48] = 450
    masks = {}
    for name, box in {
        "left-kidney": (slice(2, 18), slice(4, 26), slice(32, 56)),
        "right-kidney": (slice(2, 18), slice(4, 26), slice(4, 28)),
        "aorta": (slice(2, 18), slice(34, 54), slice(4, 24)),
        "coronary-arteries": (slice(6, 14), slice(28, 50), slice(30, 56)),
    }.items():
        masks[name] = np.zeros(SHAPE, dtype=np.bool_)
        masks[name][box] = True
    output = SegmentMeasurements(MANIFEST).measure(
        volume_of(hu, GRID), Structures({n: structure(n, m) for n, m in masks.items()})
    )
    return result(
        service="segment-measurements",
        model=MANIFEST.identity(),
        measurements=output.measurements,
        risks=output.risks,
        issues=output.issues,
    )
