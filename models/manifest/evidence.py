"""Why a model may be believed: evaluation, model card, and cases that it must pass."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fhir_ext.results import Region
from models.manifest.base import HashedFile, InnerPath, Kebab, Part, Text


class Metric(Part):
    """One measured number.

    Attributes:
        name: for example `auc` or `dice`.
        value, low, high: the number and its confidence interval.
        level: of the interval.
        output: the output it speaks of; None for the model as a whole.
    """

    name: Text
    value: float
    low: float | None = None
    high: float | None = None
    level: float = Field(0.95, gt=0, lt=1)
    output: str | None = None

    @model_validator(mode="after")
    def _inside(self) -> Metric:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has both ends")
        if (
            self.low is not None
            and self.high is not None
            and not self.low <= self.value <= self.high
        ):
            raise ValueError("the value is outside its interval")
        return self


class Subgroup(Part):
    """Results in a part of the evaluation's data.

    Attributes:
        by: what the part is made by, for example `sex`, `age-band`, `manufacturer`, `kernel`.
        value: which part.
        count: number of cases in it.
        metrics: measured in it.
    """

    by: Kebab
    value: Text
    count: int = Field(ge=0)
    metrics: tuple[Metric, ...] = Field(min_length=1)


class Evaluation(Part):
    """One evaluation.

    Attributes:
        data: which data, from where, how chosen.
        count: number of cases.
        reference: what counts as truth.
        citation: where it is published.
        metrics, subgroups: results.
    """

    data: Text
    count: int = Field(ge=1)
    reference: Text
    citation: str = ""
    metrics: tuple[Metric, ...] = Field(min_length=1)
    subgroups: tuple[Subgroup, ...] = ()


class ModelCard(Part):
    """For people who decide whether to use the model; becomes a DocumentReference.

    Attributes:
        file: Markdown page in the model's folder.
        training_data: what it was trained on.
        limitations: known failures, one sentence each.
        contact: who answers questions.
    """

    file: InnerPath | None = None
    training_data: str = ""
    limitations: tuple[Text, ...] = ()
    contact: str = ""


class TensorsInput(HashedFile):
    """Inputs of the network: a safetensors file with one tensor for each."""

    kind: Literal["tensors"]


class DicomInput(Part):
    """A study: DICOM files below a folder, each with its hash."""

    kind: Literal["dicom"]
    files: tuple[HashedFile, ...] = Field(min_length=1)


class PhantomInput(Part):
    """A study that `fhir_ext.phantom` draws, so that nothing has to be shipped.

    Attributes:
        emphysema_fraction: share of the lungs that is drawn as emphysema.
        kernel: `soft` or `sharp`.
    """

    kind: Literal["phantom"]
    emphysema_fraction: float = Field(0.0, ge=0, le=1)
    kernel: Literal["soft", "sharp"] = "soft"


CaseInput = Annotated[TensorsInput | DicomInput | PhantomInput, Field(discriminator="kind")]


class Expected(Part):
    """What must come out for one output.

    Exactly one of `value`, `category`, `count`, `refused` and `tensors` is stated.

    Attributes:
        output: name of an output; of an output of the network for `tensors`.
        region: which of several of that name.
        value, tolerance: a number, and how far it may be off; of segments their volume in mL.
        category: the class that a classification must choose.
        count: number of places that detections must give.
        refused: the rule that must refuse it.
        tensors: safetensors file with a tensor of the output's name.
        absolute, relative: how far the tensor may be off, everywhere.
    """

    output: Text
    region: Region | None = None
    value: float | None = None
    tolerance: float | None = Field(None, ge=0)
    category: Kebab | None = None
    count: int | None = Field(None, ge=0)
    refused: Kebab | None = None
    tensors: HashedFile | None = None
    absolute: float = Field(1e-3, ge=0)
    relative: float = Field(1e-3, ge=0)

    @model_validator(mode="after")
    def _one(self) -> Expected:
        stated = (self.value, self.category, self.count, self.refused, self.tensors)
        if sum(part is not None for part in stated) != 1:
            raise ValueError("needs exactly one of value, category, count, refused and tensors")
        if (self.value is None) != (self.tolerance is None):
            raise ValueError("value and tolerance go together")
        return self


class Case(Part):
    """One case that the model must pass before it may be activated."""

    name: Kebab
    input: CaseInput
    expect: tuple[Expected, ...] = Field(min_length=1)


class ReviewRule(Part):
    """When a human must look, for `review: rule`.

    Exactly one condition. Without any rule of this kind, a raised risk or issue is the rule.

    Attributes:
        output: name of the output.
        at_or_above, at_or_below: the value of a measurement.
        uncertainty_above: the uncertainty of a measurement, in its unit.
        score_below: the largest probability of a classification; the score of any place that
            was found.
    """

    output: Text
    at_or_above: float | None = None
    at_or_below: float | None = None
    uncertainty_above: float | None = None
    score_below: float | None = None

    @model_validator(mode="after")
    def _one(self) -> ReviewRule:
        conditions = (self.at_or_above, self.at_or_below, self.uncertainty_above, self.score_below)
        if sum(condition is not None for condition in conditions) != 1:
            raise ValueError("needs exactly one condition")
        return self
