"""One model version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from fhir_ext.dicom.volume import CTVolume
from fhir_ext.results import ModelIdentity, Refusal
from models.gates import Gate, Subject, first_refusal
from models.manifest.base import Kebab, Part, Text, Version
from models.manifest.consistency import check_consistency
from models.manifest.evidence import Case, Evaluation, ModelCard, ReviewRule
from models.manifest.identity import settings_hash
from models.manifest.inputs import Inputs, Preprocessing
from models.manifest.outputs import MeasurementOutput, Output
from models.manifest.runtimes import Batching, OperatorsRuntime, Runtime

SettingValue = bool | int | float | str


class Manifest(Part):
    """One model version.

    Attributes:
        id: service name, kebab-case; the folder is the same name with underscores.
        version: semantic version; a change of any number needs a new one.
        title: name for people.
        licence: SPDX expression of code and weights.
        citation: where the method is published.
        intended_use, not_for: for people who decide whether to use it.
        inputs: what a series must be at least.
        gates: which acquisitions are accepted, for which measurements.
        preprocessing: what is done to the pixels before the network sees them.
        outputs: all results, in the order in which they are written.
        thresholds: cut-offs that the numbers are compared with.
        settings: numbers of the method.
        review: whether a human must look before results count.
        review_rules: when, for `review: rule`.
        runtime: what runs it.
        batching: how the device may be filled.
        evaluation: what was measured of it.
        card: for people.
        cases: what it must pass before it may be activated.
        switched_on: a version that is shipped works from the start; else it waits as a draft
            until somebody decides. Changes no number.
    """

    id: Kebab
    version: Version
    title: Text
    licence: Text
    citation: str = ""
    intended_use: Text
    not_for: Text
    inputs: Inputs
    # Before `gates`, whose validator looks at it.
    outputs: tuple[Output, ...] = Field(min_length=1)
    gates: tuple[Gate, ...] = ()
    preprocessing: Preprocessing = Preprocessing()
    thresholds: Mapping[str, float] = Field(default_factory=dict)
    settings: Mapping[str, SettingValue] = Field(default_factory=dict)
    review: Literal["always", "rule", "never"] = "always"
    review_rules: tuple[ReviewRule, ...] = ()
    runtime: Runtime = OperatorsRuntime(kind="operators")
    batching: Batching = Batching()
    evaluation: tuple[Evaluation, ...] = ()
    card: ModelCard = ModelCard()
    cases: tuple[Case, ...] = ()
    switched_on: bool = True

    @field_validator("outputs")
    @classmethod
    def _unique(cls, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        keys = [(output.name, output.region) for output in outputs]
        if len(set(keys)) < len(keys):
            raise ValueError("the same name and region appear twice")
        return outputs

    @field_validator("gates")
    @classmethod
    def _speak_of_outputs(cls, gates: tuple[Gate, ...], info: ValidationInfo) -> tuple[Gate, ...]:
        names = {output.name for output in info.data.get("outputs", ())}
        for gate in gates if names else ():
            unknown = set(() if gate.applies_to == "all" else gate.applies_to) - names
            if unknown:
                raise ValueError(f"gate {gate.rule} applies to no output: {', '.join(unknown)}")
        return gates

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        check_consistency(self)
        return self

    @property
    def measurements(self) -> tuple[MeasurementOutput, ...]:
        """The outputs that are numbers, in their order."""
        return tuple(item for item in self.outputs if isinstance(item, MeasurementOutput))

    def identity(self) -> ModelIdentity:
        """The model version, with a hash over everything that changes numbers."""
        changing = {
            name: getattr(self, name)
            for name in ("inputs", "gates", "outputs", "thresholds", "settings", "runtime")
        }
        if self.preprocessing != Preprocessing():
            changing["preprocessing"] = self.preprocessing
        return ModelIdentity(
            id=self.id,
            version=self.version,
            title=self.title,
            settings_hash=settings_hash(changing),
            review=self.review,
        )

    def all_gates(self) -> tuple[Gate, ...]:
        """What `inputs` asks for, then `gates`."""
        return (*self.inputs.gates(), *self.gates)

    def refusals(self, shown: CTVolume | Subject) -> dict[str, Refusal]:
        """Output name to the first gate that refuses it; accepted names are absent."""
        gates = self.all_gates()
        found = {}
        for name in dict.fromkeys(output.name for output in self.outputs):
            refused = first_refusal(gates, shown, name)
            if refused is not None:
                found[name] = refused
        return found
