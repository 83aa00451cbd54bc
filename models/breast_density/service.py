"""Breast density: choice of the views, histograms, network, category."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fhir_ext.dicom.mammography import Mammogram, grey_values
from fhir_ext.results import Refusal
from models.breast_density.preprocess import crop, features, to_eight_bits
from models.breast_density.views import check_views
from models.manifest import Manifest
from models.network.images import ImageNetwork
from models.runtime.base import Arrays
from models.runtime.host import Host


class BreastDensity(ImageNetwork[Mammogram]):
    """See `ImageNetwork`.

    Raises:
        ManifestError: its gates ask for other views, too.
    """

    kind = "mammograms"

    def __init__(self, manifest: Manifest, folder: Path, host: Host) -> None:
        super().__init__(manifest, folder, host)
        check_views(manifest)

    def prepare(self, images: Sequence[Mammogram]) -> Arrays | Refusal:
        """The histograms of the four views, beside each other."""
        shares = []
        for image in images:
            part = crop(grey_values(image), image.anterior)
            if isinstance(part, Refusal):
                return part
            shares.append(features(to_eight_bits(part, image.format.bits_stored)))
        return {"shares": np.concatenate(shares)[None]}


def create(manifest: Manifest, folder: Path, host: Host) -> BreastDensity:
    """What `models.registry` calls."""
    return BreastDensity(manifest, folder, host)
