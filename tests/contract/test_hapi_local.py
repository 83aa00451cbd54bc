"""What this project relies on in HAPI FHIR, asked of a real one.

`FHIR_EXT_TEST_HAPI_URL` names another server (that of `docker/compose.yaml`) to ask the same;
it must reach this machine's loopback. Tests that stop the server run on our own only.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from fhir_ext.embedded.hapi import HapiServer, ensure_hapi
from fhir_ext.embedded.process import free_port, wait_until

DCM = "http://dicom.nema.org/resources/ontology/DCM"
CANONICAL = "https://w3id.org/fhir-ext/test"

# The first run on a machine builds HAPI, which is mostly downloads.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HapiServer]:
    if os.environ.get("FHIR_EXT_TEST_HAPI_URL"):
        pytest.skip("runs on our own server only")
    folder = tmp_path_factory.mktemp("hapi")
    hapi = HapiServer(ensure_hapi(print), folder / "data", free_port())
    hapi.start(folder / "hapi.log")
    try:
        hapi.wait_ready()
        yield hapi
    finally:
        hapi.stop()


@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest) -> str:
    named = os.environ.get("FHIR_EXT_TEST_HAPI_URL")
    return named or str(request.getfixturevalue("server").base_url)


@pytest.fixture(scope="module")
def http() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Content-Type"] = "application/fhir+json"
        yield session


@dataclass
class Notice:
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Listener:
    """A rest-hook endpoint that keeps what it is sent."""

    url: str = ""
    notices: queue.Queue[Notice] = field(default_factory=queue.Queue)

    def next(self) -> Notice:
        return self.notices.get(timeout=30)


@pytest.fixture
def listener() -> Iterator[Listener]:
    kept = Listener()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            kept.notices.put(Notice(self.command, self.path, headers, json.loads(body)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        kept.url = f"http://127.0.0.1:{httpd.server_port}/hooks"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield kept
        httpd.shutdown()
        thread.join()


def study(modality: str = "CT", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "ImagingStudy",
        "id": str(uuid.uuid4()),
        "status": "available",
        "subject": {"reference": "Patient/not-there-yet"},
        "series": [
            {"uid": f"2.25.{uuid.uuid4().int}", "modality": {"system": DCM, "code": modality}}
        ],
        **more,
    }


def put(http: requests.Session, base: str, resource: dict[str, Any]) -> requests.Response:
    return http.put(f"{base}/{resource['resourceType']}/{resource['id']}", json=resource)


def total(http: requests.Session, url: str) -> int:
    return int(http.get(url + "&_summary=count").json()["total"])


@contextmanager
def active_subscription(http: requests.Session, base: str, endpoint: str) -> Iterator[None]:
    """A Subscription on CT studies that sends the resource to `endpoint`, while it lasts."""
    resource = {
        "resourceType": "Subscription",
        "id": str(uuid.uuid4()),
        "status": "requested",
        "reason": "test",
        "criteria": f"ImagingStudy?modality={DCM}|CT",
        "channel": {
            "type": "rest-hook",
            "endpoint": endpoint,
            "payload": "application/fhir+json",
            "header": ["X-Hook-Secret: of-this-test"],
        },
    }
    assert put(http, base, resource).status_code == 201
    url = f"{base}/Subscription/{resource['id']}"
    wait_until(lambda: http.get(url).json()["status"] == "active", 60, "activation")
    yield
    assert http.delete(url).status_code == 200


@pytest.fixture
def subscription(base: str, http: requests.Session, listener: Listener) -> Iterator[None]:
    with active_subscription(http, base, listener.url):
        yield


def test_client_ids_of_any_form_are_kept(base: str, http: requests.Session) -> None:
    for identity in (str(uuid.uuid4()), "12345", "study-a.1"):
        patient = {"resourceType": "Patient", "id": identity, "active": True}
        assert put(http, base, patient).status_code in (200, 201)
        assert http.get(f"{base}/Patient/{identity}").json()["active"] is True


def test_server_ids_are_uuids(base: str, http: requests.Session) -> None:
    created = http.post(f"{base}/Patient", json={"resourceType": "Patient"})
    assert created.status_code == 201
    uuid.UUID(created.json()["id"])


def test_same_content_makes_no_new_version(base: str, http: requests.Session) -> None:
    resource = study()
    assert put(http, base, resource).json()["meta"]["versionId"] == "1"
    assert put(http, base, resource).json()["meta"]["versionId"] == "1"
    changed = put(http, base, {**resource, "numberOfInstances": 3})
    assert changed.json()["meta"]["versionId"] == "2"


def test_update_of_a_version_that_is_not_the_latest_is_refused(
    base: str, http: requests.Session
) -> None:
    resource = study()
    put(http, base, resource)
    put(http, base, {**resource, "numberOfInstances": 3})
    url = f"{base}/ImagingStudy/{resource['id']}"
    late = http.put(url, json={**resource, "numberOfSeries": 1}, headers={"If-Match": 'W/"1"'})
    assert late.status_code in (409, 412)
    assert "numberOfSeries" not in http.get(url).json()


def test_search_sees_what_was_just_written(base: str, http: requests.Session) -> None:
    system = f"urn:uuid:{uuid.uuid4()}"
    url = f"{base}/Patient?identifier={system}|"
    assert total(http, url) == 0
    for value in ("a", "b"):
        put(
            http,
            base,
            {
                "resourceType": "Patient",
                "id": str(uuid.uuid4()),
                "identifier": [{"system": system, "value": value}],
            },
        )
    # A bare `|`, as people and libraries write it.
    assert total(http, url) == 2
    assert total(http, url + "b") == 1


def test_modality_is_found_by_its_series(base: str, http: requests.Session) -> None:
    resource = study("MR")
    put(http, base, resource)
    url = f"{base}/ImagingStudy?_id={resource['id']}&modality={DCM}|"
    assert total(http, url + "MR") == 1
    assert total(http, url + "CT") == 0


def all_pages(http: requests.Session, url: str, headers: dict[str, str] | None = None) -> list[str]:
    """Ids of all matches, following `next` links."""
    found: list[str] = []
    following: str | None = url
    while following:
        page = http.get(following, headers=headers).json()
        found += [entry["resource"]["id"] for entry in page["entry"]]
        following = next((k["url"] for k in page["link"] if k["relation"] == "next"), None)
    return found


def test_sweep_by_last_updated_pages_through_everything(base: str, http: requests.Session) -> None:
    """`no-store` would skip HAPI's stored search, and with it every page after the first."""
    tag = {"system": CANONICAL, "code": str(uuid.uuid4())}
    written = [study(meta={"tag": [tag]}) for _ in range(5)]
    first = put(http, base, written[0]).json()["meta"]["lastUpdated"]
    for resource in written[1:]:
        put(http, base, resource)
    query = f"_tag={CANONICAL}|{tag['code']}&_lastUpdated=ge{first.replace('+', '%2B')}"
    url = f"{base}/ImagingStudy?{query}&_sort=_lastUpdated&_count=2"
    expected = [resource["id"] for resource in written]
    assert all_pages(http, url) == expected
    assert all_pages(http, url, {"Cache-Control": "no-cache"}) == expected
    assert all_pages(http, url, {"Cache-Control": "no-store"}) == expected[:2]


