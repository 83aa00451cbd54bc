"""A network that is asked once about images chosen from a study; code says which, and how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Generic, Literal

from fhir_ext.errors import RefusedInput
from fhir_ext.results import Refusal
from models.gates.study import Chosen, Image, choose
from models.manifest import Classification, Manifest, MeasurementOutput
from models.manifest.demands import unfit, without_numbers
from models.manifest.outputs import Output
from models.manifest.runtimes import NetworkRuntime
from models.network.checks import check_whole
from models.network.numbers import Categories, Number
from models.runtime.base import Array, Arrays
from models.runtime.host import Host
from models.said import Said, all_withheld
from models.service import ModelInput, ServiceOutput, sources_of


class ImageNetwork(ABC, Generic[Image]):
    """The service. Holds no state between studies; `run` may be called from several threads.

    Attributes:
        kind: the images that it looks at.

    Args:
        manifest: says everything else.
        folder: where it and the weights are.
        host: runs the network.

    Raises:
        ManifestError: it says what this service cannot do, or says too little.
    """

    kind: ClassVar[Literal["mammograms", "radiographs"]]

    def __init__(self, manifest: Manifest, folder: Path, host: Host) -> None:
        if manifest.inputs.images != self.kind:
            raise unfit(manifest, "inputs.images", f"must be {self.kind}")
        if not isinstance(manifest.runtime, NetworkRuntime):
            raise unfit(manifest, "runtime", "must be a network")
        check_whole(manifest)
        without_numbers(manifest)
        for index, gate in enumerate(manifest.gates):
            if gate.applies_to != "all":
                raise unfit(manifest, f"gates.{index}.applies_to", "must be all outputs")
        self._manifest, self._folder, self._host = manifest, folder, host

    def run(self, given: ModelInput) -> ServiceOutput:
        """See `models.service.Service`; looks at images of its kind only."""
        shown: Sequence[Image] = getattr(given, self.kind)
        chosen = self.select(shown)
        if isinstance(chosen, Refusal):
            # Nothing was chosen: the refusal speaks of all images of the study.
            output, used = all_withheld(self._manifest, chosen), sorted(sources_of(shown))
        else:
            output, used = self._answered(chosen.images, given), sources_of(chosen.images)
        return replace(output, main=used[0], further=tuple(used[1:]))

    def select(self, images: Sequence[Image]) -> Chosen[Image] | Refusal:
        """The images that `run` looks at, by the gates; no pixels are decoded."""
        return choose(self._manifest.all_gates(), images)

    @abstractmethod
    def prepare(self, images: Sequence[Image]) -> Arrays | Refusal:
        """A batch of one item: what the network sees of the chosen images.

        Raises:
            RefusedInput: pixels cannot be read.
        """

    def _answered(self, images: Sequence[Image], given: ModelInput) -> ServiceOutput:
        try:
            batch = self.prepare(images)
        except RefusedInput as refused:
            batch = Refusal(refused.code, "an image that cannot be decoded", "readable pixels")
        if isinstance(batch, Refusal):
            return all_withheld(self._manifest, batch)
        answer = self._host.run(
            self._manifest, self._folder, batch, study=given.study, urgent=given.urgent
        )
        item = {name: array[0] for name, array in answer.items()}
        said = Said()
        for output in self._manifest.outputs:
            _read(output, item, said)
        return said.output()


def _read(output: Output, item: Mapping[str, Array], said: Said) -> None:
    assert isinstance(output, MeasurementOutput | Classification)
    collector = Number(output) if isinstance(output, MeasurementOutput) else Categories(output)
    collector.add((0, 0, 0), item)
    collector.finish(said)
