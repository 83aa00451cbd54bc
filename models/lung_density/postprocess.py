"""Step 3: from histograms to numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fhir_ext.results import Refusal, Region
from models.lung_density.conclusions import LAA_950, Thresholds
from models.lung_density.operators import HISTOGRAM_HIGH, HISTOGRAM_LOW

Histogram = npt.NDArray[np.int64]

_HU = np.arange(HISTOGRAM_LOW, HISTOGRAM_HIGH + 1)


def numbers_of(histogram: Histogram, voxel_ml: float, thresholds: Thresholds) -> dict[str, float]:
    """Measurement name to value, for one region.

    Args:
        histogram: voxel counts per HU; must hold at least one voxel.
        voxel_ml: volume of one voxel.
        thresholds: cut-offs.

    Returns:
        `lung-volume` in mL, `mean-lung-density` and `perc15` in HU, `laa-950` in percent.
    """
    count = int(histogram.sum())
    low = int(histogram[thresholds.low_attenuation_hu >= _HU].sum())
    return {
        "lung-volume": count * voxel_ml,
        "mean-lung-density": float((histogram * _HU).sum()) / count,
        LAA_950: 100.0 * low / count,
        "perc15": percentile(histogram, thresholds.percentile),
    }


def percentile(histogram: Histogram, percent: float) -> float:
    """The HU below which `percent` of the voxels lie.

    A bin stands for the interval of 1 HU around its value, evenly filled: the percentile
    is interpolated linearly inside the bin in which the cumulative count passes it.
    """
    cumulative = np.cumsum(histogram)
    target = percent / 100.0 * float(cumulative[-1])
    at = int(np.searchsorted(cumulative, target))
    before = float(cumulative[at - 1]) if at else 0.0
    return float(_HU[at]) - 0.5 + (target - before) / float(histogram[at])


def histograms_by_region(histograms: npt.NDArray[np.int64]) -> dict[Region, Histogram]:
    """Histograms (left, right) to regions; both lungs are their sum."""
    return {
        Region.LUNGS: histograms.sum(0),
        Region.LEFT_LUNG: histograms[0],
        Region.RIGHT_LUNG: histograms[1],
    }


def check_shares(histograms: npt.NDArray[np.int64], smallest: float) -> Refusal | None:
    """Refuse when the smaller lung is too small a part of both to be believed."""
    counts = histograms.sum(1)
    share = float(counts.min()) / float(counts.sum())
    if share >= smallest:
        return None
    return Refusal(
        "lung-mask-implausible",
        f"one lung is {100 * share:.0f} % of both",
        f"at least {100 * smallest:.0f} %",
    )
