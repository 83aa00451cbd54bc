"""`manifest.yaml`: what a model is, what it may see, what it measures.

Read without torch, so that the HTTP side and the planner can show it. An error names
the file, the line and the reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from fhir_ext.dicom.volume import CTVolume
from fhir_ext.errors import SettingsError
from fhir_ext.results import ModelIdentity, Refusal, Region
from models.gates import Gate, ModalityGate, SliceCountGate, evaluate

_KEBAB = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
#: Semantic Versioning 2.0.0 without build metadata.
_SEMVER = r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$"

SettingValue = bool | int | float | str


class ManifestError(SettingsError):
    """A manifest cannot be used; the message is `file:line: field: reason`."""

    default_code = "manifest-invalid"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Inputs(_Part):
    """What a series must be at least; checked as gates before all others."""

    modality: tuple[str, ...] = Field(min_length=1)
    min_slices: int = Field(1, ge=1)

    def gates(self) -> tuple[Gate, ...]:
        return (
            ModalityGate(rule="modality", allow=self.modality),
            SliceCountGate(rule="slice-count", min=self.min_slices),
        )


class Output(_Part):
    """One number the model gives.

    Attributes:
        name: code of the measurement.
        region: where it is measured.
        unit: UCUM.
        valid: closed range a body can show; a number outside is withheld.
    """

    name: Annotated[str, Field(pattern=_KEBAB)]
    region: Region
    unit: Annotated[str, Field(min_length=1)]
    valid: tuple[float, float]

    @field_validator("valid")
    @classmethod
    def _ordered(cls, valid: tuple[float, float]) -> tuple[float, float]:
        if valid[0] >= valid[1]:
            raise ValueError("the lower bound must be below the upper")
        return valid


class OperatorsRuntime(_Part):
    """Image operators in code: no weights, always installed.

    Runtimes with weights become further members of `Runtime`, told apart by `kind`.
    """

    kind: Literal["operators"]


Runtime = OperatorsRuntime


class Manifest(_Part):
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
        outputs: every number, in the order in which results are written.
        thresholds: cut-offs that the numbers are compared with.
        settings: numbers of the method.
        review: whether a human must look before results count.
        runtime: what runs it.
    """

    id: Annotated[str, Field(pattern=_KEBAB)]
    version: Annotated[str, Field(pattern=_SEMVER)]
    title: Annotated[str, Field(min_length=1)]
    licence: Annotated[str, Field(min_length=1)]
    citation: str = ""
    intended_use: Annotated[str, Field(min_length=1)]
    not_for: Annotated[str, Field(min_length=1)]
    inputs: Inputs
    # Before `gates`, whose validator looks at it.
    outputs: tuple[Output, ...] = Field(min_length=1)
    gates: tuple[Gate, ...] = ()
    thresholds: Mapping[str, float] = Field(default_factory=dict)
    settings: Mapping[str, SettingValue] = Field(default_factory=dict)
    review: Literal["always", "rule", "never"] = "always"
    runtime: Runtime = OperatorsRuntime(kind="operators")

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

    def identity(self) -> ModelIdentity:
        """The model version, with a hash over everything that changes numbers."""
        changing = self.model_dump(
            mode="json",
            include={"inputs", "gates", "outputs", "thresholds", "settings", "runtime"},
        )
        for gate in changing["gates"]:
            del gate["because"]
        canonical = json.dumps(changing, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return ModelIdentity(
            id=self.id,
            version=self.version,
            title=self.title,
            settings_hash=hashlib.sha256(canonical.encode()).hexdigest(),
            review=self.review,
        )

    def refusals(self, volume: CTVolume) -> dict[str, Refusal]:
        """Measurement name to the first gate that refuses it; accepted names are absent."""
        gates = (*self.inputs.gates(), *self.gates)
        found = {}
        for name in dict.fromkeys(output.name for output in self.outputs):
            if refused := evaluate(gates, volume, name):
                found[name] = refused[0]
        return found


def read_manifest(path: Path) -> Manifest:
    """Read and check one manifest.

    Raises:
        ManifestError: unreadable, not YAML, or not a manifest; the first error with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read: {type(error).__name__}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or "not YAML"
        raise ManifestError(f"{path}:{line}: {problem}") from error
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        line = _line_of(root, first["loc"])
        field = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise ManifestError(f"{path}:{line}: {field}: {first['msg']}") from error


def _line_of(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    """Line of the deepest node that the path of a pydantic error leads to, from 1.

    A path also holds names that are not in the file, such as the member of a union;
    they are stepped over.
    """
    line = 1 if node is None else node.start_mark.line + 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    node, line = value, key.start_mark.line + 1
                    break
        elif (
            isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value)
        ):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
