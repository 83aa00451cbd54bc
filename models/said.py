"""What a service says of what it was shown, output by output: one way for all services.

Valid ranges, cut-offs and uncertainties of a manifest mean here what they mean for everybody,
whether a network or code gives the number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from fhir_ext.results import (
    Classification,
    Detection,
    Issue,
    Measurement,
    Refusal,
    Risk,
    Uncertainty,
)
from models.manifest import Manifest
from models.manifest.outputs import Classification as ClassificationOutput
from models.manifest.outputs import MeasurementOutput, Output, Threshold
from models.service import Conclusions, MaskOutput, ServiceOutput

#: Decimals of measured numbers by unit: what is written, and what cut-offs are compared with.
_DECIMALS: Final = {"1": 3, "%": 3, "mm3": 1, "mL": 1, "mm": 1, "[hnsf'U]": 2}


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

    def give(self, output: MeasurementOutput, value: float, spread: float | None = None) -> None:
        """Say a number; outside of its valid range, or not a number, it is withheld.

        Args:
            value: as it is written.
            spread: the standard deviation, where it is one of this number alone.
        """
        low, high = output.valid
        if not low <= value <= high:
            self.withhold(
                output, Refusal("implausible-value", f"{value:g}", f"{low:g} to {high:g}")
            )
            return
        doubt = _uncertainty(output, spread)
        self.measurements.append(
            Measurement(output.name, output.region, output.unit, value=value, uncertainty=doubt)
        )
        self.notes.extend(
            (output.name, _reached(output, threshold))
            for threshold in output.thresholds
            if _reaches(threshold, value)
        )

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

    def output(self, risks: tuple[Risk, ...] = (), issues: tuple[Issue, ...] = ()) -> ServiceOutput:
        """What was gathered; detections with the highest score first."""
        return ServiceOutput(
            measurements=tuple(self.measurements),
            risks=risks,
            issues=issues,
            classifications=tuple(self.classifications),
            detections=tuple(sorted(self.detections, key=lambda item: -item.score)),
            masks=tuple(self.masks),
            notes=tuple(self.notes),
            withheld=tuple(self.withheld),
            searched=self.searched,
        )


def measured(
    manifest: Manifest,
    refused: Mapping[str, Refusal],
    measure: Callable[[MeasurementOutput], float | Refusal],
    conclude: Callable[[tuple[Measurement, ...]], Conclusions] = lambda _: ((), ()),
) -> ServiceOutput:
    """Every number of a manifest whose service is code, in its order, and what follows.

    Args:
        refused: output name to the gate that refuses it, as `Manifest.refusals` gives it.
        measure: the number of an output in its unit, not rounded, or why there is none; asked
            for what no gate refuses only.
        conclude: risks and issues of the numbers that stand.
    """
    said = Said()
    for output in manifest.measurements:
        found = refused.get(output.name) or measure(output)
        if isinstance(found, Refusal):
            said.withhold(output, found)
        else:
            said.give(output, _rounded(found, output.unit))
    return said.output(*conclude(tuple(said.measurements)))


def all_withheld(manifest: Manifest, refusal: Refusal) -> ServiceOutput:
    """Every output of a manifest, withheld for one reason."""
    said = Said()
    for output in manifest.outputs:
        said.withhold(output, refusal)
    return said.output()


def six_digits(value: float) -> float:
    """The digits that float32 holds."""
    return float(f"{value:.6g}")


def _rounded(value: float, unit: str) -> float:
    return round(value, _DECIMALS[unit]) if unit in _DECIMALS else six_digits(value)


def _uncertainty(output: MeasurementOutput, spread: float | None) -> Uncertainty | None:
    doubt = output.uncertainty
    if spread is not None:
        return Uncertainty("sd", spread)
    if doubt is None or doubt.value is None:
        return None
    if doubt.kind == "interval":
        return Uncertainty("interval", doubt.value, doubt.level)
    return Uncertainty("sd", doubt.value)


def _reaches(threshold: Threshold, value: float) -> bool:
    above = threshold.side == "at-or-above"
    return value >= threshold.at if above else value <= threshold.at


def _reached(output: MeasurementOutput, threshold: Threshold) -> str:
    side = threshold.side.replace("-", " ")
    reason = f" {threshold.because}" if threshold.because else ""
    return f"{threshold.name}: {side} {threshold.at:g} {output.unit}.{reason}"
