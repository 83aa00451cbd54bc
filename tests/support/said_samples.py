"""A manifest that says something of each of its numbers, and whether a service said it too."""

from __future__ import annotations

from fhir_ext.results import Uncertainty
from models.manifest import Manifest, MeasurementOutput
from models.service import ServiceOutput


def with_words(manifest: Manifest) -> Manifest:
    """Every number has an uncertainty, and a cut-off that it always reaches."""
    outputs = []
    for output in manifest.measurements:
        words = {
            "uncertainty": {"kind": "sd", "value": 0.5},
            "thresholds": [{"name": "there", "at": output.valid[0]}],
        }
        outputs.append(MeasurementOutput.model_validate({**output.model_dump(), **words}))
    return manifest.model_copy(update={"outputs": tuple(outputs)})


def assert_words(output: ServiceOutput) -> None:
    """Every number that stands, and no other, is said as `with_words` asks for it."""
    standing = [item for item in output.measurements if item.value is not None]
    assert {item.uncertainty for item in standing} == {Uncertainty("sd", 0.5)}
    told = {name for name, text in output.notes if text.startswith("there: ")}
    assert told == {item.name for item in standing}
