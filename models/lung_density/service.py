"""Lung density: gates, mask, histograms, numbers."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from fhir_ext.dicom.volume import CTVolume
from fhir_ext.results import Refusal, Region
from models.lung_density.conclusions import Thresholds, conclude
from models.lung_density.lungs import LungSettings, LungsNotFoundError, find_lungs
from models.lung_density.operators import region_histograms
from models.lung_density.postprocess import (
    Histogram,
    check_shares,
    histograms_by_region,
    measurement,
    numbers_of,
)
from models.lung_density.preprocess import reduce_volume
from models.manifest import Manifest
from models.manifest.demands import checked
from models.runtime.host import Host
from models.service import ModelInput, ServiceOutput


class _Numbers(BaseModel):
    """`settings` and `thresholds` of the manifest: exactly these."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mask: LungSettings
    thresholds: Thresholds
    block_mm: float
    boundary_hu: int
    min_lung_share: float


class LungDensity:
    """The service. Holds no state between volumes.

    Args:
        manifest: its manifest.
        device: where the operators run.

    Raises:
        ManifestError: a setting or threshold is missing, unknown or of the wrong type.
    """

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        self._manifest = manifest
        self._numbers = _numbers_of(manifest)
        self._device = device

    def run(self, given: ModelInput) -> ServiceOutput:
        """See `models.service.Service`; looks at the volume only."""
        assert given.volume is not None
        return self.measure(given.volume)

    def measure(self, volume: CTVolume) -> ServiceOutput:
        """Measure one volume; memory beyond it stays below 100 MiB at 300 x 512 x 512."""
        refused = self._manifest.refusals(volume)
        names = {output.name for output in self._manifest.outputs}
        numbers: dict[Region, dict[str, float]] = {}
        if refused.keys() != names:
            found = self._histograms(volume)
            if isinstance(found, Refusal):
                refused = {name: refused.get(name, found) for name in names}
            else:
                ml = volume.geometry.voxel_volume_ml
                numbers = {
                    region: numbers_of(histogram, ml, self._numbers.thresholds)
                    for region, histogram in found.items()
                }
        measurements = tuple(
            measurement(output, refused, numbers) for output in self._manifest.measurements
        )
        risks, issues = conclude(measurements, self._numbers.thresholds)
        return ServiceOutput(measurements, risks, issues)

    @torch.inference_mode()
    def _histograms(self, volume: CTVolume) -> dict[Region, Histogram] | Refusal:
        numbers = self._numbers
        coarse = reduce_volume(volume, numbers.block_mm, self._device)
        try:
            regions = find_lungs(coarse, numbers.mask, self._device)
        except LungsNotFoundError as error:
            return error.refusal
        histograms = region_histograms(
            volume.voxels, regions, coarse.factors, numbers.boundary_hu, self._device
        )
        implausible = check_shares(histograms, numbers.min_lung_share)
        return implausible or histograms_by_region(histograms)


def create(manifest: Manifest, _folder: Path, host: Host) -> LungDensity:
    """What `models.registry` calls; torch becomes single-threaded (`operators_device`)."""
    return LungDensity(manifest, host.operators_device())


def _numbers_of(manifest: Manifest) -> _Numbers:
    settings = dict(manifest.settings)
    own = {name: settings.pop(name, None) for name in ("block_mm", "boundary_hu", "min_lung_share")}
    values = {**own, "mask": settings, "thresholds": dict(manifest.thresholds)}
    return checked(manifest, _Numbers, values)
