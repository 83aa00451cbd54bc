"""The password before the operator's pages, on the application as it is served."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from queueing import migrated

from fhir_ext.app import create_app
from fhir_ext.settings import ServerSettings
from fhir_ext.store.engine import create_store_engine, migrate

PASSWORD = "a-pässword: of the operators"
CLOSED = ("/", "/status.json", "/metrics", "/openapi.json", "/assets/status.css", "/nothing", "//")
#: Paths with the status that they have without a password of ours.
OPEN = (("/health/live", 200), ("/models", 401), ("/fhir/Patient/1", 401))


def _basic(password: str, user: str = "anyone") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture(scope="module", params=[None, PASSWORD], ids=["without", "with"])
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    folder: Path = tmp_path_factory.mktemp("serve")
    settings = migrated(folder)
    engine = create_store_engine(settings.database.url)
    migrate(engine)
    engine.dispose()
    server = ServerSettings(status_password=request.param)
    audit = settings.audit.model_copy(update={"journal": folder / "journal"})
    settings = settings.model_copy(update={"server": server, "audit": audit})
    with TestClient(create_app(settings), follow_redirects=False) as opened:
        opened.password = request.param
        yield opened


@pytest.mark.parametrize(
    "headers",
    [
        {},
        _basic("wrong"),
        _basic(""),
        _basic(PASSWORD + "x"),
        {"Authorization": "Basic !"},
        {"Authorization": f"Bearer {base64.b64encode(PASSWORD.encode()).decode()}"},
    ],
    ids=["none", "wrong", "empty", "longer", "not base64", "bearer"],
)
def test_a_passer_by_sees_nothing(client: TestClient, headers: dict[str, str]) -> None:
    for path in CLOSED if client.password else ():
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert answer.json()["resourceType"] == "OperationOutcome"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_operator_sees_all(client: TestClient) -> None:
    headers = _basic(PASSWORD) if client.password else {}
    for path in ("/", "/status.json", "/metrics", "/assets/status.css"):
        assert client.get(path, headers=headers).status_code == 200, path


@pytest.mark.parametrize(("path", "status"), OPEN)
def test_what_programs_ask_for_is_as_before(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert "Basic" not in answer.headers.get("www-authenticate", "")


def test_a_hook_needs_its_own_secret_only(client: TestClient) -> None:
    secret = {"If-Match": 'W/"1"', "X-Fhir-Ext-Hook-Secret": "a-secret-of-sixteen-characters"}
    assert (
        client.put(
            "/hooks/ImagingStudy/1",
            headers=secret,
            json={"resourceType": "ImagingStudy", "id": "1"},
        ).status_code
        == 204
    )


@pytest.mark.parametrize("password", ["", "short", "changeme"])
def test_a_password_that_is_none(password: str) -> None:
    with pytest.raises(ValidationError):
        ServerSettings(status_password=password)