def transaction(http: requests.Session, base: str, *resources: dict[str, Any]) -> requests.Response:
    entries = [
        {
            "resource": resource,
            "request": {"method": "PUT", "url": f"{resource['resourceType']}/{resource['id']}"},
        }
        for resource in resources
    ]
    return http.post(base, json={"resourceType": "Bundle", "type": "transaction", "entry": entries})


def test_transaction_is_all_or_nothing(base: str, http: requests.Session) -> None:
    good, bad = study(), study()
    del bad["series"][0]["uid"]
    bad["id"] = "not/an/id"
    assert transaction(http, base, good, bad).status_code == 400
    assert http.get(f"{base}/ImagingStudy/{good['id']}").status_code == 404
    other = study()
    answer = transaction(http, base, good, other)
    assert answer.status_code == 200
    assert [e["response"]["status"][:3] for e in answer.json()["entry"]] == ["201", "201"]


def test_conditional_create_makes_one(base: str, http: requests.Session) -> None:
    system = f"urn:uuid:{uuid.uuid4()}"
    patient = {"resourceType": "Patient", "identifier": [{"system": system, "value": "1"}]}
    condition = {"If-None-Exist": f"identifier={system}|1"}
    answers = [http.post(f"{base}/Patient", json=patient, headers=condition) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json()["id"] == answers[1].json()["id"]


def observation(**more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "preliminary",
        "code": {"text": "test"},
        "subject": {"reference": "Patient/not-there-yet"},
        **more,
    }


def issues(http: requests.Session, base: str, resource: dict[str, Any]) -> list[str]:
    """`severity text` of each issue that `$validate` finds."""
    answer = http.post(f"{base}/{resource['resourceType']}/$validate", json=resource)
    assert answer.status_code == 200
    return [f"{issue['severity']} {issue['diagnostics']}" for issue in answer.json()["issue"]]


def test_validate_finds_broken_invariants(base: str, http: requests.Session) -> None:
    good = observation(valueQuantity={"value": 1})
    assert not [text for text in issues(http, base, good) if text.startswith("error")]
    # obs-6: dataAbsentReason only where there is no value.
    bad = {**good, "dataAbsentReason": {"text": "none"}}
    assert [
        text for text in issues(http, base, bad) if text.startswith("error") and "obs-6" in text
    ]


def test_loaded_conformance_resources_count_at_once(base: str, http: requests.Session) -> None:
    """Also after they were asked for in vain: HAPI remembers that something is unknown."""
    name = str(uuid.uuid4())
    system, profile = f"{CANONICAL}/CodeSystem/{name}", f"{CANONICAL}/StructureDefinition/{name}"
    coded = observation(code={"coding": [{"system": system, "code": "known"}]})
    profiled = observation(meta={"profile": [profile]})
    assert [text for text in issues(http, base, coded) if "CodeSystem is unknown" in text]
    assert [text for text in issues(http, base, profiled) if "could not be found" in text]

    code_system = {
        "resourceType": "CodeSystem",
        "id": name,
        "url": system,
        "status": "active",
        "content": "complete",
        "concept": [{"code": "known"}],
    }
    structure = {
        "resourceType": "StructureDefinition",
        "id": name,
        "url": profile,
        "name": "Test",
        "status": "active",
        "kind": "resource",
        "abstract": False,
        "type": "Observation",
        "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Observation",
        "derivation": "constraint",
        "differential": {
            "element": [{"id": "Observation.method", "path": "Observation.method", "min": 1}]
        },
    }
    assert transaction(http, base, code_system, structure).status_code == 200
    assert not [text for text in issues(http, base, coded) if name in text]
    assert [text for text in issues(http, base, profiled) if "Observation.method: minimum" in text]

    coded["code"]["coding"][0]["code"] = "unknown"
    assert [text for text in issues(http, base, coded) if "Code is not found" in text]
    code_system["concept"] = [{"code": "unknown"}]
    assert put(http, base, code_system).status_code == 200
    assert not [text for text in issues(http, base, coded) if name in text]


def test_rest_hook_sends_the_resource(
    base: str, http: requests.Session, listener: Listener, subscription: None
) -> None:
    put(http, base, study("MR"))
    resource = study("CT")
    put(http, base, resource)
    notice = listener.next()
    assert notice.method == "PUT"
    assert notice.path == f"/hooks/ImagingStudy/{resource['id']}"
    assert notice.headers["x-hook-secret"] == "of-this-test"
    assert notice.headers["content-type"].startswith("application/fhir+json")
    assert notice.headers["if-match"] == 'W/"1"'
    assert notice.body["id"] == resource["id"]
    assert notice.body["meta"]["versionId"] == "1"
    assert notice.body["series"] == resource["series"]


def test_every_write_is_told_once(
    base: str, http: requests.Session, listener: Listener, subscription: None
) -> None:
    written = [study("CT") for _ in range(20)]
    for resource in written[:10]:
        put(http, base, resource)
    transaction(http, base, *written[10:])
    told = [listener.next().body["id"] for _ in written]
    # Order is not kept: HAPI delivers in two threads.
    assert sorted(told) == sorted(resource["id"] for resource in written)
    # An update without change is no event; the changed one after it is.
    put(http, base, written[0])
    put(http, base, {**written[1], "numberOfInstances": 3})
    last = listener.next()
    assert (last.body["id"], last.body["meta"]["versionId"]) == (written[1]["id"], "2")
    assert listener.notices.empty()


def test_data_are_kept_over_a_restart(
    server: HapiServer, http: requests.Session, tmp_path: Path
) -> None:
    resource = study()
    put(http, server.base_url, resource)
    before = http.get(f"{server.base_url}/ImagingStudy/{resource['id']}").json()
    server.stop()
    assert not server.child.alive()
    server.start(tmp_path / "hapi.log")
    server.wait_ready()
    assert http.get(f"{server.base_url}/ImagingStudy/{resource['id']}").json() == before


# Another process, because a kill in the middle of writes needs writes in the middle.
WRITER = """
import sys, uuid, requests
session = requests.Session()
session.trust_env = False
while True:
    identity = str(uuid.uuid4())
    answer = session.put(
        f"{sys.argv[1]}/Patient/{identity}", json={"resourceType": "Patient", "id": identity},
        headers={"Content-Type": "application/fhir+json"},
    )
    if answer.status_code == 201:
        print(identity, flush=True)
"""


def test_a_kill_loses_nothing_that_was_answered(
    server: HapiServer, http: requests.Session, tmp_path: Path
) -> None:
    answered = tmp_path / "answered.txt"
    with answered.open("w") as output:
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, server.base_url],
            stdout=output,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: len(answered.read_text().split()) >= 100, 60, "a hundred writes")
            server.child.kill()
            writer.wait(timeout=60)
        finally:
            writer.kill()
            writer.wait()
    identities = answered.read_text().split()
    server.start(tmp_path / "hapi.log")
    server.wait_ready()
    lost = [
        identity
        for identity in identities
        if http.get(f"{server.base_url}/Patient/{identity}").status_code != 200
    ]
    assert len(identities) >= 100
    assert lost == []


@pytest.fixture(scope="module")
def from_wheels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HapiServer]:
    """The other build, whose poll for changed resources comes too late for any test."""
    folder = tmp_path_factory.mktemp("hapi-wheels")
    hapi = HapiServer(ensure_hapi(print, "wheels"), folder / "data", free_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAPI_FHIR_SUBSCRIPTION_POLLINGINTERVALMS", "600000")
        hapi.start(folder / "hapi.log")
    try:
        hapi.wait_ready()
        yield hapi
    finally:
        hapi.stop()


def test_a_build_from_python_wheels_works_as_well(
    from_wheels: HapiServer, http: requests.Session
) -> None:
    assert put(http, from_wheels.base_url, study()).status_code == 201
    found = issues(http, from_wheels.base_url, observation())
    assert not [text for text in found if text.startswith("error")]


def test_notices_do_not_wait_for_the_poll(
    from_wheels: HapiServer, http: requests.Session, listener: Listener
) -> None:
    base = from_wheels.base_url
    with active_subscription(http, base, listener.url):
        written = [study("CT") for _ in range(5)]
        for resource in written:
            put(http, base, resource)
        told = [listener.next().body["id"] for _ in written]
    assert sorted(told) == sorted(resource["id"] for resource in written)
