"""`/models` over HTTP: who may do what, what is answered, what is never taken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from registry_samples import LUNG, OPERATOR, Desk, lung_folder
from starlette.testclient import TestClient

from fhir_ext.audit.record import AccessRecord
from fhir_ext.auth.grant import Grant, Persona
from fhir_ext.auth.scopes import parse_scopes
from fhir_ext.errors import UnauthorizedError
from fhir_ext.gateway.throttle import Throttle
from fhir_ext.outcome import install_error_handlers
from models.lifecycle import State
from operations.model_registry.actor import MODEL_CHANGED
from operations.model_registry.recall import RECALL
from operations.model_registry.rights import RIGHTS, Action, rights_of
from operations.model_registry.routes import Callers, model_router
from operations.model_registry.service import TEST
from operations.model_registry.states import seed

BASE = f"/models/{LUNG}/1.1.0"

#: Each action as a request on a version that is a tested draft.
REQUESTS = {
    Action.LIST: ("GET", "/models", None, 200),
    Action.SHOW: ("GET", BASE, None, 200),
    Action.HISTORY: ("GET", f"/models/{LUNG}/history", None, 200),
    Action.INSTALL: ("POST", "/models", {"folder": "lung-1.2.0"}, 201),
    Action.TEST: ("POST", f"{BASE}/test", None, 202),
    Action.SHADOW: ("POST", f"{BASE}/shadow", None, 200),
    Action.CANARY: ("POST", f"{BASE}/canary", {"share": 0.1}, 200),
    Action.ACTIVATE: ("POST", f"{BASE}/activate", None, 200),
    Action.RETIRE: ("POST", f"{BASE}/retire", {"reason": "not needed"}, 200),
    Action.ROLLBACK: ("POST", f"/models/{LUNG}/rollback", None, 200),
    Action.RECALL: ("POST", f"{BASE}/recall", {"reason": "wrong side"}, 202),
}


def granted(*personas: Persona, scope: str = "user/Device.rus", subject: str = "somebody") -> Grant:
    return Grant(subject, "app-1", frozenset(personas), parse_scopes(scope), 2e9)


class Site:
    """The routes over a registry with one shipped and one tested version."""

    def __init__(self, tmp_path: Path) -> None:
        self.desk = Desk(tmp_path)
        seed(self.desk.store, self.desk.registry, self.desk.queue)
        self.desk.tested("1.1.0")
        lung_folder(self.desk.settings.inbox, "1.2.0")
        self.noted: list[AccessRecord] = []
        callers = Callers(lambda _: None, self.verify, self.noted.append, Throttle(6000, 1000))
        app = FastAPI()
        install_error_handlers(app)
        app.include_router(model_router(self.desk.service, callers))
        self.client = TestClient(app)

    def verify(self, token: str) -> Grant:
        if token not in set(Persona):
            raise UnauthorizedError("not ours", code="invalid-token")
        return granted(Persona(token), subject=f"{token}-1")

    def call(self, method: str, path: str, body: object = None, persona: str = "administrator"):
        headers = {"Authorization": f"Bearer {persona}"}
        return self.client.request(method, path, json=body, headers=headers)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.desk.close()


def code_of(answer) -> str:
    body = answer.json()
    assert body["resourceType"] == "OperationOutcome"
    return body["issue"][0]["details"]["coding"][0]["code"]


@pytest.mark.parametrize("persona", list(Persona))
def test_rights_are_those_of_the_table(site: Site, persona: Persona) -> None:
    allowed = RIGHTS.get(persona, frozenset())
    for action, (method, path, body, status) in REQUESTS.items():
        answer = site.call(method, path, body, persona)
        if action in allowed:
            assert answer.status_code == status, (action, answer.text)
        else:
            assert (answer.status_code, code_of(answer)) == (403, "persona"), action
    refused = [record.operation for record in site.noted]
    assert refused == [f"model-{action}" for action in REQUESTS if action not in allowed]


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        ("user/*.cruds", set(Action)),
        ("user/Device.rs", {Action.LIST, Action.SHOW, Action.HISTORY}),
        ("user/Device.u", set(Action) - {Action.LIST, Action.SHOW, Action.HISTORY}),
        ("user/Device.rus?type=x", set()),
        ("patient/*.cruds", set()),
        ("user/Observation.cruds openid fhirUser", set()),
        ("", set()),
    ],
)
def test_an_app_gets_no_more_than_it_asked_for(scope: str, allowed: set[Action]) -> None:
    assert rights_of(granted(Persona.ADMINISTRATOR, scope=scope)) == allowed


def test_the_table_itself() -> None:
    engineer = rights_of(granted(Persona.ML_ENGINEER))
    assert rights_of(granted(Persona.ADMINISTRATOR)) == frozenset(Action)
    assert Action.SHADOW in engineer
    assert not engineer & {Action.CANARY, Action.ACTIVATE, Action.RECALL}
    assert rights_of(granted(Persona.AUDITOR)) == {Action.LIST, Action.SHOW, Action.HISTORY}
    nobody = granted(Persona.CLINICIAN, Persona.RADIOLOGIST, Persona.PATIENT)
    assert rights_of(nobody) == frozenset()
    assert set(REQUESTS) == set(Action)


@pytest.mark.parametrize("header", [None, "Basic abc", "Bearer ", "Bearer nonsense"])
def test_without_a_token_nothing_is_shown(site: Site, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method, path, body, _ in REQUESTS.values():
        answer = site.client.request(method, path, json=body, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_version_is_shown_whole(site: Site) -> None:
    found = site.call("GET", BASE).json()
    assert found["state"] == "draft"
    assert found["test"]["passed"] is True
    assert found["report"]["cases"][0]["name"] == "phantom"
    assert found["manifest"]["intended_use"]
    assert found["card"].startswith("# Lung density")
    assert [event["action"] for event in found["events"]] == ["test", "install"]


def test_a_version_whose_files_are_gone_is_shown_without_them(site: Site) -> None:
    manifest = site.desk.settings.folder / LUNG / "1.1.0" / "manifest.yaml"
    manifest.unlink()
    found = site.call("GET", BASE).json()
    assert (found["manifest"], found["card"]) == (None, None)


def test_the_same_folder_again_is_no_new_version(site: Site) -> None:
    first = site.call("POST", "/models", {"folder": "lung-1.2.0"})
    assert first.headers["location"] == f"/models/{LUNG}/1.2.0"
    again = site.call("POST", "/models", {"folder": "lung-1.2.0"})
    assert (first.status_code, again.status_code) == (201, 200)


@pytest.mark.parametrize(
    "folder", ["../lung-1.2.0", "/etc", "a/../b", ".hidden", "", "x" * 101, "a\n"]
)
def test_no_path_leads_out_of_the_inbox(site: Site, folder: str) -> None:
    for path in ("/models", "/models/validate"):
        assert site.call("POST", path, {"folder": folder}).status_code == 400


def test_a_folder_is_validated_and_not_installed(site: Site) -> None:
    lung_folder(site.desk.settings.inbox, "1.3.0", review="often")
    wrong = site.call("POST", "/models/validate", {"folder": "lung-1.3.0"}, "ml-engineer")
    assert wrong.status_code == 200
    (problem,) = wrong.json()["problems"]
    assert (wrong.json()["valid"], problem["field"]) == (False, "review")
    assert problem["line"] > 1
    right = site.call("POST", "/models/validate", {"folder": "lung-1.2.0"}, "ml-engineer")
    assert right.json() == {"valid": True, "problems": []}
    refused = site.call("POST", "/models/validate", {"folder": "lung-1.2.0"}, "clinician")
    assert (refused.status_code, code_of(refused)) == (403, "persona")
    assert "1.2.0" not in {row.version for row in site.desk.service.versions(LUNG)}


def test_a_wrong_folder_is_answered_with_every_problem(site: Site) -> None:
    lung_folder(site.desk.settings.inbox, "1.3.0", review="often", licence="")
    answer = site.call("POST", "/models", {"folder": "lung-1.3.0"})
    assert answer.status_code == 422
    issues = answer.json()["issue"]
    assert len(issues) == 2
    assert all(issue["diagnostics"].startswith("line ") for issue in issues)
    assert str(site.desk.tmp_path) not in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{BASE}/canary", {}),
        (f"{BASE}/canary", {"share": 0}),
        (f"{BASE}/canary", {"share": 1.5}),
        (f"{BASE}/canary", {"share": 0.5, "more": 1}),
        (f"{BASE}/recall", {}),
        (f"{BASE}/recall", {"reason": ""}),
        (f"{BASE}/retire", {"reason": "x" * 501}),
        ("/models/UPPER/1.1.0/activate", None),
        (f"/models/{LUNG}/latest/activate", None),
    ],
)
def test_bodies_and_names_that_are_wrong(site: Site, path: str, body: object) -> None:
    answer = site.call("POST", path, body)
    assert answer.status_code == 400
    assert code_of(answer) == "bad-request"


def test_unknown_versions_are_404(site: Site) -> None:
    for method, path in [("GET", f"/models/{LUNG}/9.9.9"), ("POST", f"/models/{LUNG}/9.9.9/test")]:
        answer = site.call(method, path)
        assert (answer.status_code, code_of(answer)) == (404, "model-not-installed")


def test_a_test_is_left_to_a_worker(site: Site) -> None:
    answer = site.call("POST", f"{BASE}/test", persona="ml-engineer")
    (payload,) = site.desk.queue.named(TEST)
    assert answer.json() == {"request": payload["request"], "see": BASE}
    assert (payload["who"], payload["personas"]) == ("ml-engineer-1", ["ml-engineer"])


def test_changes_say_who_made_them(site: Site) -> None:
    site.call("POST", f"{BASE}/activate")
    site.call("POST", f"/models/{LUNG}/rollback", {"reason": "too many findings"})
    row = site.desk.service.version(LUNG, "1.0.0")
    assert row.state is State.ACTIVE
    events = site.call("GET", f"/models/{LUNG}/history").json()["events"]
    assert {(e["who"], e["how"]) for e in events[:4]} == {("administrator-1", "rest")}
    assert events[0]["reason"] == "too many findings"
    (record,) = site.desk.queue.named(MODEL_CHANGED)[-1]["records"]
    assert (record["client_id"], record["http_status"]) == ("app-1", 200)
    assert record["personas"] == ("administrator",)


def test_a_recall_is_taken_into_the_queue(site: Site) -> None:
    site.call("POST", f"{BASE}/recall", {"reason": "wrong side"})
    (payload,) = site.desk.queue.named(RECALL)
    assert "administrator-1" in str(payload)
    assert site.desk.service.version(LUNG, "1.1.0").state is State.RECALLED


def test_who_asks_too_often_is_slowed_down(site: Site) -> None:
    callers = Callers(lambda _: None, site.verify, site.noted.append, Throttle(1, 2))
    app = FastAPI()
    install_error_handlers(app)
    app.include_router(model_router(site.desk.service, callers))
    client = TestClient(app)
    statuses = [client.get("/models").status_code for _ in range(4)]
    assert statuses == [401, 401, 429, 429]


def test_an_engineer_cannot_stop_a_canary(site: Site) -> None:
    site.desk.service.canary(LUNG, "1.1.0", 0.1, OPERATOR)
    answer = site.call("POST", f"{BASE}/shadow", persona="ml-engineer")
    assert (answer.status_code, code_of(answer)) == (403, "persona")
