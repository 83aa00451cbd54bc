"""Measurements and classifications: one answer of the network for the whole volume."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fhir_ext.results import Classification
from models.manifest.outputs import ABSENT, PRESENT, MeasurementOutput
from models.manifest.outputs import Classification as ClassificationOutput
from models.network.layout import Shape
from models.runtime.base import Array, ModelFailure
from models.said import Said, six_digits

#: Half precision sums to 1 within this.
SUM_TOLERANCE = 1e-3
#: From this probability a class that may hold beside others is present, unless told otherwise.
PRESENT_FROM = 0.5


class Number:
    """A measurement; see `collector.Collector`."""

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
        said.give(self._output, *self._found)


class Categories:
    """A classification; see `collector.Collector`."""

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
    return six_digits(value)
