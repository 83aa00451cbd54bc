"""Measurements and classifications: one answer of the network for the whole volume."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fhir_ext.results import Classification, Measurement, Refusal, Uncertainty
from models.manifest.outputs import ABSENT, PRESENT, MeasurementOutput, Threshold
from models.manifest.outputs import Classification as ClassificationOutput
from models.network.layout import Shape
from models.network.said import Said
from models.runtime.base import Array, ModelFailure

#: Half precision sums to 1 within this.
SUM_TOLERANCE = 1e-3
#: From this probability a class that may hold beside others is present, unless told otherwise.
PRESENT_FROM = 0.5


class Number:
    """A measurement; see `said.Collector`."""

    def __init__(self, output: MeasurementOutput) -> None:
        self._output = output
        self._found: tuple[float, float | None] | None = None

    def add(self, _start: Shape, item: Mapping[str, Array]) -> None:
        output = self._output
        assert output.tensor is not None
        doubt = output.uncertainty
        spread = None
        if doubt is not None and doubt.tensor is not None:
            spread = _scalar(output, item[doubt.tensor])
            if spread <= 0:
                raise ModelFailure("model-output", f"the uncertainty of {output.name} is below 0")
        self._found = _scalar(output, item[output.tensor]), spread

    def finish(self, said: Said) -> None:
        assert self._found is not None
        output, (value, spread) = self._output, self._found
        low, high = output.valid
        if not low <= value <= high:
            said.withhold(
                output, Refusal("implausible-value", f"{value:g}", f"{low:g} to {high:g}")
            )
            return
        said.measurements.append(
            Measurement(
                output.name,
                output.region,
                output.unit,
                value=value,
                uncertainty=_uncertainty(output, spread),
            )
        )
        said.notes.extend(
            (output.name, _reached(output, threshold))
            for threshold in output.thresholds
            if _reaches(threshold, value)
        )


class Categories:
    """A classification; see `said.Collector`."""

    def __init__(self, output: ClassificationOutput) -> None:
        self._output = output
        self._found: tuple[float, ...] | None = None

    def add(self, _start: Shape, item: Mapping[str, Array]) -> None:
        output = self._output
        assert output.tensor is not None
        values = item[output.tensor].reshape(-1).astype(np.float64)
        if len(values) != len(output.classes):
            raise ModelFailure("model-output", f"{output.name} has {len(values)} probabilities")
        # Written so that NaN fails.
        if not (values.min() >= 0 and values.max() <= 1 + SUM_TOLERANCE):
            raise ModelFailure("model-output", f"{output.name} is not between 0 and 1")
        if output.exclusive and not abs(values.sum() - 1) <= SUM_TOLERANCE:
            raise ModelFailure("model-output", f"{output.name} does not sum to 1")
        self._found = tuple(values.tolist())

    def finish(self, said: Said) -> None:
        assert self._found is not None
        said.classifications.extend(
            self._exclusive(self._found) if self._output.exclusive else self._beside(self._found)
        )

    def _exclusive(self, found: tuple[float, ...]) -> list[Classification]:
        output = self._output
        (result,) = output.results()
        name, categories = result
        # Load made sure that there is one without a threshold.
        standing = [
            at
            for at, item in enumerate(output.classes)
            if item.threshold is None or found[at] >= item.threshold
        ]
        chosen = max(standing, key=lambda at: found[at])
        return [Classification(name, output.region, categories, found, categories[chosen])]

    def _beside(self, found: tuple[float, ...]) -> list[Classification]:
        output = self._output
        results = []
        for item, (name, categories), value in zip(
            output.classes, output.results(), found, strict=True
        ):
            share = min(value, 1.0)
            least = PRESENT_FROM if item.threshold is None else item.threshold
            chosen = PRESENT if share >= least else ABSENT
            results.append(
                Classification(name, output.region, categories, (share, 1.0 - share), chosen)
            )
        return results


def _scalar(output: MeasurementOutput, values: Array) -> float:
    """The number of an output, with the digits that float32 holds."""
    flat = values.reshape(-1)
    if flat.size <= output.index:
        raise ModelFailure("model-output", f"{output.name} has {flat.size} numbers")
    value = float(flat[output.index])
    if not np.isfinite(value):
        raise ModelFailure("model-not-finite", output.name)
    return float(f"{value:.6g}")


def _uncertainty(output: MeasurementOutput, spread: float | None) -> Uncertainty | None:
    doubt = output.uncertainty
    if doubt is None:
        return None
    if spread is not None:
        return Uncertainty("sd", spread)
    assert doubt.value is not None
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
