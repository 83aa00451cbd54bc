"""What the layers hand each other: frozen results of one service on one series.

Plain values only (no arrays, no FHIR, no DICOM datasets), so that a durable
workflow can store them as JSON and a builder can turn them into FHIR or SR.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Region(StrEnum):
    """Anatomical region a number speaks of; codes in `fhir_ext.resources.codes`."""

    LUNGS = "lungs"
    LEFT_LUNG = "left-lung"
    RIGHT_LUNG = "right-lung"
    BREASTS = "breasts"
    HEART = "heart"
    CHEST = "chest"
    CORONARY_ARTERIES = "coronary-arteries"
    LEFT_MAIN = "left-main-coronary-artery"
    LEFT_ANTERIOR_DESCENDING = "left-anterior-descending-artery"
    CIRCUMFLEX = "circumflex-artery"
    RIGHT_CORONARY = "right-coronary-artery"
    PERICARDIUM = "pericardium"
    ASCENDING_AORTA = "ascending-aorta"
    DESCENDING_AORTA = "descending-aorta"
    PULMONARY_TRUNK = "pulmonary-trunk"
    LIVER = "liver"
    SPLEEN = "spleen"
    PANCREAS = "pancreas"
    LEFT_KIDNEY = "left-kidney"
    RIGHT_KIDNEY = "right-kidney"
    VERTEBRA_T11 = "vertebra-t11"
    VERTEBRA_T12 = "vertebra-t12"
    VERTEBRA_L1 = "vertebra-l1"
    VERTEBRA_L2 = "vertebra-l2"
    VERTEBRA_L3 = "vertebra-l3"
    VERTEBRA_L4 = "vertebra-l4"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a number is withheld.

    Attributes:
        rule: code of the gate or check (CodeSystem `refusal-reason`).
        seen: the value that was found, without patient data.
        needed: what would have been accepted.
    """

    rule: str
    seen: str
    needed: str


