"""A site's version over HTTP: installed, tested by the worker, shadow, active, and back again."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
import requests
from registry_samples import LUNG, lung_folder
from tokens import Tokens

from fhir_ext.resources.ids import device_id

Json = dict[str, Any]

VERSION = "1.0.7"


class Office:
    """`/models` as the people of the demo see it, on a real installation."""

    def __init__(self, installation: Any, small_study: Callable[..., Any]) -> None:
        self.installation, self.small_study = installation, small_study
        self.base = installation.tree.urls["status page"].rstrip("/")
        self._tokens = Tokens(installation.tree.urls["issuer"], installation.tree.directory)

    def call(
        self, method: str, path: str, persona: str, body: Json | None = None
    ) -> requests.Response:
        token = self._tokens.get(persona, "user", "user/Device.rus")
        headers = {"Authorization": f"Bearer {token}"}
        return requests.request(
            method, f"{self.base}{path}", json=body, headers=headers, timeout=60
        )

    def post(self, action: str, persona: str = "administrator", body: Json | None = None) -> Json:
        answer = self.call("POST", f"/models/{LUNG}/{action}", persona, body)
        assert answer.ok, answer.text
        found: Json = answer.json()
        return found

    def devices(self) -> set[str]:
        """Ids of the Devices by which the results of a new study were made."""
        (series,) = self.small_study(self.installation.patient())
        uid = self.installation.store(series)
        self.installation.wait_done(uid)
        panels = [o for o in self.installation.results(uid)["Observation"] if o.get("hasMember")]
        assert panels
        return {panel["device"]["reference"].partition("/")[2] for panel in panels}

    def device(self, version: str) -> str:
        identity = self.installation.parts.models.version(LUNG, version).identity
        return device_id(identity)


@pytest.fixture(scope="module")
def office(installation: Any, small_study: Callable[..., Any]) -> Office:
    made = Office(installation, small_study)
    lung_folder(installation.settings.models.inbox, VERSION)
    return made


def test_a_version_comes_writes_and_goes_by_http(office: Office) -> None:
    before = office.devices()
    assert before == {office.device("1.0.0")}

    # Installed and tested by an engineer, in the worker.
    folder = {"folder": f"lung-{VERSION}"}
    assert office.call("POST", "/models", "clinician", folder).status_code == 403
    answer = office.call("POST", "/models", "ml-engineer", folder)
    assert (answer.status_code, answer.json()["state"]) == (201, "draft")
    asked = office.post(f"{VERSION}/test", "ml-engineer")

    def tested() -> Json | None:
        found: Json = office.call("GET", asked["see"], "ml-engineer").json()
        report = found["report"] or {}
        return found if report.get("request") == asked["request"] else None

    shown = office.installation.wait_for(tested, "the test in the worker")
    assert shown["test"]["passed"], shown["report"]

    # A shadow writes nothing.
    assert office.post(f"{VERSION}/shadow", "ml-engineer")["state"] == "shadow"
    assert office.devices() == before

    # Active, for which an administrator is needed, and back.
    path = f"/models/{LUNG}/{VERSION}/activate"
    assert office.call("POST", path, "ml-engineer").status_code == 403
    assert office.post(f"{VERSION}/activate")["state"] == "active"
    assert office.devices() == {office.device(VERSION)}
    assert office.post("rollback", body={"reason": "end of the trial"})["version"] == "1.0.0"
    assert office.devices() == before

    _check_devices(office)
    _check_audit(office)


def _check_devices(office: Office) -> None:
    """HAPI knows each version, and where it stands."""
    fhir = office.installation.fhir
    office.installation.wait_for(
        lambda: "retired" in str(fhir.find("Device", office.device(VERSION))),
        "a Device that says that its version is retired",
    )
    assert "active" in str(fhir.read("Device", office.device("1.0.0"))["status"])


def _check_audit(office: Office) -> None:
    """Each change is one AuditEvent that names its maker and the Devices."""
    fhir, reference = office.installation.fhir, f"Device/{office.device(VERSION)}"

    def found() -> dict[str, Json]:
        events = fhir.search("AuditEvent", {"entity": reference})
        return {
            entity["name"]: event
            for event in events
            for entity in event["entity"]
            if "name" in entity
        }

    wanted = {f"$model-{name}" for name in ("install", "test", "shadow", "activate", "rollback")}
    events = office.installation.wait_for(
        lambda: (seen := found()) and wanted <= set(seen) and seen, "the audit of all changes"
    )
    assert "demo-administrator" in str(events["$model-rollback"]["agent"])
    assert "demo-ml-engineer" in str(events["$model-install"]["agent"])
    assert office.device("1.0.0") in str(events["$model-rollback"]["entity"])
    history = office.call("GET", f"/models/{LUNG}/history", "auditor").json()["events"]
    mine = [event for event in history if event["version"] == VERSION]
    assert [e["action"] for e in mine][::-1] == [
        "install",
        "test",
        "shadow",
        "activate",
        "rollback",
    ]
    refusals = office.installation.wait_for(
        lambda: (
            fhir.search("AuditEvent", {"outcome": "4", "agent-name": "demo-clinician"})
            or fhir.search("AuditEvent", {"outcome": "4", "altid": "demo-clinician"})
        ),
        "the audit of the refusal",
    )
    assert any("$model-install" in str(event["entity"]) for event in refusals)


def test_only_tokens_of_the_issuer_come_in(office: Office) -> None:
    for headers in ({}, {"Authorization": f"Bearer {uuid.uuid4()}"}):
        answer = requests.get(f"{office.base}/models", headers=headers, timeout=60)
        assert answer.status_code == 401
        assert answer.headers["content-type"].startswith("application/fhir+json")
