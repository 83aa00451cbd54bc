"""The access matrix: requests, tokens, and what each must get; not derived from the policy.

Letters of the table:

    .  refused: 403, and the answer says nothing of the resource
    n  not found: 404, whether it exists or not
    o  done: 2xx
    e  an answer with nothing in it
    p  an answer that holds the own patient's data and nobody else's
    g  an answer that holds the data of the program's members and nobody else's
    a  an answer that holds everybody's data
    m  an answer that holds the alert about a model and nobody's data
    R  reaches the operation, which may find the input wanting (2xx, 400, 409, 412, 422)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from access_world import (
    CODE,
    CODES,
    MATE,
    OTHER,
    OWN,
    PREFIX,
    PROGRAM,
    condition,
    issue,
    observation,
    reference,
    task,
)

from fhir_ext.resources.codes import MODEL_ALERT

Json = dict[str, Any]

#: Groups of the table: persona and context of the scopes.
WHO = (
    ("patient", "patient"),
    ("clinician", "patient"),
    ("clinician", "user"),
    ("radiologist", "patient"),
    ("radiologist", "user"),
    ("coordinator", "patient"),
    ("coordinator", "user"),
    ("epidemiologist", "user"),
    ("ml-engineer", "user"),
    ("auditor", "user"),
    ("administrator", "user"),
    ("service", "system"),
)

#: The four letters of a group: what scopes the token has. `{}` is the context.
SCOPES = (
    "{}/*.cruds",
    "{}/*.rs",
    "{}/Immunization.cruds",
    "",
)

TABLE = """
                 patient clinic. clinic. radiol. radiol. coord.  coord.  epidem. ml-eng. auditor admin.  service
                 patient patient user    patient user    patient user    user    user    user    user    system
