"""Breast density: gates and choice of the views, histograms, category."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fhir_ext.dicom.mammography import Mammogram, grey_values
from fhir_ext.errors import RefusedInput
from fhir_ext.results import Classification, Refusal, SeriesSource
from models.breast_density.postprocess import classification, withheld
from models.breast_density.preprocess import Features, crop, features, to_eight_bits
from models.breast_density.views import check_views, select_views
from models.gates import Chosen
from models.manifest import Manifest, ManifestError
from models.manifest.runtimes import NetworkRuntime
from models.runtime.host import Host
from models.service import ModelInput, ServiceOutput


class BreastDensity:
    """The service. Holds no state between studies; `run` may be called from several threads.

    Args:
        manifest: its manifest.
        folder: where it and the weights are.
        host: runs the network.

    Raises:
        ManifestError: it has settings, no network, or gates that ask for other views.
    """

    def __init__(self, manifest: Manifest, folder: Path, host: Host) -> None:
        if not isinstance(manifest.runtime, NetworkRuntime):
            raise ManifestError(f"manifest of {manifest.id}: runtime: must be a network")
        if manifest.settings:
            unknown = min(manifest.settings)
            raise ManifestError(f"manifest of {manifest.id}: settings: {unknown} is not known")
        check_views(manifest)
        self._manifest, self._folder, self._host = manifest, folder, host

    def run(self, given: ModelInput) -> ServiceOutput:
        """See `models.service.Service`; looks at the mammograms only."""
        images = given.mammograms
        selected = self.select(images)
        if isinstance(selected, Refusal):
            sources = _sources(images)
            return ServiceOutput(
                classifications=(withheld(selected),), main=sources[0], further=sources[1:]
            )
        sources = _sources(selected.images)
        found = self._classified(selected, given.study, given.urgent)
        return ServiceOutput(classifications=(found,), main=sources[0], further=sources[1:])

    def classify(self, images: Sequence[Mammogram]) -> Classification:
        """Classify one study.

        Args:
            images: all 2D mammograms of one study, in any order; pixels are decoded for four.

        Returns:
            Probabilities of `a` to `d` and the most probable one, or why there is none.

        Raises:
            ModelFailure: the weights are missing or are not those that the manifest names.
        """
        selected = self.select(images)
        return withheld(selected) if isinstance(selected, Refusal) else self._classified(selected)

    def _classified(
        self, selected: Chosen[Mammogram], study: str = "", urgent: bool = False
    ) -> Classification:
        shares = []
        for image in selected.images:
            found = _features(image)
            if isinstance(found, Refusal):
                return withheld(found)
            shares.append(found)
        batch = {"shares": np.concatenate(shares)[None]}
        answer = self._host.run(self._manifest, self._folder, batch, study=study, urgent=urgent)
        return classification(tuple(answer["probabilities"][0].tolist()))

    def select(self, images: Sequence[Mammogram]) -> Chosen[Mammogram] | Refusal:
        """The four views that `run` looks at, without decoding any pixels."""
        return select_views(self._manifest, images)


def create(manifest: Manifest, folder: Path, host: Host) -> BreastDensity:
    """What `models.registry` calls."""
    return BreastDensity(manifest, folder, host)


def _sources(images: Sequence[Mammogram]) -> tuple[SeriesSource, ...]:
    """The instances by series, in the order in which the series come first."""
    series: dict[str, list[str]] = {}
    for image in images:
        series.setdefault(image.series_instance_uid, []).append(image.sop_instance_uid)
    return tuple(SeriesSource(uid, tuple(sorted(uids))) for uid, uids in series.items())


def _features(image: Mammogram) -> Features | Refusal:
    """The histogram of one view; pixels that cannot be read are a refusal."""
    try:
        values = grey_values(image)
    except RefusedInput as refused:
        return Refusal(refused.code, "a view that cannot be decoded", "readable pixels")
    part = crop(values, image.anterior)
    if isinstance(part, Refusal):
        return part
    return features(to_eight_bits(part, image.format.bits_stored))
