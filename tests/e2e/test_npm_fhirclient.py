"""The SMART JavaScript client (npm `fhirclient`) in Node, unchanged, against the gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from npm_fhirclient import LOCKED, SOURCES, Chart, ensure_modules, in_node

from fhir_ext.cli.identity import BACKEND_CLIENT, backend_key
from fhir_ext.cli.tree import Tree
from fhir_ext.issuer.flows import REDIRECT_URI, backend_token, login

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def modules() -> Path:
    return ensure_modules()


@pytest.fixture(scope="module")
def chart(tree: Tree) -> Chart:
    return Chart(tree)


@pytest.fixture
def run(modules: Path, chart: Chart, tree: Tree) -> Run:
    """Runs a scenario as the backend client, unless the state says otherwise."""

    def run(scenario: str, state: dict[str, Any] | None = None, **given: Any) -> Any:
        usual = {"serverUrl": tree.urls["gateway"], "tokenResponse": {"access_token": chart.token}}
        seen = in_node(modules, scenario, {"state": {**usual, **(state or {})}, **given})
        assert tree.urls["FHIR server"] not in json.dumps(seen)
        return seen

    return run


def test_what_is_installed_is_locked_without_the_address_of_a_registry() -> None:
    for name in LOCKED:
        text = (SOURCES / name).read_text()
        assert "http:" not in text
        assert "https:" not in text
    packages = json.loads((SOURCES / "package-lock.json").read_text())["packages"]
    assert all("integrity" in package for name, package in packages.items() if name)


def test_create_update_patch_read_and_delete(run: Run, tree: Tree) -> None:
    scope = "user/Organization.cruds"
    answer = login(tree.urls["issuer"], "demo-app", "demo-administrator", scope)
    organization = {"resourceType": "Organization", "name": "ørsted"}
    seen = run("life", {"tokenResponse": answer}, organization=organization)
    steps = ("created", "updated", "patched", "read")
    assert [seen[step]["name"] for step in steps] == ["ørsted", "updated", "patched", "patched"]
    assert [seen[step]["meta"]["versionId"] for step in steps] == ["1", "2", "3", "3"]
    assert seen["gone"]["status"] == 410


def test_all_pages_of_a_search_by_their_signed_links(run: Run, chart: Chart) -> None:
    search = f"Observation?subject=Patient/{chart.patient}&_count=2&_sort=_id"
    seen = run("pages", search=search)
    assert seen == {
        "pages": 3,
        "flat": chart.observations,
        "first": chart.observations[:2],
        "iterated": chart.observations,
    }


def test_references_are_resolved(run: Run, chart: Chart) -> None:
    search = f"Observation?subject=Patient/{chart.patient}&_count=2&_sort=_id"
    seen = run("references", observation=f"Observation/{chart.observations[0]}", search=search)
    assert seen["graph"]["subject"]["birthDate"] == "1961-04-30"
    assert seen["graph"]["performer"][0]["name"] == [{"family": "Brandt"}]
    assert seen["pages"] == 3
    assert set(seen["references"]) == {f"Patient/{chart.patient}", f"Practitioner/{chart.user}"}


def test_the_patient_and_the_user_of_a_login(run: Run, chart: Chart, tree: Tree) -> None:
    scope = "launch/patient openid fhirUser patient/*.rs user/Practitioner.r"
    answer = login(tree.urls["issuer"], "demo-app", chart.user, scope, patient=chart.patient)
    seen = run("context", {"tokenResponse": answer, "scope": scope})
    assert seen["version"] == 4
    assert (seen["patient"]["id"], seen["user"]["id"]) == (chart.patient, chart.user)
    found = {item["id"] for item in seen["observations"]}
    assert found == set(chart.observations)


def test_a_refusal_shows_the_text_of_its_operation_outcome(
    run: Run, chart: Chart, tree: Tree
) -> None:
    key = backend_key(tree.directory)
    narrow = backend_token(tree.urls["issuer"], BACKEND_CLIENT, key, "system/Patient.r")
    addresses = [f"Patient/{chart.patient}", "Observation", "Patient"]
    allowed, *refused = run("refused", _state(narrow), addresses=addresses)
    assert allowed is None
    for failure in refused:
        assert failure["status"] == 403
        outcome = _outcome(failure["message"])
        assert outcome["resourceType"] == "OperationOutcome"
        assert outcome["issue"][0]["details"]["coding"][0]["code"] == "scope"
        assert "scope" in outcome["issue"][0]["diagnostics"]
    (unknown,) = run("refused", _state(f"{narrow[:-8]}AAAAAAAA"), addresses=addresses[:1])
    assert unknown["status"] == 401
    assert "OperationOutcome" in unknown["message"]


def test_an_expired_token_is_refreshed_on_the_way(run: Run, chart: Chart, tree: Tree) -> None:
    scope = "launch/patient patient/*.rs offline_access"
    issuer, client, secret = (
        tree.urls["issuer"],
        "demo-confidential",
        "demo-confidential-is-no-secret",
    )
    answer = login(issuer, client, chart.user, scope, patient=chart.patient, secret=secret)
    state = {
        "tokenResponse": answer,
        "expiresAt": 1,
        "tokenUri": f"{issuer}/token",
        "clientId": client,
        "clientSecret": secret,
        "redirectUri": REDIRECT_URI,
    }
    seen = run("refresh", state, address=f"Patient/{chart.patient}")
    assert seen["fresh"]
    assert seen["resource"]["id"] == chart.patient


def _state(token: str) -> dict[str, Any]:
    return {"tokenResponse": {"access_token": token}}


def _outcome(message: str) -> dict[str, Any]:
    """The body that the client puts into the message of its error."""
    outcome: dict[str, Any] = json.loads(message[message.index("{") :])
    return outcome
