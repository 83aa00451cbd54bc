"""What a network says about one volume, gathered output by output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fhir_ext.results import Classification, Detection, Measurement, Refusal
from models.manifest.outputs import Classification as ClassificationOutput
from models.manifest.outputs import MeasurementOutput, Output
from models.network.layout import Shape
from models.runtime.base import Array
from models.service import MaskOutput, ServiceOutput


@dataclass(slots=True)
class Said:
    """A `ServiceOutput` in the making."""

    measurements: list[Measurement] = field(default_factory=list)
    classifications: list[Classification] = field(default_factory=list)
    detections: list[Detection] = field(default_factory=list)
    masks: list[MaskOutput] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    withheld: list[tuple[str, Refusal]] = field(default_factory=list)
    searched: bool = False

    def withhold(self, output: Output, refusal: Refusal) -> None:
        """Say that an output is not given, and why."""
        if isinstance(output, MeasurementOutput):
            self.measurements.append(
                Measurement(output.name, output.region, output.unit, refusal=refusal)
            )
        elif isinstance(output, ClassificationOutput):
            self.classifications.extend(
                Classification(name, output.region, categories, refusal=refusal)
                for name, categories in output.results()
            )
        else:
            self.withheld.append((output.name, refusal))

    def output(self) -> ServiceOutput:
        """What was gathered; detections with the highest score first."""
        return ServiceOutput(
            measurements=tuple(self.measurements),
            classifications=tuple(self.classifications),
            detections=tuple(sorted(self.detections, key=lambda item: -item.score)),
            masks=tuple(self.masks),
            notes=tuple(self.notes),
            withheld=tuple(self.withheld),
            searched=self.searched,
        )


class Collector(Protocol):
    """Makes one output of the answers for all patches of one volume."""

    def add(self, start: Shape, item: Mapping[str, Array]) -> None:
        """The answer for the patch that begins at `start`: tensor name to one item.

        Raises:
            ModelFailure: it cannot be this output.
        """

    def finish(self, said: Said) -> None:
        """Say what all answers together mean."""
