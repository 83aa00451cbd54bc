"""The status page: every state in words, nothing hostile, and standing when HAPI is down."""

from __future__ import annotations

import time

import pytest
from fastapi.testclient import TestClient
from status_fixture import HOSTILE, CannedFhir, filled_repository, status_app

from fhir_ext.errors import UpstreamUnavailable
from fhir_ext.status import service
from fhir_ext.status.routes import shortened
from fhir_ext.status.service import HealthState


@pytest.fixture
def repository(tmp_path):
    repository = filled_repository(tmp_path)
    yield repository
    repository.engine.dispose()


def test_every_state_is_told_in_words(repository) -> None:
    html = TestClient(status_app(repository, CannedFhir())).get("/").text
    for words in ("done", "waiting, will be tried again", "needs a human"):
        assert words in html
    assert "Kernel not accepted" in html
    assert "seen B70f" in html
    assert "4170.3 mL" in html
    assert "withheld: Kernel not accepted" in html
    assert "fhir-ext tasks resume ImagingStudy/s2/1" in html
    assert "fhir-ext patients link 1.2.3.4 Patient/ID" in html


def test_hostile_text_is_escaped_and_scripts_are_ours_only(repository) -> None:
    response = TestClient(status_app(repository, CannedFhir())).get("/")
    assert HOSTILE not in response.text
    assert "&lt;script&gt;" in response.text
    policy = response.headers["Content-Security-Policy"]
    assert "'self'" in policy
    assert "unsafe" not in policy


def test_page_stands_when_hapi_is_down(repository) -> None:
    def down() -> HealthState:
        raise UpstreamUnavailable("the FHIR server cannot be reached")

    app = status_app(repository, CannedFhir(down=True), **{"FHIR server": down})
    response = TestClient(app).get("/")
    assert response.status_code == 200
    assert "the FHIR server cannot be reached" in response.text
    assert "lung-density: done" in response.text


def test_json_says_the_same(repository) -> None:
    status = TestClient(status_app(repository, CannedFhir())).get("/status.json").json()
    assert set(status) == {"time", "health", "queue", "studies", "unmatched", "links"}
    assert status["queue"] == {"depth": 2, "oldest_seconds": 1.5, "delayed": 1}
    done = next(study for study in status["studies"] if study["state"] == "done")
    volume, laa = done["services"][0]["measurements"]
    assert volume["regions"]["lungs"]["value"] == 4170.3
    assert laa["regions"]["lungs"]["reason"] == "kernel"
    assert done["services"][0]["review"] == "preliminary"


def test_limit_is_bounded(repository) -> None:
    client = TestClient(status_app(repository, CannedFhir()))
    assert len(client.get("/status.json?limit=1").json()["studies"]) == 1
    assert client.get("/status.json?limit=100000").status_code == 400


def test_readiness_names_what_is_missing(repository) -> None:
    app = status_app(
        repository,
        CannedFhir(),
        good=lambda: HealthState(True, "fine"),
        bad=lambda: HealthState(False, "not there"),
    )
    response = TestClient(app).get("/health/ready")
    assert response.status_code == 503
    assert response.json()["parts"]["bad"] == {"ok": False, "detail": "not there"}
    assert TestClient(app).get("/health/live").status_code == 200


def test_a_hanging_part_does_not_hang_readiness(repository, monkeypatch) -> None:
    monkeypatch.setattr(service, "CHECK_LIMIT", 0.2)

    def hangs() -> HealthState:
        time.sleep(2)
        return HealthState(True, "at last")

    begin = time.monotonic()
    response = TestClient(status_app(repository, CannedFhir(), hangs=hangs)).get("/health/ready")
    assert time.monotonic() - begin < 1.5
    assert response.json()["parts"]["hangs"]["detail"] == "did not answer in time"


def test_assets_are_served_and_nothing_else(repository) -> None:
    client = TestClient(status_app(repository, CannedFhir()))
    assert client.get("/assets/status.css").headers["content-type"].startswith("text/css")
    missing = client.get("/assets/..%2froutes.py")
    assert missing.status_code == 404


def test_long_uids_are_shortened() -> None:
    assert shortened("1.2.3") == "1.2.3"
    assert len(shortened("1." * 32)) == 21
