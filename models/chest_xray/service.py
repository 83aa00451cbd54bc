"""Findings on chest radiographs: gates, choice of the image, network, scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from fhir_ext.dicom.radiograph import Radiograph, grey_values
from fhir_ext.results import Refusal
from models.chest_xray.preprocess import prepare
from models.gates import Chosen
from models.manifest import Manifest
from models.manifest.demands import unfit
from models.network.images import ImageNetwork
from models.network.layout import Layout, layout_of
from models.runtime.base import Arrays
from models.runtime.host import Host

#: Which of several frontal images is looked at: the first of these that there is.
PREFERRED: Final = ("PA", "AP")


class ChestXray(ImageNetwork[Radiograph]):
    """See `ImageNetwork`.

    Raises:
        ManifestError: it says what only stacks of slices have, too.
    """

    kind = "radiographs"

    def __init__(self, manifest: Manifest, folder: Path, host: Host) -> None:
        super().__init__(manifest, folder, host)
        self._layout = _layout_of(manifest)

    def select(self, images: Sequence[Radiograph]) -> Chosen[Radiograph] | Refusal:
        """One image, by the gates; no pixels are decoded.

        PA goes before AP, which goes before whatever else the gates let pass; of several of one
        kind none is chosen.
        """
        chosen = super().select(images)
        if isinstance(chosen, Refusal):
            return chosen
        first = min(map(_rank, chosen.images))
        best = tuple(image for image in chosen.images if _rank(image) == first)
        if len(best) > 1:
            return Refusal("duplicate-view", f"{len(best)} images of one view", "one frontal image")
        return replace(chosen, images=best)

    def prepare(self, images: Sequence[Radiograph]) -> Arrays | Refusal:
        """The one image as the network takes it."""
        (image,) = images
        values = grey_values(image)
        if values.min() == values.max():
            return Refusal("blank-image", "one grey value", "an image")
        pixels = prepare(image, values, self._manifest.preprocessing)
        return {self._layout.name: self._layout.item(pixels[None])[None]}


def create(manifest: Manifest, folder: Path, host: Host) -> ChestXray:
    """What `models.registry` calls.

    Raises:
        ManifestError: see `ChestXray`.
    """
    return ChestXray(manifest, folder, host)


def _layout_of(manifest: Manifest) -> Layout:
    """What the network takes; refuses a manifest that this service cannot do."""
    layout = layout_of(manifest)
    if not layout.planes:
        raise unfit(manifest, "runtime.inputs.0.shape", "must be of planes")
    asked = manifest.preprocessing
    for field in ("orientation", "spacing_mm", "patches"):
        if getattr(asked, field) is not None:
            raise unfit(manifest, f"preprocessing.{field}", "is for stacks of slices")
    if len(asked.sizes) != 1 or len(asked.sizes[0]) != 2:
        raise unfit(manifest, "preprocessing.sizes", "must be one size of rows and columns")
    return layout


def _rank(image: Radiograph) -> int:
    (view,) = image.views if len(image.views) == 1 else ("",)
    return PREFERRED.index(view) if view in PREFERRED else len(PREFERRED)
