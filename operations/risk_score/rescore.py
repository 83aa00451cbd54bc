"""A new imaging finding changes the risk: kept scores of its patient are computed again.

The new score is for the day on which the finding became what it is, from the chart and from what
the caller of the old one gave, except for what the finding itself says. Running again changes
nothing: a score that is newer than the finding has seen it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final, Protocol

from fhir_ext.errors import NotFoundError, UnprocessableError
from fhir_ext.logs import event, get_logger
from fhir_ext.resources.codes import RISK_MODEL
from fhir_ext.resources.risk_record import inputs_of, is_kept_score, model_of
from fhir_ext.results import InputValue, RiskScore
from operations.risk_score.catalogue import MODELS
from operations.risk_score.chart_codes import chart_table
from operations.risk_score.found import stands
from operations.risk_score.inputs import parse_caller_value
from operations.risk_score.model import RiskModel
from operations.risk_score.service import RiskScoreService, Store

log = get_logger(__name__)

Json = dict[str, Any]

#: More kept scores of one patient than this are not looked through.
MOST: Final = 1000


class Server(Store, Protocol):
    """The part of the FHIR client that is needed."""

    def read(self, resource_type: str, resource_id: str) -> Json: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """An imaging Observation that a model may read.

    Attributes:
        names: inputs that it may give.
        changed: when it became what it is.
    """

    patient_id: str
    names: frozenset[str]
    changed: datetime

    @property
    def day(self) -> date:
        return self.changed.astimezone(UTC).date()


class Rescorer:
    """Computes kept scores again.

    Args:
        fhir: the FHIR server.
    """

    def __init__(self, fhir: Server) -> None:
        self._fhir = fhir
        self._service = RiskScoreService(fhir)

    def rescore(self, observation_id: str) -> list[Json]:
        """New scores of the patient of one Observation, for the models that read it.

        Returns:
            The new RiskAssessments; none when nothing was kept or nothing changed.

        Raises:
            UpstreamError: the FHIR server failed.
        """
        try:
            finding = read_finding(self._fhir.read("Observation", observation_id))
        except NotFoundError:
            return []
        if finding is None:
            return []
        written = []
        for model, old in self._kept(finding).items():
            if _seen_by(old, finding):
                continue
            score = self._computed(MODELS[model], old, finding)
            if score is not None and _changed(score, old, finding.names):
                revised = {model: f"RiskAssessment/{old['id']}"}
                written += self._service.keep([score], finding.patient_id, revised=revised)
        event(log, "rescored", count=len(written))
        return written

    def _kept(self, finding: Finding) -> dict[str, Json]:
        """The newest kept score of each model that reads the finding."""
        codes = [code for code, model in MODELS.items() if finding.names & set(model.reads)]
        found = self._fhir.search(
            "RiskAssessment",
            {
                "patient": finding.patient_id,
                "method": ",".join(f"{RISK_MODEL.url}|{code}" for code in codes),
                "_sort": "-_lastUpdated",
                "_count": 50,
            },
            MOST,
        )
        newest: dict[str, Json] = {}
        for assessment in found:
            model = model_of(assessment)
            if model in codes and is_kept_score(assessment):
                newest.setdefault(str(model), assessment)
        return newest

    def _computed(self, model: RiskModel, old: Json, finding: Finding) -> RiskScore | None:
        """The score with the finding; None when it cannot be computed."""
        given = _given(old, finding.names)
        # An age that was given then is not today's; the chart's birth date is better.
        aged = {name: item for name, item in given.items() if name != "age"}
        for inputs in (aged, given) if "age" in given else (given,):
            try:
                (score,) = self._service.score(
                    [model.code], inputs, finding.day, patient_id=finding.patient_id
                )
            except (UnprocessableError, NotFoundError) as error:
                event(log, "not-rescored", model=model.code, code=error.code)
            else:
                return score
        return None


def read_finding(observation: Json) -> Finding | None:
    """What an Observation may change; None when no model reads it, or it does not stand."""
    names = chart_table().imaging_inputs(observation.get("code", {}))
    reference = str(observation.get("subject", {}).get("reference", ""))
    if (
        not names
        or not reference.startswith("Patient/")
        or not stands(observation, "imaging", False)
    ):
        return None
    return Finding(
        patient_id=reference.removeprefix("Patient/").partition("/")[0],
        names=names,
        changed=_instant(observation),
    )


def _instant(resource: Json) -> datetime:
    return datetime.fromisoformat(resource["meta"]["lastUpdated"])


def _seen_by(old: Json, finding: Finding) -> bool:
    return _instant(old) >= finding.changed


def _given(old: Json, names: frozenset[str]) -> dict[str, InputValue]:
    """Inputs that the caller of the old score gave, but for those that the finding gives."""
    return {
        item.name: parse_caller_value(item.name, {item.key: item.value})
        for item in inputs_of(old)
        if item.source == "caller" and item.name not in names
    }


def _changed(score: RiskScore, old: Json, names: frozenset[str]) -> bool:
    """Whether the finding made a difference to the inputs that it may give."""
    before: Mapping[str, Any] = {
        item.name: (item.plain, item.reference) for item in inputs_of(old) if item.name in names
    }
    after = {i.name: (i.value, i.reference) for i in score.inputs if i.name in names}
    return before != after