@dataclass(frozen=True, slots=True)
class StandardCode:
    """A code of a standard that a manifest states for an output, class or segment.

    Attributes:
        system: URI of the code system, as FHIR writes it.
        code: the code.
        display: its name in that system.
    """

    system: str
    code: str
    display: str


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """How far a number may be off, in its own unit.

    Attributes:
        kind: `sd`, standard deviation; `interval`, half width of a confidence interval.
        value: above 0.
        level: of the interval, 0 to 1; None for `sd`.
    """

    kind: Literal["sd", "interval"]
    value: float
    level: float | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number, or the reason why it is withheld.

    Attributes:
        name: code in the CodeSystem `measurement` (for example `laa-950`).
        region: what it was measured in.
        unit: UCUM unit of `value`.
        value: the number; None exactly when `refusal` is set.
        refusal: the reason; None exactly when `value` is set.
        uncertainty: how far the number may be off; None when the model does not say.
        code: what the manifest says it is called elsewhere.
    """

    name: str
    region: Region
    unit: str
    value: float | None = None
    refusal: Refusal | None = None
    uncertainty: Uncertainty | None = None
    code: StandardCode | None = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.refusal is None):
            raise ValueError("a measurement has either a value or a refusal")
        if self.refusal is not None and self.uncertainty is not None:
            raise ValueError("a withheld number has no uncertainty")


@dataclass(frozen=True, slots=True)
class Classification:
    """One of several categories with the model's probabilities, or why there is none.

    Attributes:
        name: code in the CodeSystem `classification` (for example `breast-density`).
        region: what was classified.
        categories: codes of the categories, in the model's order.
        probabilities: of each category, 0 to 1, together 1; empty when refused, or when a
            human chose.
        chosen: the category that stands; None exactly when `refusal` is set.
        refusal: the reason; None exactly when `chosen` is set.
        code: what the manifest says it is called elsewhere.
        category_codes: the same of each category; empty when the manifest names none.
    """

    name: str
    region: Region
    categories: tuple[str, ...]
    probabilities: tuple[float, ...] = ()
    chosen: str | None = None
    refusal: Refusal | None = None
    code: StandardCode | None = None
    category_codes: tuple[StandardCode | None, ...] = ()

    def __post_init__(self) -> None:
        if (self.chosen is None) == (self.refusal is None):
            raise ValueError("a classification has either a category or a refusal")
        if len(self.category_codes) not in (0, len(self.categories)):
            raise ValueError("a classification has a code for every category, or for none")
        if self.refusal is not None:
            if self.probabilities:
                raise ValueError("a refused classification has no probabilities")
            return
        if self.chosen not in self.categories:
            raise ValueError("a classification names one of its categories")
        if not self.probabilities:
            return
        if len(self.probabilities) != len(self.categories):
            raise ValueError("a classification has a number for each of its categories")
        # Half precision sums to 1 within 0.001; NaN is refused too.
        if not (min(self.probabilities) >= 0 and abs(sum(self.probabilities) - 1) <= 1e-3):
            raise ValueError("probabilities are not negative and sum to 1")


@dataclass(frozen=True, slots=True)
class Detection:
    """One place that a model points at.

    Attributes:
        name: code of the output in the CodeSystem `detection` (for example `lung-nodule`).
        region: organ that was searched.
        category: class of what was found, by the manifest.
        score: the model's own number, 0 to 1; not a probability of disease.
        centre_mm: (x, y, z) in the patient coordinate system (LPS, PS3.3 C.7.6.2.1.1), mm.
        size_mm: full width of the box along x, y and z, mm.
        code: what the manifest says the output is called elsewhere.
        category_code: the same of the category.
        tracking_uid: by which it is known; empty until it is written, when it follows from the
            place in the list.
    """

    name: str
    region: Region
    category: str
    score: float
    centre_mm: tuple[float, float, float]
    size_mm: tuple[float, float, float]
    code: StandardCode | None = None
    category_code: StandardCode | None = None
    tracking_uid: str = ""


@dataclass(frozen=True, order=True, slots=True)
class SeriesSource:
    """A series that a result rests on.

    Attributes:
        series_instance_uid: DICOM Series Instance UID.
        sop_instance_uids: the instances used, sorted.
    """

    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Risk:
    """A qualitative risk that follows from measurements (never a probability).

    Attributes:
        outcome: code in the CodeSystem `risk-outcome` (for example `emphysema`).
        qualitative: HL7 `risk-probability` code.
        rationale: the rule in words with its citation; no patient data.
        basis: names of the measurements it rests on.
    """

    outcome: str
    qualitative: Literal["negligible", "low", "moderate", "high", "certain"]
    rationale: str
    basis: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Issue:
    """Something a human should look at.

    Attributes:
        code: code in the CodeSystem `detected-issue` (for example `emphysema-on-ct`).
        severity: FHIR R4 DetectedIssue.severity.
        detail: one sentence; no patient data.
        evidence: names of the measurements it rests on.
        known_condition: key of `fhir_ext.resources.codes.CONDITIONS`; when such a
            Condition is already on the patient's problem list no issue is raised.
        region: where the measurements were taken; None when any region counts.
    """

    code: str
    severity: Literal["high", "moderate", "low"]
    detail: str
    evidence: tuple[str, ...]
    known_condition: str | None = None
    region: Region | None = None


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The exact model version that produced a result; becomes one FHIR Device.

    Attributes:
        id: manifest id, equal to the service name for shipped services.
        version: manifest version (semantic version).
        title: name for people.
        settings_hash: sha256 (hex) of the manifest settings that change numbers.
        review: review policy of the manifest.
    """

    id: str
    version: str
    title: str
    settings_hash: str
    review: Literal["always", "rule", "never"] = "always"


