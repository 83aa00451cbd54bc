"""Breast density: gates and choice of the views, histograms, category."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fhir_ext.dicom.mammography import Mammogram, grey_values
from fhir_ext.errors import RefusedInput
from fhir_ext.results import Classification, Refusal
from models.breast_density.postprocess import classification, withheld
from models.breast_density.preprocess import Features, crop, features, to_eight_bits
from models.breast_density.views import check_views
from models.gates import Chosen, choose
from models.manifest import Manifest
from models.manifest.demands import unfit
from models.manifest.runtimes import NetworkRuntime
from models.runtime.host import Host
from models.service import ModelInput, ServiceOutput, sources_of


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
            raise unfit(manifest, "runtime", "must be a network")
        if manifest.settings:
            raise unfit(manifest, "settings", f"{min(manifest.settings)} is not known")
        check_views(manifest)
        self._manifest, self._folder, self._host = manifest, folder, host

    def run(self, given: ModelInput) -> ServiceOutput:
        """See `models.service.Service`; looks at the mammograms only."""
        selected = self.select(given.mammograms)
        if isinstance(selected, Refusal):
            found, used = withheld(selected), given.mammograms
        else:
            found, used = self._classified(selected, given), selected.images
        main, *further = sources_of(used)
        return ServiceOutput(classifications=(found,), main=main, further=tuple(further))

    def _classified(self, selected: Chosen[Mammogram], given: ModelInput) -> Classification:
        shares = []
        for image in selected.images:
            found = _features(image)
            if isinstance(found, Refusal):
                return withheld(found)
            shares.append(found)
        batch = {"shares": np.concatenate(shares)[None]}
        answer = self._host.run(
            self._manifest, self._folder, batch, study=given.study, urgent=given.urgent
        )
        return classification(tuple(answer["probabilities"][0].tolist()))

    def select(self, images: Sequence[Mammogram]) -> Chosen[Mammogram] | Refusal:
        """The four views that `run` looks at, without decoding any pixels."""
        return choose(self._manifest.all_gates(), images)


def create(manifest: Manifest, folder: Path, host: Host) -> BreastDensity:
    """What `models.registry` calls."""
    return BreastDensity(manifest, folder, host)


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
