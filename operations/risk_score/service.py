"""Risk scores of one person: inputs of the caller, then of the chart, then of imaging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from typing import Any, Final, Protocol

from fhir_ext.errors import ConflictError, OutcomeIssue, UnprocessableError
from fhir_ext.gateway.access import Access
from fhir_ext.resources.codes import Coding
from fhir_ext.resources.risk_record import Asker, kept_assessment, record_bundle
from fhir_ext.results import InputValue, RiskScore
from operations.risk_score.catalogue import risk_model
from operations.risk_score.chart import ChartReading, read_chart, years_from_pack_years
from operations.risk_score.chart_codes import PACK_YEARS, chart_table
from operations.risk_score.chart_fetch import ChartFetcher, Reader
from operations.risk_score.chart_searches import everything, rights_of
from operations.risk_score.chart_time import time_span
from operations.risk_score.derive import SOURCES
from operations.risk_score.model import RiskModel

Json = dict[str, Any]

_PACK_YEARS_FLAG: Final = (
    "Years smoked follow from recorded pack-years and cigarettes per day; a pack has 20 cigarettes."
)

#: Inputs that must speak of one nodule.
_OF_ONE_NODULE: Final = ("nodule-diameter", "nodule-type", "upper-lobe", "spiculated")
_NODULES_FLAG: Final = (
    "The nodule is described by the caller in part and by imaging in part; that both speak of one "
    "nodule is not checked."
)


class Store(Reader, Protocol):
    """The part of the FHIR client that is needed."""

    def find(self, resource_type: str, resource_id: str) -> Json | None: ...

    def transaction_once(self, bundle: Json) -> Json: ...


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a person: by the caller and by the chart."""

    given: Mapping[str, InputValue]
    chart: ChartReading

    def of(self, model: RiskModel) -> tuple[dict[str, InputValue], tuple[str, ...]]:
        """Inputs for a model, and how one was found when that must be told."""
        inputs = {**self.chart.inputs, **self.given}
        pack_years = inputs.pop(PACK_YEARS, None)
        flags = tuple(f"{note.diagnostics}." for note in self.notes_of(model))
        if "race" in self.chart.inputs and "race" not in self.given:
            inputs["race"] = _race_for(model, self.chart.races)
        if "years-smoked" in model.reads and "years-smoked" not in inputs:
            years = years_from_pack_years(pack_years, inputs.get("cigarettes-per-day"))
            if years is not None:
                inputs["years-smoked"] = years
                flags = (*flags, _PACK_YEARS_FLAG)
        nodule = {inputs[n].source for n in _OF_ONE_NODULE if n in model.reads and n in inputs}
        if {"caller", "imaging"} <= nodule:
            flags = (*flags, _NODULES_FLAG)
        return inputs, flags

    def notes_of(self, model: RiskModel) -> list[OutcomeIssue]:
        """What was found in the chart for this model and cannot be used."""
        return [
            note.issue
            for note in self.chart.notes
            if note.name in model.reads and note.name not in self.given
        ]


