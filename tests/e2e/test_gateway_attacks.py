"""Attacks that once told something about other patients, or changed what is not the caller's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import requests
from access_world import (
    CODE,
    CODES,
    MATE,
    OTHER,
    OWN,
    PREFIX,
    World,
    mark,
    observation,
    reference,
    task,
)
from dangerous_forms import extras
from tokens import Tokens

from fhir_ext.gateway.writes import OWN_IDENTIFIERS
from fhir_ext.issuer.flows import login
from fhir_ext.resources.codes import TASK_TYPE

if TYPE_CHECKING:
    from fhir_ext.cli.tree import Tree

Json = dict[str, Any]

OWN_COND = f"Condition/{PREFIX}cond-{OWN}"
OTHER_OBS, NO_OBS = f"Observation/{PREFIX}obs-{OTHER}", f"Observation/{PREFIX}obs-none"
#: Parameters that only `other` fits.
NAME = f"family={mark(OTHER)}"
PATCH = "application/json-patch+json"


class Gateway:
    """The gateway, asked with tokens by name."""

    def __init__(self, tree: Tree) -> None:
        self.base, self.issuer = tree.urls["gateway"], tree.urls["issuer"]
        self._tokens = Tokens(self.issuer, tree.directory)

    def token(self, persona: str, scope: str) -> str:
        return self._tokens.get(persona, scope.partition("/")[0], scope)

    def ask(
        self, token: str, path: str, method: str = "GET", body: Any = None, **headers: str
    ) -> requests.Response:
        kind = PATCH if method == "PATCH" else "application/fhir+json"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.request(
            method,
            f"{self.base}/{path}",
            data=None if body is None else json.dumps(body),
            headers={"Authorization": f"Bearer {token}", "Content-Type": kind, **named},
            timeout=60,
            allow_redirects=False,
        )

    def bundle(self, token: str, kind: str, *requests_: Json) -> Json:
        entries = [{"request": {"method": "GET", **one}} for one in requests_]
        answer = self.ask(
            token, "", "POST", {"resourceType": "Bundle", "type": kind, "entry": entries}
        )
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found


@pytest.fixture(scope="module")
def gateway(tree: Tree) -> Gateway:
    return Gateway(tree)


@pytest.fixture(scope="module")
def world(tree: Tree, gateway: Gateway) -> World:
    found = World(tree.urls["FHIR server"])
    found.put_everything()
    found.wait_for_members(gateway.base, gateway.token("coordinator", "user/Patient.r"))
    for resource in extras():
        found.put(resource)
    return found


@pytest.fixture
def confined(gateway: Gateway) -> str:
    return gateway.token("clinician", "patient/*.cruds")


# Whether something is there


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"If_None_Match": 'W/"1"'},
        {"If_None_Match": "*"},
        {"If_Modified_Since": "Mon, 01 Jan 2035 00:00:00 GMT"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "below", ["", "/_history/1", "/_history", "/_history?_summary=count", "/_history?_count=0"]
)
def test_what_may_not_be_seen_answers_like_what_is_not_there(
    gateway: Gateway, world: World, confined: str, below: str, headers: dict[str, str]
) -> None:
    there = gateway.ask(confined, OTHER_OBS + below, **headers)
    missing = gateway.ask(confined, NO_OBS + below, **headers)
    assert (there.status_code, there.text) == (404, missing.text)


@pytest.mark.parametrize("kind", ["batch", "transaction"])
@pytest.mark.parametrize(
    "more", [{}, {"ifNoneMatch": 'W/"1"'}, {"ifModifiedSince": "2035-01-01T00:00:00Z"}], ids=str
)
@pytest.mark.parametrize("below", ["", "/_history?_summary=count"])
def test_in_a_bundle_likewise(
    gateway: Gateway, world: World, confined: str, kind: str, more: Json, below: str
) -> None:
    there, missing = gateway.bundle(
        confined, kind, {"url": OTHER_OBS + below, **more}, {"url": NO_OBS + below, **more}
    )["entry"]
    assert there == missing


def test_own_resources_are_still_read_conditionally(
    gateway: Gateway, world: World, confined: str
) -> None:
    path = f"Observation/{PREFIX}obs-{OWN}"
    first = gateway.ask(confined, path)
    for headers in (
        {"If_None_Match": first.headers["ETag"]},
        {"If_Modified_Since": first.headers["Last-Modified"]},
    ):
        again = gateway.ask(confined, path, **headers)
        assert (again.status_code, again.text) == (304, "")
    assert gateway.ask(confined, path, If_None_Match='W/"999"').status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        f"Device?patient=Patient/{OTHER}",
        f"Device?patient.{NAME}",
        f"Device?_id={PREFIX}implant-other",
        f"Provenance?target=Patient/{OTHER}",
        f"Provenance?target=&patient.{NAME}",
        f"Provenance?target=Patient/{OTHER},Patient/{OWN}&patient.{NAME}",
    ],
)
@pytest.mark.parametrize(
    ("persona", "scope"),
    [("patient", "patient/*.rs"), ("radiologist", "user/*.rs"), ("ml-engineer", "user/*.rs")],
)
def test_a_count_of_others(
    gateway: Gateway, world: World, persona: str, scope: str, query: str
) -> None:
    assert world.count(query) > 0
    token = gateway.token(persona, scope)
    for extra in ("&_summary=count", "&_count=0&_total=accurate", ""):
        answer = gateway.ask(token, query + extra)
        if answer.status_code != 403:
            assert answer.json().get("total") == 0, query + extra


def test_devices_and_provenances_of_ones_own(gateway: Gateway, world: World) -> None:
    token = gateway.token("patient", "patient/*.rs")
    for query in (f"Device?patient=Patient/{OWN}", f"Device?_id={PREFIX}model"):
        assert gateway.ask(token, query).json()["total"] == 1, query


# What is written


@pytest.mark.parametrize(
    "steps",
    [
        [{"op": "add", "path": "/evidence", "value": [{"detail": [{"reference": "{}"}]}]}],
        [
            {"op": "add", "path": "/evidence", "value": [{"detail": [{"reference": "#x"}]}]},
            {"op": "replace", "path": "/evidence/0/detail/0/reference", "value": "{}"},
        ],
        [
            {"op": "add", "path": "/note", "value": [{"text": "{}"}]},
            {"op": "add", "path": "/evidence", "value": [{"detail": [{"reference": "#x"}]}]},
            {"op": "copy", "from": "/note/0/text", "path": "/evidence/0/detail/0/reference"},
        ],
        [{"op": "add", "path": "/evidence", "value": [{"detail": [{"reference": ["{}"]}]}]}],
        [
            {"op": "add", "path": "/evidence", "value": [{"detail": [{"reference": "#x"}]}]},
            {"op": "replace", "path": "/evidence/0/detail/0/reference", "value": []},
            {"op": "add", "path": "/evidence/0/detail/0/reference/-", "value": "{}"},
        ],
    ],
    ids=["add", "replace", "copy", "list", "piecewise"],
)
@pytest.mark.parametrize(
    "target", [f"Patient?{NAME}", f"Observation?patient=Patient/{OTHER}&code={CODE}"]
)
def test_a_patch_that_searches(
    gateway: Gateway, world: World, confined: str, steps: list[Json], target: str
) -> None:
    filled = json.loads(json.dumps(steps).replace("{}", target))
    answer = gateway.ask(confined, OWN_COND, "PATCH", filled)
    assert answer.status_code in (400, 403), answer.text
    assert "evidence" not in world.read(OWN_COND)


@pytest.mark.parametrize(
    "spelling",
    ["/Patient/{}", "./Patient/{}", "x/Patient/{}", "../Patient/{}", "Patient/{}/_history/"],
)
@pytest.mark.parametrize("element", ["asserter", "evidence"])
def test_spellings_that_the_server_takes_for_a_patient(
    gateway: Gateway, world: World, confined: str, spelling: str, element: str
) -> None:
    pointing: Any = {"reference": spelling.format(OTHER)}
    if element == "evidence":
        pointing = [{"detail": [pointing]}]
    resource = {"resourceType": "Condition", "subject": reference(OWN), element: pointing}
    before = world.count(f"Condition?asserter=Patient/{OTHER}")
    assert gateway.ask(confined, "Condition", "POST", resource).status_code == 403
    assert world.count(f"Condition?asserter=Patient/{OTHER}") == before


@pytest.mark.parametrize("target", [f"Patient/{OTHER}", f"Patient?{NAME}"])
@pytest.mark.parametrize(
    "shape", [{"reference": ["{}"]}, [{"reference": "{}"}], [{"reference": ["{}"]}]], ids=str
)
def test_lists_that_the_server_takes_apart(
    gateway: Gateway, world: World, confined: str, shape: Any, target: str
) -> None:
    pointing = json.loads(json.dumps(shape).replace("{}", target))
    before = world.count(f"Observation?performer=Patient/{OTHER}")
    new = {**observation(OWN), "performer": [pointing]}
    new.pop("id")
    assert gateway.ask(confined, "Observation", "POST", new).status_code in (400, 403)
    new = {**new, "performer": [], "subject": [[reference(OTHER)], reference(OWN)]}
    assert gateway.ask(confined, "Observation", "POST", new).status_code == 400
    assert world.count(f"Observation?performer=Patient/{OTHER}") == before


@pytest.mark.parametrize(
    "identifier",
    [
        {"system": f"{OWN_IDENTIFIERS}x", "value": "1"},
        [{"system": [f"{OWN_IDENTIFIERS}x"], "value": "1"}],
        [[{"system": f"{OWN_IDENTIFIERS}x", "value": "1"}]],
        [{"system": f" {OWN_IDENTIFIERS}x", "value": "1"}],
    ],
    ids=str,
)
def test_identifiers_of_ours_in_any_shape(gateway: Gateway, world: World, identifier: Any) -> None:
    token = gateway.token("service", "system/*.cruds")
    forged = {**task(OWN), "identifier": identifier}
    forged.pop("id")
    assert gateway.ask(token, "Task", "POST", forged).status_code in (400, 403)


def test_whether_a_patient_exists(gateway: Gateway, world: World, confined: str) -> None:
    """The server refuses references to what is not there, and takes others."""
    answers = [
        gateway.ask(
            confined,
            "Condition",
            "POST",
            {
                "resourceType": "Condition",
                "subject": reference(OWN),
                "evidence": [{"detail": [reference(who)]}],
            },
        )
        for who in (OTHER, f"{PREFIX}nobody")
    ]
    assert answers[0].status_code == 403
    assert answers[0].text == answers[1].text


def test_a_condition_does_not_reach_a_result_of_ours(gateway: Gateway, world: World) -> None:
    machine = {
        **observation(OWN, f"{PREFIX}machine"),
        "identifier": [{"system": f"{OWN_IDENTIFIERS}test", "value": "1"}],
    }
    world.put(machine)
    before = world.read(f"Observation/{PREFIX}machine")
    token = gateway.token("service", "system/*.cruds")
    path = f"Observation?_id={PREFIX}machine"
    changed = {**observation(OWN), "valueString": "changed"}
    changed.pop("id")
    assert gateway.ask(token, path, "PUT", changed).status_code == 403
    entry = {"resource": changed, "request": {"method": "PUT", "url": path}}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    assert gateway.ask(token, "", "POST", bundle).status_code == 403
    assert world.read(f"Observation/{PREFIX}machine") == before


def test_a_program_looks_no_further_than_its_scopes(gateway: Gateway, world: World) -> None:
    token = gateway.token("service", "system/Observation.cruds")
    new = {**observation(OWN), "performer": [{"reference": f"Patient?{NAME}"}]}
    new.pop("id")
    assert gateway.ask(token, "Observation", "POST", new).status_code == 403
    new["performer"] = []
    for condition in (f"patient.{NAME}&code={CODE}", f"_has:Provenance:target:patient={OTHER}"):
        assert (
            gateway.ask(token, "Observation", "POST", new, If_None_Exist=condition).status_code
            == 403
        )
        assert gateway.ask(token, f"Observation?{condition}", "PUT", new).status_code == 403
    # With the scopes it may.
    token = gateway.token("service", "system/Observation.cruds system/Patient.rs")
    new["performer"] = [{"reference": f"Patient?{NAME}"}]
    condition = f"identifier={CODES}|once"
    new["identifier"] = [{"system": CODES, "value": "once"}]
    answers = [
        gateway.ask(token, "Observation", "POST", new, If_None_Exist=condition) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 200]


def test_an_administrator_searches_no_patients(gateway: Gateway, world: World) -> None:
    token = gateway.token("administrator", "user/*.cruds")
    member = {"entity": {"reference": f"Patient?{NAME}"}}
    group = {"resourceType": "Group", "type": "person", "actual": True, "member": [member]}
    answer = gateway.ask(token, "Group", "POST", group)
    assert answer.status_code == 403
    assert OTHER not in answer.text


@pytest.mark.parametrize(
    "endpoint", ["http://169.254.169.254/latest", "file:///etc/passwd", "https://a:b@h.example/"]
)
def test_a_subscription_calls_no_such_address(
    gateway: Gateway, world: World, endpoint: str
) -> None:
    token = gateway.token("administrator", "user/*.cruds")
    subscription = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "test",
        "criteria": "Slot?",
        "channel": {"type": "rest-hook", "endpoint": endpoint, "payload": "application/fhir+json"},
    }
    assert gateway.ask(token, "Subscription", "POST", subscription).status_code == 403
    subscription["channel"] = [subscription["channel"]]
    assert gateway.ask(token, "Subscription", "POST", subscription).status_code == 400


@pytest.mark.parametrize("parameter", ["_cascade=delete", "_expunge=true", "_rewrite=1"])
def test_a_write_has_no_such_parameter(gateway: Gateway, world: World, parameter: str) -> None:
    token = gateway.token("administrator", "user/*.cruds")
    path = f"Practitioner/{PREFIX}doctor"
    assert gateway.ask(token, f"{path}?{parameter}", "DELETE").status_code == 403
    assert world.exists(path)


@pytest.mark.parametrize(
    "value", ["1e100000000", "[" * 900 + "]" * 900, '"\\ud800"', "9" * 5000, "12345678901234567890"]
)
@pytest.mark.parametrize("bundle", [False, True])
def test_odd_json(gateway: Gateway, confined: str, value: str, bundle: bool) -> None:
    """Whatever it is, it is no error of ours."""
    body = json.dumps(
        {"resourceType": "Condition", "subject": reference(OWN), "code": {"text": "@"}}
    ).replace('"@"', value)
    if bundle:
        entry = f'{{"resource":{body},"request":{{"method":"POST","url":"Condition"}}}}'
        body = f'{{"resourceType":"Bundle","type":"transaction","entry":[{entry}]}}'
    answer = requests.post(
        f"{gateway.base}/{'' if bundle else 'Condition'}",
        data=body,
        headers={"Authorization": f"Bearer {confined}", "Content-Type": "application/fhir+json"},
        timeout=60,
    )
    assert answer.status_code < 500, answer.text


def test_a_task_of_others_reviews_nothing(gateway: Gateway, world: World) -> None:
    """A Task about the own patient that points at the result of another."""
    panel = {**observation(OTHER, f"{PREFIX}panel"), "status": "preliminary"}
    world.put(panel)
    forged = {**task(OWN), "id": f"{PREFIX}forged"}
    world.put(forged)
    token, path = gateway.token("radiologist", "user/*.cruds"), f"Task/{PREFIX}forged"
    forged["focus"] = {"reference": f"Observation/{PREFIX}panel"}
    forged["code"] = {"coding": [{"system": TASK_TYPE.url, "code": "review-ai-result"}]}
    written = gateway.ask(token, path, "PUT", forged)
    assert written.status_code == 200
    reject = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "outcome", "valueCode": "reject"},
            {"name": "reason", "valueCodeableConcept": {"text": "x"}},
        ],
    }
    tag = written.headers["ETag"]
    assert gateway.ask(token, f"{path}/$review", "POST", reject, If_Match=tag).status_code == 422
    assert gateway.ask(token, f"{path}/$claim", "POST").status_code == 422
    assert world.read(f"Observation/{PREFIX}panel")["status"] == "preliminary"


# Tokens with several scopes


def _mixed(gateway: Gateway, scopes: str) -> str:
    asked = ("openid", "fhirUser", "launch/patient", *scopes.split())
    answer = login(gateway.issuer, "demo-app", "demo-clinician", asked, patient=OWN)
    return str(answer["access_token"])


def test_a_scope_of_another_type_opens_no_chart(gateway: Gateway, world: World) -> None:
    token = _mixed(gateway, "patient/*.rs user/Practitioner.r")
    score = "$risk-score?model=mesa-chd"
    assert gateway.ask(token, f"Patient/{OWN}/{score}").status_code == 422
    assert gateway.ask(token, f"Patient/{MATE}/{score}").status_code == 403
    assert gateway.ask(token, f"Patient/{MATE}").status_code == 404


def test_a_restricted_scope_does_not_widen_another(gateway: Gateway, world: World) -> None:
    token = _mixed(gateway, "patient/Observation.rs user/Observation.s?category=nothing")
    assert gateway.ask(token, f"Observation/{PREFIX}obs-{OWN}").status_code == 200
    assert gateway.ask(token, f"Observation/{PREFIX}obs-{MATE}").status_code == 404


@pytest.mark.parametrize("scope", ["patient/Observation.rs?status=final", "user/*.rs?status=final"])
def test_a_restricted_scope_shows_what_it_names(gateway: Gateway, world: World, scope: str) -> None:
    world.put({**observation(OWN, f"{PREFIX}obs-draft"), "status": "preliminary"})
    token = (
        _mixed(gateway, scope) if scope.startswith("patient") else gateway.token("clinician", scope)
    )
    found, path = set(), f"Observation?code={CODES}|{CODE}&_count=1&_include=Observation:has-member"
    while path:
        page = gateway.ask(token, path).json()
        found |= {entry["resource"]["id"] for entry in page.get("entry", [])}
        following = [link["url"] for link in page["link"] if link["relation"] == "next"]
        path = following[0].removeprefix(f"{gateway.base}") if following else ""
    assert f"{PREFIX}obs-{OWN}" in found
    assert found.isdisjoint({f"{PREFIX}obs-draft", f"{PREFIX}obs-{OTHER}"})
    assert gateway.ask(token, f"Observation/{PREFIX}obs-{OWN}").status_code == 200
    for name in ("obs-draft", f"obs-{OTHER}"):
        assert gateway.ask(token, f"Observation/{PREFIX}{name}").status_code == 404


def test_an_operation_does_not_redirect(gateway: Gateway, world: World) -> None:
    token = gateway.token("radiologist", "user/*.cruds")
    for path in (f"Patient/{OWN}/$risk-score/", f"Patient/{OWN}/%24risk-score"):
        answer = gateway.ask(token, f"{path}?model=mesa-chd", Host="evil.example")
        assert answer.status_code == 422
        assert "evil.example" not in answer.text + str(answer.headers)
