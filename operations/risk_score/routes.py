"""HTTP to `RiskScoreService`; mounted by the gateway, which verified the token."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Path, Request, Response
from fastapi.concurrency import run_in_threadpool

from fhir_ext.errors import BadRequestError, CallerError, OutcomeIssue
from fhir_ext.gateway.access import SCOPE_KEY, Access
from fhir_ext.outcome import MEDIA_TYPE
from fhir_ext.resources.risk_record import Asker
from fhir_ext.resources.risk_score import risk_score_assessment
from fhir_ext.results import RiskScore
from operations.risk_score.parameters import (
    Asked,
    Level,
    needs_conversion,
    parse_parameters,
    parse_query,
    read_body,
)
from operations.risk_score.service import RiskScoreService

Json = dict[str, Any]

#: FHIR R4 `id`.
PatientId = Annotated[str, Path(pattern=r"^[A-Za-z0-9\-.]{1,64}$")]

_JSON_TYPES: Final = frozenset({"application/fhir+json", "application/json"})


class UnsupportedMediaType(CallerError):
    """A body in a format that this operation does not read."""

    status = 415
    default_code = "unsupported-media-type"
    issue_type = "not-supported"


def risk_score_router(service: RiskScoreService) -> APIRouter:
    """Routes of `Patient/{id}/$risk-score` and `RiskAssessment/$risk-score`."""
    router = APIRouter(tags=["risk-score"])

    @router.get("/Patient/{patient_id}/$risk-score")
    async def ask(request: Request, patient_id: PatientId) -> Response:
        """Risk scores of a patient from the chart; keeps nothing."""
        access = _access(request, patient_id)
        asked = parse_query(request.query_params.multi_items(), _today())
        return await run_in_threadpool(_of_patient, service, patient_id, asked, access)

    @router.post("/Patient/{patient_id}/$risk-score")
    async def ask_with_inputs(request: Request, patient_id: PatientId) -> Response:
        """Risk scores of a patient from given inputs, chart and imaging."""
        access = _access(request, patient_id)
        asked = await _asked(request, "instance")
        return await run_in_threadpool(_of_patient, service, patient_id, asked, access)

    @router.post("/RiskAssessment/$risk-score")
    async def ask_for_nobody(request: Request) -> Response:
        """Risk scores from given inputs alone."""
        access = _access(request, None)
        asked = await _asked(request, "type")
        if asked.subject is not None:
            access.require_patient(asked.subject)
            access.require("r", "RiskAssessment")
        if asked.persist:
            return await run_in_threadpool(_kept_for_subject, service, asked, access)
        # Nothing here waits for a server, so no thread is needed.
        scores = service.score(asked.models, asked.given, asked.as_of)
        return _answer([_assessment(score, asked.subject) for score in scores])

    return router


def _of_patient(
    service: RiskScoreService, patient_id: str, asked: Asked, access: Access
) -> Response:
    if asked.persist:
        access.require("c", "RiskAssessment")
    scores = service.score(
        asked.models,
        asked.given,
        asked.as_of,
        patient_id=patient_id,
        allow_preliminary=asked.allow_preliminary,
        access=access,
    )
    if asked.persist:
        return _answer(service.keep(scores, patient_id, asker=_asker(access)))
    return _answer([_assessment(score, patient_id) for score in scores])


def _kept_for_subject(service: RiskScoreService, asked: Asked, access: Access) -> Response:
    assert asked.subject is not None
    access.require("c", "RiskAssessment")
    service.require_patient(asked.subject)
    scores = service.score(asked.models, asked.given, asked.as_of)
    return _answer(service.keep(scores, asked.subject, asker=_asker(access)))


def _access(request: Request, patient_id: str | None) -> Access:
    access: Access = request.scope[SCOPE_KEY]
    if patient_id is not None:
        access.require_patient(patient_id)
    access.require("r", "RiskAssessment")
    return access


def _asker(access: Access) -> Asker:
    """Who asked: what the verified token says, never the body."""
    grant = access.grant
    return Asker(grant.client_id, grant.subject, grant.fhir_user)


async def _asked(request: Request, level: Level) -> Asked:
    if request.query_params:
        text = "a POST has its parameters in the body"
        raise BadRequestError(text, issues=[OutcomeIssue("invalid", "bad-request", text)])
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _JSON_TYPES:
        raise UnsupportedMediaType("the body must be application/fhir+json")
    resource = read_body(await request.body())
    if needs_conversion(resource):
        return await run_in_threadpool(parse_parameters, resource, level, _today())
    return parse_parameters(resource, level, _today())


def _assessment(score: RiskScore, patient_id: str | None) -> Json:
    subject = {"reference": f"Patient/{patient_id}"} if patient_id else None
    return risk_score_assessment(score, subject)


def _answer(assessments: Sequence[Json]) -> Response:
    """A RiskAssessment, or a collection of several."""
    resource = assessments[0]
    if len(assessments) > 1:
        resource = {
            "resourceType": "Bundle",
            "type": "collection",
            "entry": [{"resource": item} for item in assessments],
        }
    return Response(orjson.dumps(resource), media_type=MEDIA_TYPE)


def _today() -> date:
    return datetime.now(UTC).date()