@dataclass(frozen=True, slots=True)
class ServiceResult:
    """One service on one series of one study: done, or refused as a whole.

    Attributes:
        service: service name.
        model: version that ran.
        inference_key: sha256 (hex) that every id and UID written derives from
            (`fhir_ext.resources.ids`).
        study_instance_uid, series_instance_uid: what was looked at.
        sop_instance_uids: the instances used, sorted by SOP Instance UID.
        status: `done` when at least one number or category stands, or places were looked for;
            `refused` when nothing stands.
        measurements: numbers and withheld numbers, in the manifest's order.
        risks, issues: what follows from the numbers; empty when refused.
        classifications: categories and withheld categories, in the manifest's order.
        detections: places that were found, highest score first.
        further: other series that were looked at, sorted by UID.
        notes: (name of an output, sentence) that a reader must know beside it.
        frame_of_reference_uid: of `detections`; empty when there is none.
        seg_instance_uid, seg_series_instance_uid: the SEG in the archive that holds the masks
            of this result; None when it has none.
        whole_study: the result speaks of the study, not of the one series.
        review: whether a human must look, where the service itself can tell; None leaves it to
            the policy of the model.
    """

    service: str
    model: ModelIdentity
    inference_key: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]
    status: Literal["done", "refused"]
    measurements: tuple[Measurement, ...] = ()
    risks: tuple[Risk, ...] = ()
    issues: tuple[Issue, ...] = ()
    classifications: tuple[Classification, ...] = ()
    detections: tuple[Detection, ...] = ()
    further: tuple[SeriesSource, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    frame_of_reference_uid: str = ""
    seg_instance_uid: str | None = None
    seg_series_instance_uid: str | None = None
    whole_study: bool = False
    review: bool | None = None

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Every reason for which something is withheld, each once, in order."""
        reasons = [item.refusal for item in self.measurements]
        reasons += [item.refusal for item in self.classifications]
        return tuple(dict.fromkeys(reason for reason in reasons if reason is not None))


@dataclass(frozen=True, slots=True)
class InputValue:
    """One input of a risk model and where it came from.

    Attributes:
        name: name of the input (`systolic-bp`), a code of the CodeSystem `risk-input`.
        value: number in `unit`, truth, or code, as the input is defined.
        unit: UCUM unit of a number, as the model reads it; None for truths and codes.
        source: `caller`, `chart` or `imaging`.
        date: FHIR R4 date or dateTime of what was recorded; None when the caller gave none.
        reference: `Observation/1` it was read from; None for the caller's values.
        preliminary: read from a preliminary AI result.
    """

    name: str
    value: float | bool | str
    unit: str | None
    source: Literal["caller", "chart", "imaging"]
    date: str | None = None
    reference: str | None = None
    preliminary: bool = False


@dataclass(frozen=True, slots=True)
class RiskPrediction:
    """One outcome that a risk model predicts.

    Attributes:
        outcome: code in the CodeSystem `risk-outcome` (for example `lung-cancer`).
        percent: probability in percent, 0 to 100 (RiskAssessment.prediction in R4).
        years: horizon, counted from the date the score is for; None where the model has
            none.
        qualitative: HL7 `risk-probability` code where the publication has a threshold.
        threshold: the threshold and its source in words.
    """

    outcome: str
    percent: float
    years: float | None = None
    qualitative: Literal["negligible", "low", "moderate", "high", "certain"] | None = None
    threshold: str | None = None


@dataclass(frozen=True, slots=True)
class RiskScore:
    """What a risk model says of one person.

    Attributes:
        model: code of the model (`plco-m2012`).
        title: name for people.
        version: version of our implementation.
        citation: the publication.
        as_of: date the score is for (FHIR date).
        inputs: every input that was used, in the model's order.
        predictions: at least one.
        flags: sentences a reader must know: outside of the derivation range, race term
            used, preliminary findings, non-gated calcium.
    """

    model: str
    title: str
    version: str
    citation: str
    as_of: str
    inputs: tuple[InputValue, ...]
    predictions: tuple[RiskPrediction, ...]
    flags: tuple[str, ...] = ()