class RiskScoreService:
    """Computes scores, and keeps them on request.

    Args:
        fhir: the FHIR server.
    """

    def __init__(self, fhir: Store) -> None:
        self._fhir = fhir
        self._fetcher = ChartFetcher(fhir)

    def score(
        self,
        models: Sequence[str],
        given: Mapping[str, InputValue],
        as_of: date,
        *,
        patient_id: str | None = None,
        allow_preliminary: bool = False,
        access: Access | None = None,
    ) -> tuple[RiskScore, ...]:
        """One score per model, in the order of `models`.

        Args:
            models: codes.
            given: inputs of the caller, by name.
            as_of: date the scores are for; not after today.
            patient_id: whose chart gives what the caller did not; None: no chart is read.
            allow_preliminary: whether preliminary imaging findings may be used.
            access: what the caller may read; None for a program of ours.

        Raises:
            NotFoundError: there is no such Patient.
            UnprocessableError: a model cannot be computed; everything that is missing or wrong,
                for all models, and what was found and cannot be used.
            UpstreamError: the FHIR server failed.
        """
        asked = [risk_model(code) for code in dict.fromkeys(models)]
        chart = ChartReading({})
        if patient_id is not None:
            chart = self._chart(asked, given, as_of, patient_id, allow_preliminary, access)
        return _compute(asked, _Known(given, chart), as_of)

    def require_patient(self, patient_id: str) -> None:
        """Make sure that a Patient exists.

        Raises:
            NotFoundError: there is none.
            UpstreamError: the FHIR server failed.
        """
        today = datetime.now(UTC).date()
        self._fetcher.fetch(patient_id, (), today, today=today)

    def keep(
        self,
        scores: Sequence[RiskScore],
        patient_id: str,
        *,
        asker: Asker | None = None,
        recorded: datetime | None = None,
        revised: Mapping[str, str] | None = None,
    ) -> list[Json]:
        """Write scores of a patient; those that are there already stay as they are.

        Args:
            asker: who asked; None when a new imaging finding did.
            recorded: when; now when None.
            revised: code of a model to the reference of the RiskAssessment that the new one
                follows.

        Returns:
            The RiskAssessments as they stand.

        Raises:
            UpstreamError: the FHIR server failed.
        """
        wanted = [kept_assessment(score, patient_id) for score in scores]
        earlier = {
            item["id"]: revised[score.model]
            for item, score in zip(wanted, scores, strict=True)
            if revised and score.model in revised
        }
        moment = recorded or datetime.now(UTC)
        standing = self._standing(wanted)
        new = [item for item in wanted if item["id"] not in standing]
        if new:
            bundle = record_bundle(new, moment, asker=asker, revised=earlier)
            try:
                self._fhir.transaction_once(bundle)
            except ConflictError:
                # Somebody wrote the same scores at the same moment.
                standing = self._standing(wanted)
                if len(standing) < len(wanted):
                    raise
        return [standing.get(item["id"], item) for item in wanted]

    def _standing(self, wanted: Sequence[Json]) -> dict[str, Json]:
        found = self._fhir.batch([f"RiskAssessment/{item['id']}" for item in wanted])
        return {item["id"]: item for item in found if item is not None}

    def _chart(
        self,
        models: Sequence[RiskModel],
        given: Mapping[str, InputValue],
        as_of: date,
        patient_id: str,
        allow_preliminary: bool,
        access: Access | None,
    ) -> ChartReading:
        names = [n for model in models for n in model.reads if n not in given]
        if any("years-smoked" in m.reads for m in models) and "years-smoked" not in given:
            names.append(PACK_YEARS)
        patient, resources = self._fetcher.fetch(
            patient_id,
            tuple(dict.fromkeys(names)),
            as_of,
            today=datetime.now(UTC).date(),
            rights=everything if access is None else rights_of(access),
        )
        _refuse_dead(patient, as_of)
        return read_chart(resources, names, as_of, allow_preliminary=allow_preliminary)


@cache
def accepted_codes(code: str) -> Mapping[str, Sequence[Coding]]:
    """Where a chart may hold the inputs of a model, as a reader is told, by input."""
    table = chart_table()
    found = {}
    for name in risk_model(code).reads:
        sources = [name, *SOURCES.get(name, ()), *([PACK_YEARS] if name == "years-smoked" else [])]
        found[name] = tuple(coding for source in sources for coding in table.accepted(source))
    return found


def _compute(models: Sequence[RiskModel], known: _Known, as_of: date) -> tuple[RiskScore, ...]:
    scores, failed = [], []
    issues: list[OutcomeIssue] = []
    for model in models:
        inputs, flags = known.of(model)
        try:
            scores.append(
                model.compute(
                    inputs, as_of.isoformat(), accepted=accepted_codes(model.code), flags=flags
                )
            )
        except UnprocessableError as error:
            failed.append(error)
            issues += error.issues or [OutcomeIssue("processing", error.code, error.message)]
            issues += known.notes_of(model)
    if failed:
        raise UnprocessableError(
            "; ".join(error.message for error in failed),
            code=failed[0].code,
            issues=tuple(dict.fromkeys(issues)),
        )
    return tuple(scores)


def _race_for(model: RiskModel, races: Sequence[InputValue]) -> InputValue:
    """The recorded race for which a model has a term, else the most exact one."""
    terms = model.codes.get("race", ())
    return next((item for item in races if item.value in terms), races[0])


def _refuse_dead(patient: Json, as_of: date) -> None:
    died = time_span(patient.get("deceasedDateTime"))
    if patient.get("deceasedBoolean") is True or (died is not None and died.first <= as_of):
        text = "the person had died by the date that the score is for"
        issue = OutcomeIssue("business-rule", "not-applicable", text)
        raise UnprocessableError(text, code="not-applicable", issues=[issue])
