"""Lung density: gates, mask, histograms, numbers."""

from __future__ import annotations

from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Final

import torch
from pydantic import BaseModel, ConfigDict

from fhir_ext.dicom.volume import CTVolume
from fhir_ext.results import Refusal, Region
from models.lung_density.conclusions import LAA_950, Thresholds, conclude
from models.lung_density.lungs import LungSettings, LungsNotFoundError, find_lungs
from models.lung_density.operators import region_histograms
from models.lung_density.postprocess import (
    Histogram,
    check_shares,
    histograms_by_region,
    numbers_of,
)
from models.lung_density.preprocess import reduce_volume
from models.manifest import Manifest, MeasurementOutput
from models.manifest.demands import checked, measures_only
from models.runtime.host import Host
from models.said import measured
from models.service import ModelInput, ServiceOutput

_MEASURED: Final = frozenset(
    product(
        ("lung-volume", "mean-lung-density", LAA_950, "perc15"),
        (Region.LUNGS, Region.LEFT_LUNG, Region.RIGHT_LUNG),
    )
)


class _Settings(BaseModel):
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
        ManifestError: a setting or threshold is missing, unknown or of the wrong type, or an
            output is not measured here.
    """

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        self._manifest = manifest
        measures_only(manifest, _MEASURED)
        self._settings = _settings_of(manifest)
        self._device = device

    def run(self, given: ModelInput) -> ServiceOutput:
        """See `models.service.Service`; looks at the volume only."""
        assert given.volume is not None
        return self.measure(given.volume)

    def measure(self, volume: CTVolume) -> ServiceOutput:
        """Measure one volume; memory beyond it stays below 100 MiB at 300 x 512 x 512."""
        # Of a volume that the gates refuse whole nobody asks.
        found = cache(lambda: self._numbers(volume))

        def number(output: MeasurementOutput) -> float | Refusal:
            numbers = found()
            if isinstance(numbers, Refusal):
                return numbers
            return numbers[output.region][output.name]

        rule = partial(conclude, thresholds=self._settings.thresholds)
        return measured(self._manifest, self._manifest.refusals(volume), number, rule)

    def _numbers(self, volume: CTVolume) -> dict[Region, dict[str, float]] | Refusal:
        """Every number of each region."""
        found = self._histograms(volume)
        if isinstance(found, Refusal):
            return found
        ml = volume.geometry.voxel_volume_ml
        return {
            region: numbers_of(histogram, ml, self._settings.thresholds)
            for region, histogram in found.items()
        }

    @torch.inference_mode()
    def _histograms(self, volume: CTVolume) -> dict[Region, Histogram] | Refusal:
        settings = self._settings
        coarse = reduce_volume(volume, settings.block_mm, self._device)
        try:
            regions = find_lungs(coarse, settings.mask, self._device)
        except LungsNotFoundError as error:
            return error.refusal
        histograms = region_histograms(
            volume.voxels, regions, coarse.factors, settings.boundary_hu, self._device
        )
        implausible = check_shares(histograms, settings.min_lung_share)
        return implausible or histograms_by_region(histograms)


def create(manifest: Manifest, _folder: Path, host: Host) -> LungDensity:
    """What `models.registry` calls; torch becomes single-threaded (`operators_device`)."""
    return LungDensity(manifest, host.operators_device())


def _settings_of(manifest: Manifest) -> _Settings:
    settings = dict(manifest.settings)
    own = {name: settings.pop(name, None) for name in ("block_mm", "boundary_hu", "min_lung_share")}
    values = {**own, "mask": settings, "thresholds": dict(manifest.thresholds)}
    return checked(manifest, _Settings, values)
