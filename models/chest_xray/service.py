"""Findings on chest radiographs: gates, choice of the image, network, scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from fhir_ext.dicom.radiograph import Radiograph, grey_values
from fhir_ext.errors import RefusedInput
from fhir_ext.results import Refusal
from models.chest_xray.preprocess import prepare
from models.gates import choose
from models.manifest import Classification, Manifest, MeasurementOutput
from models.manifest.demands import unfit
from models.manifest.outputs import Output
from models.network.layout import Layout, layout_of
from models.network.numbers import Categories, Number
from models.network.review import review_of
from models.network.said import Collector, Said
from models.runtime.base import Array
from models.runtime.host import Host
from models.service import ModelInput, ServiceOutput, sources_of

#: Which of several frontal images is looked at: the first of these that there is.
PREFERRED: Final = ("PA", "AP")


class ChestXray:
    """The service. Holds no state between studies; `run` may be called from several threads.

    Args:
        manifest: says everything.
        folder: where it and the weights are.
        host: runs the network.

    Raises:
        ManifestError: it says what only stacks of slices have, or says too little.
    """

    def __init__(self, manifest: Manifest, folder: Path, host: Host) -> None:
        self._layout = _layout_of(manifest)
        self._manifest, self._folder, self._host = manifest, folder, host

    def run(self, given: ModelInput) -> ServiceOutput:
        """See `models.service.Service`; looks at the radiographs only."""
        said = Said()
        chosen = self.choose(given.radiographs)
        if isinstance(chosen, Refusal):
            main, *further = sorted(sources_of(given.radiographs))
            self._withhold(said, chosen)
        else:
            main, *further = sources_of([chosen])
            self._answer(chosen, given, said)
        output = replace(said.output(), main=main, further=tuple(further))
        return replace(output, review=review_of(self._manifest, output))

    def choose(self, images: Sequence[Radiograph]) -> Radiograph | Refusal:
        """The one image that is looked at, by the gates; no pixels are decoded.

        PA goes before AP, which goes before whatever else the gates let pass; of several of one
        kind none is chosen.
        """
        chosen = choose(self._manifest.all_gates(), images)
        if isinstance(chosen, Refusal):
            return chosen
        ranked = sorted(chosen.images, key=_rank)
        best = [image for image in ranked if _rank(image) == _rank(ranked[0])]
        if len(best) == 1:
            return best[0]
        return Refusal("duplicate-view", f"{len(best)} images of one view", "one frontal image")

    def _answer(self, image: Radiograph, given: ModelInput, said: Said) -> None:
        try:
            values = grey_values(image)
        except RefusedInput as refused:
            seen = "an image that cannot be decoded"
            self._withhold(said, Refusal(refused.code, seen, "readable pixels"))
            return
        if values.min() == values.max():
            self._withhold(said, Refusal("blank-image", "one grey value", "an image"))
            return
        pixels = prepare(image, values, self._manifest.preprocessing)
        batch = {self._layout.name: self._layout.item(pixels[None])[None]}
        answer = self._host.run(
            self._manifest, self._folder, batch, study=given.study, urgent=given.urgent
        )
        item: dict[str, Array] = {name: array[0] for name, array in answer.items()}
        for output in self._manifest.outputs:
            collector = _collector(output)
            collector.add((0, 0, 0), item)
            collector.finish(said)

    def _withhold(self, said: Said, refusal: Refusal) -> None:
        for output in self._manifest.outputs:
            said.withhold(output, refusal)


def create(manifest: Manifest, folder: Path, host: Host) -> ChestXray:
    """What `models.registry` calls.

    Raises:
        ManifestError: see `ChestXray`.
    """
    return ChestXray(manifest, folder, host)


def _layout_of(manifest: Manifest) -> Layout:
    """What the network takes; refuses a manifest that this service cannot do."""
    if manifest.inputs.images != "radiographs":
        raise unfit(manifest, "inputs.images", "must be radiographs")
    layout = layout_of(manifest)
    if not layout.planes:
        raise unfit(manifest, "runtime.inputs.0.shape", "must be of planes")
    asked = manifest.preprocessing
    for field in ("orientation", "spacing_mm", "patches"):
        if getattr(asked, field) is not None:
            raise unfit(manifest, f"preprocessing.{field}", "is for stacks of slices")
    _check_outputs(manifest)
    if len(asked.sizes) != 1 or len(asked.sizes[0]) != 2:
        raise unfit(manifest, "preprocessing.sizes", "must be one size of rows and columns")
    if manifest.settings:
        raise unfit(manifest, "settings", f"{min(manifest.settings)} is not known")
    for index, gate in enumerate(manifest.gates):
        if gate.applies_to != "all":
            raise unfit(manifest, f"gates.{index}.applies_to", "must be all: there is one image")
    return layout


def _check_outputs(manifest: Manifest) -> None:
    for index, output in enumerate(manifest.outputs):
        at = f"outputs.{index}"
        if not isinstance(output, Classification | MeasurementOutput):
            raise unfit(manifest, f"{at}.kind", "must be of the whole image")
        if output.tensor is None:
            raise unfit(manifest, f"{at}.tensor", "is needed")
        if not isinstance(output, Classification) or not output.exclusive:
            continue
        if all(item.threshold is not None for item in output.classes):
            raise unfit(manifest, f"{at}.classes", "one must have no threshold")


def _collector(output: Output) -> Collector:
    return Number(output) if isinstance(output, MeasurementOutput) else Categories(_of(output))


def _of(output: Output) -> Classification:
    assert isinstance(output, Classification)
    return output


def _rank(image: Radiograph) -> int:
    (view,) = image.views if len(image.views) == 1 else ("",)
    return PREFERRED.index(view) if view in PREFERRED else len(PREFERRED)