metadata         oooo    oooo    oooo    oooo    oooo    oooo    oooo    oooo    oooo    oooo    oooo    oooo
patient-own      oo..    oo..    oo..    oo..    oo..    ....    oo..    ....    ....    ....    ....    oo..
patient-mate     nn..    nn..    oo..    nn..    oo..    ....    oo..    ....    ....    ....    ....    oo..
patient-other    nn..    nn..    nn..    nn..    nn..    ....    nn..    ....    ....    ....    ....    oo..
read-own         oo..    oo..    oo..    oo..    oo..    ....    oo..    ....    ....    ....    ....    oo..
read-mate        nn..    nn..    oo..    nn..    oo..    ....    oo..    ....    ....    ....    ....    oo..
read-other       nn..    nn..    nn..    nn..    nn..    ....    nn..    ....    ....    ....    ....    oo..
vread-own        oo..    oo..    oo..    oo..    oo..    ....    oo..    ....    ....    ....    ....    oo..
vread-other      nn..    nn..    nn..    nn..    nn..    ....    nn..    ....    ....    ....    ....    oo..
history-own      pp..    pp..    pp..    pp..    pp..    ....    pp..    ....    ....    ....    ....    pp..
history-other    nn..    nn..    nn..    nn..    nn..    ....    nn..    ....    ....    ....    ....    oo..
history-type     ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    oo..
history-system   ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....
search           pp..    pp..    gg..    pp..    gg..    ....    gg..    ....    ....    ....    ....    aa..
search-post      pp..    pp..    gg..    pp..    gg..    ....    gg..    ....    ....    ....    ....    aa..
search-other     ee..    ee..    ee..    ee..    ee..    ....    ee..    ....    ....    ....    ....    oo..
search-patients  pp..    pp..    gg..    pp..    gg..    ....    gg..    ....    ....    ....    ....    aa..
search-tasks     pp..    pp..    gg..    pp..    gg..    ....    gg..    ....    ....    ....    ....    aa..
search-system    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....
create-own       ....    o...    o...    o...    o...    ....    ....    ....    ....    ....    ....    o...
create-other     ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    o...
create-result    ....    o...    o...    o...    o...    ....    ....    ....    ....    ....    ....    o...
update-own       ....    o...    o...    o...    o...    ....    ....    ....    ....    ....    ....    o...
update-other     ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    o...
update-result    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    o...
update-task      ....    ....    ....    ....    o...    ....    o...    ....    ....    ....    ....    o...
patch-own        ....    o...    o...    o...    o...    ....    ....    ....    ....    ....    ....    ....
patch-other      ....    n...    n...    n...    n...    ....    ....    ....    ....    ....    ....    ....
delete-own       ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....
conditional      ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    o...
transaction      ....    o...    o...    o...    o...    ....    ....    ....    ....    ....    ....    o...
everything-own   pp..    pp..    pp..    pp..    pp..    ....    pp..    ....    ....    ....    ....    pp..
everything-other nn..    nn..    nn..    nn..    nn..    ....    nn..    ....    ....    ....    ....    oo..
everything-type  ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    oo..
risk-score-own   RR..    RR..    RR..    RR..    RR..    ....    RR..    ....    ....    ....    ....    RR..
risk-score-keep  ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    R...
review           ....    ....    ....    ....    R...    ....    ....    ....    ....    ....    ....    ....
claim            ....    ....    ....    ....    R...    ....    R...    ....    ....    ....    ....    ....
group            ....    ....    oo..    ....    oo..    ....    oo..    ....    ....    ....    oo..    oo..
subscription     ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    oo..    oo..
audit            ....    ....    ....    ....    ....    ....    ....    ....    ....    oo..    ....    ....
model            oo..    oo..    oo..    oo..    oo..    ....    oo..    ....    oo..    ....    oo..    oo..
implant-own      oo..    oo..    oo..    oo..    oo..    ....    oo..    ....    nn..    ....    nn..    oo..
implant-other    nn..    nn..    nn..    nn..    nn..    ....    nn..    ....    nn..    ....    nn..    oo..
alert            nn..    nn..    nn..    nn..    nn..    ....    nn..    ....    mm..    ....    ....    oo..
alert-vread      nn..    nn..    nn..    nn..    nn..    ....    nn..    ....    ....    ....    ....    oo..
alert-history    nn..    nn..    nn..    nn..    nn..    ....    nn..    ....    ....    ....    ....    oo..
alert-about-own  oo..    oo..    oo..    oo..    oo..    ....    oo..    ....    nn..    ....    ....    oo..
alert-search     pp..    pp..    gg..    pp..    gg..    ....    gg..    ....    mm..    ....    ....    aa..
issue-search     pp..    pp..    gg..    pp..    gg..    ....    gg..    ....    mm..    ....    ....    aa..
alert-create     ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    o...
practitioner     oo..    oo..    oo..    oo..    oo..    ....    oo..    ....    ....    ....    oo..    oo..
codes            oo..    oo..    oo..    oo..    oo..    ....    oo..    oo..    oo..    ....    oo..    oo..
codes-update     ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    o...    ....
codes-delete     ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    o...    ....
search-parameter ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....
graphql          ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....    ....
"""  # noqa: E501 - a table


@dataclass(frozen=True)
class Call:
    """One concrete request.

    Attributes:
        path: below the FHIR base, with its query.
        form: whether the body is a form.
        patch: whether it is a JSON Patch.
    """

    method: str
    path: str
    body: Any = None
    form: bool = False
    patch: bool = False
    headers: tuple[tuple[str, str], ...] = ()


def _obs(patient: str) -> str:
    return f"/Observation/{PREFIX}obs-{patient}"


def _cond(patient: str) -> str:
    return f"/Condition/{PREFIX}cond-{patient}"


_ALERT = f"/DetectedIssue/{PREFIX}alert"
_CODED = f"code={CODES}|{CODE}"
_PARAMETERS: Json = {"resourceType": "Parameters"}
_PATCH = [{"op": "add", "path": "/code/text", "value": "a cough"}]
_CODE_SYSTEM: Json = {
    "resourceType": "CodeSystem",
    "id": f"{PREFIX}more-codes",
    "url": f"{CODES}/more",
    "status": "active",
    "content": "not-present",
}
_SEARCH_PARAMETER: Json = {
    "resourceType": "SearchParameter",
    "url": f"{CODES}/patient",
    "name": "patient",
    "status": "active",
    "description": "undoes the confinement",
    "code": "patient",
    "base": ["Observation"],
    "type": "reference",
    "expression": "Observation.performer",
}
_KEPT_FOR_OTHER: Json = {
    "resourceType": "Parameters",
    "parameter": [
        {"name": "model", "valueCode": "mayo"},
        {"name": "persist", "valueBoolean": True},
        {"name": "subject", "valueReference": reference(OTHER)},
    ],
}
_TOLD: Json = {
    "resourceType": "Observation",
    "status": "final",
    "code": {"text": "told by the patient"},
    "subject": reference(OWN),
}
_TRANSACTION: Json = {
    "resourceType": "Bundle",
    "type": "transaction",
    "entry": [
        {
            "resource": condition(OWN, f"{PREFIX}cond-{OWN}"),
            "request": {"method": "PUT", "url": f"Condition/{PREFIX}cond-{OWN}"},
        }
    ],
}

CALLS: dict[str, Call] = {
    "metadata": Call("GET", "/metadata"),
    "patient-own": Call("GET", f"/Patient/{OWN}"),
    "patient-mate": Call("GET", f"/Patient/{MATE}"),
    "patient-other": Call("GET", f"/Patient/{OTHER}"),
    "read-own": Call("GET", _obs(OWN)),
    "read-mate": Call("GET", _obs(MATE)),
    "read-other": Call("GET", _obs(OTHER)),
    "vread-own": Call("GET", f"{_obs(OWN)}/_history/1"),
    "vread-other": Call("GET", f"{_obs(OTHER)}/_history/1"),
    "history-own": Call("GET", f"{_obs(OWN)}/_history"),
    "history-other": Call("GET", f"{_obs(OTHER)}/_history"),
    "history-type": Call("GET", "/Observation/_history?_count=2"),
    "history-system": Call("GET", "/_history?_count=2"),
    "search": Call("GET", f"/Observation?{_CODED}"),
    "search-post": Call("POST", "/Observation/_search", {"code": f"{CODES}|{CODE}"}, form=True),
    "search-other": Call("GET", f"/Observation?patient=Patient/{OTHER}"),
    "search-patients": Call("GET", f"/Patient?identifier={CODES}|"),
    "search-tasks": Call("GET", f"/Task?_tag={CODES}|access"),
    "search-system": Call("GET", "/?_type=Observation"),
    "create-own": Call("POST", "/Condition", condition(OWN)),
    "create-other": Call("POST", "/Condition", condition(OTHER)),
    "create-result": Call("POST", "/Observation", _TOLD),
    "update-own": Call("PUT", _cond(OWN), condition(OWN, f"{PREFIX}cond-{OWN}")),
    "update-other": Call("PUT", _cond(OTHER), condition(OTHER, f"{PREFIX}cond-{OTHER}")),
    "update-result": Call("PUT", _obs(OWN), observation(OWN)),
    "update-task": Call("PUT", f"/Task/{PREFIX}task-{OWN}", task(OWN)),
    "patch-own": Call("PATCH", _cond(OWN), _PATCH, patch=True),
    "patch-other": Call("PATCH", _cond(OTHER), _PATCH, patch=True),
    "delete-own": Call("DELETE", _cond(OWN)),
    "conditional": Call(
        "POST",
        "/Condition",
        condition(OWN),
        headers=(("If-None-Exist", f"_tag={CODES}|access&subject=Patient/{MATE}"),),
    ),
    "transaction": Call("POST", "", _TRANSACTION),
    "everything-own": Call("GET", f"/Patient/{OWN}/$everything"),
    "everything-other": Call("GET", f"/Patient/{OTHER}/$everything"),
    "everything-type": Call("GET", f"/Patient/$everything?_id={OTHER}&_count=2"),
    "risk-score-own": Call("GET", f"/Patient/{OWN}/$risk-score?model=prevent"),
    "risk-score-keep": Call("POST", "/RiskAssessment/$risk-score", _KEPT_FOR_OTHER),
    "review": Call("POST", f"/Task/{PREFIX}task-{OWN}/$review", _PARAMETERS),
    "claim": Call("POST", f"/Task/{PREFIX}task-{OWN}/$claim", _PARAMETERS),
    "group": Call("GET", f"/Group/{PROGRAM}"),
    "subscription": Call("GET", f"/Subscription/{PREFIX}hook"),
    "audit": Call("GET", f"/AuditEvent?_tag={CODES}|access"),
    "model": Call("GET", f"/Device/{PREFIX}model"),
    "implant-own": Call("GET", f"/Device/{PREFIX}implant-own"),
    "implant-other": Call("GET", f"/Device/{PREFIX}implant-other"),
    "alert": Call("GET", _ALERT),
    "alert-vread": Call("GET", f"{_ALERT}/_history/1"),
    "alert-history": Call("GET", f"{_ALERT}/_history"),
    "alert-about-own": Call("GET", f"/DetectedIssue/{PREFIX}issue-{OWN}"),
    "alert-search": Call("GET", f"/DetectedIssue?code={MODEL_ALERT.url}|model-drift"),
    "issue-search": Call("POST", "/DetectedIssue/_search", {"_tag": f"{CODES}|access"}, form=True),
    "alert-create": Call("POST", "/DetectedIssue", issue(None)),
    "practitioner": Call("GET", f"/Practitioner/{PREFIX}doctor"),
    "codes": Call("GET", f"/CodeSystem?url={CODES}"),
    "codes-update": Call("PUT", f"/CodeSystem/{PREFIX}more-codes", _CODE_SYSTEM),
    "codes-delete": Call("DELETE", f"/CodeSystem/{PREFIX}no-codes"),
    "search-parameter": Call("POST", "/SearchParameter", _SEARCH_PARAMETER),
    "graphql": Call("GET", "/$graphql?query={PatientList{id}}"),
}


@dataclass(frozen=True)
class Row:
    """One token and what it must get for each request."""

    persona: str
    context: str
    scope: str
    expected: dict[str, str]

    @property
    def name(self) -> str:
        return f"{self.persona} {self.scope or 'no scope'}"


def rows() -> Iterator[Row]:
    """The table by tokens.

    A service without any scope is not among them: an issuer gives no such token.
    """
    lines = [line.split() for line in TABLE.strip("\n").splitlines()[2:]]
    assert [line[0] for line in lines] == list(CALLS)
    for column, (persona, context) in enumerate(WHO, start=1):
        for place, scope in enumerate(SCOPES):
            if persona == "service" and not scope:
                continue
            expected = {line[0]: line[column][place] for line in lines}
            yield Row(persona, context, scope.format(context), expected)
