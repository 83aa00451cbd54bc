"""Every interaction of FHIR through the gateway, on the real HAPI with a real token."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from fhirpy import SyncFHIRClient

from fhir_ext.cli.identity import BACKEND_CLIENT, backend_key
from fhir_ext.cli.tree import Tree
from fhir_ext.issuer.flows import backend_token

JSON = {"Content-Type": "application/fhir+json"}
SYSTEM = "https://w3id.org/fhir-ext/test/gateway"


class Gateway:
    """The gateway with one token."""

    def __init__(self, base: str, upstream: str, token: str) -> None:
        self.base, self.upstream, self.token = base, upstream, token
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {token}"
        self.prefix = f"gw-{uuid.uuid4().hex[:8]}"

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        url = path if path.startswith("http") else self.base + path
        response = self.session.request(method, url, timeout=30, **options)
        assert self.upstream not in response.text, "an address of the inner server is shown"
        return response

    def write(self, resource: dict[str, Any], **headers: str) -> requests.Response:
        path = f"/{resource['resourceType']}/{resource['id']}"
        return self.call("PUT", path, data=json.dumps(resource), headers={**JSON, **headers})

    def patient(self, key: str, /, **more: Any) -> dict[str, Any]:
        return {
            "resourceType": "Patient",
            "id": f"{self.prefix}-{key}",
            "identifier": [{"system": SYSTEM, "value": f"{self.prefix}-{key}"}],
            **more,
        }


@pytest.fixture(scope="module")
def gateway(tree: Tree) -> Iterator[Gateway]:
    key = backend_key(tree.directory)
    token = backend_token(tree.urls["issuer"], BACKEND_CLIENT, key, "system/*.cruds")
    yield Gateway(tree.urls["gateway"], tree.urls["FHIR server"], token)


def test_a_resource_through_its_life(gateway: Gateway) -> None:
    patient = gateway.patient("life", gender="female")
    created = gateway.write(patient)
    assert created.status_code == 201
    # HAPI gives no Location where the caller gave the id.
    assert created.headers["Content-Location"].startswith(f"{gateway.base}/Patient/{patient['id']}")
    read = gateway.call("GET", f"/Patient/{patient['id']}")
    assert (read.status_code, read.json()["gender"]) == (200, "female")
    tag = read.headers["ETag"]
    same = gateway.call("GET", f"/Patient/{patient['id']}", headers={"If-None-Match": tag})
    assert same.status_code == 304
    assert gateway.write({**patient, "gender": "male"}, **{"If-Match": tag}).status_code == 200
    stale = gateway.write({**patient, "gender": "other"}, **{"If-Match": tag})
    assert stale.status_code in (409, 412)
    first = gateway.call("GET", f"/Patient/{patient['id']}/_history/1")
    assert first.json()["gender"] == "female"
    history = gateway.call("GET", f"/Patient/{patient['id']}/_history")
    assert [entry["resource"]["gender"] for entry in history.json()["entry"]] == ["male", "female"]
    assert all(entry["fullUrl"].startswith(gateway.base) for entry in history.json()["entry"])


def test_create_update_and_conditional_forms(gateway: Gateway) -> None:
    patient = gateway.patient("conditional")
    del patient["id"]
    match = f"identifier={SYSTEM}|{gateway.prefix}-conditional"
    body = json.dumps(patient)
    first = gateway.call("POST", "/Patient", data=body, headers={**JSON, "If-None-Exist": match})
    again = gateway.call("POST", "/Patient", data=body, headers={**JSON, "If-None-Exist": match})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.headers["Location"].startswith(f"{gateway.base}/Patient/")
    changed = json.dumps({**patient, "gender": "other"})
    updated = gateway.call("PUT", f"/Patient?{match}", data=changed, headers=JSON)
    assert updated.status_code == 200
    minimal = gateway.call(
        "POST", "/Patient", data=body, headers={**JSON, "Prefer": "return=minimal"}
    )
    assert (minimal.status_code, minimal.content) == (201, b"")


def test_searches_by_get_and_post_and_their_pages(gateway: Gateway) -> None:
    for number in range(5):
        gateway.write(gateway.patient(f"page-{number}", birthDate=f"19{number}0-01-01"))
    ids = ",".join(f"{gateway.prefix}-page-{number}" for number in range(5))
    seen: list[str] = []
    address = f"/Patient?_id={ids}&_count=2&_sort=_id"
    while address:
        bundle = gateway.call("GET", address).json()
        seen += [entry["resource"]["id"] for entry in bundle["entry"]]
        links = {link["relation"]: link["url"] for link in bundle["link"]}
        assert all(url.startswith(gateway.base) for url in links.values())
        address = links.get("next", "")
    assert seen == ids.split(",")
    posted = gateway.call("POST", "/Patient/_search", data={"_id": ids, "_summary": "count"})
    assert posted.json()["total"] == 5
    form = gateway.call("POST", "/Patient/_search?_summary=count", data={"_id": ids})
    assert form.json()["total"] == 5


def test_formats_compression_and_pretty_printing(gateway: Gateway) -> None:
    gateway.write(gateway.patient("format", name=[{"family": "ä" * 3000}]))
    path = f"/Patient/{gateway.prefix}-format"
    xml = gateway.call("GET", f"{path}?_format=xml")
    assert xml.headers["Content-Type"].startswith("application/fhir+xml")
    assert xml.text.startswith("<Patient")
    assert "\n  " in gateway.call("GET", f"{path}?_pretty=true").text
    zipped = gateway.session.get(
        gateway.base + path, headers={"Accept-Encoding": "gzip"}, stream=True, timeout=30
    )
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(zipped.raw.read()))["id"] == f"{gateway.prefix}-format"
    plain = gateway.call("GET", path, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    sent = gzip.compress(json.dumps(gateway.patient("zipped")).encode())
    put = gateway.call(
        "PUT",
        f"/Patient/{gateway.prefix}-zipped",
        data=sent,
        headers={**JSON, "Content-Encoding": "gzip"},
    )
    assert put.status_code == 201


def test_an_answer_larger_than_the_buffer_is_streamed_whole(gateway: Gateway) -> None:
    for number in range(3):
        text = f"{number} see {gateway.base}/Patient " + "x" * 60_000
        gateway.write(
            gateway.patient(
                f"large-{number}",
                name=[{"text": text}],
                generalPractitioner=[{"reference": f"{gateway.base}/Practitioner/none"}],
            )
        )
    ids = ",".join(f"{gateway.prefix}-large-{number}" for number in range(3))
    response = gateway.session.get(f"{gateway.base}/Patient?_id={ids}&_sort=_id", timeout=30)
    entries = response.json()["entry"]
    assert [entry["resource"]["id"] for entry in entries] == ids.split(",")
    assert all(entry["fullUrl"].startswith(f"{gateway.base}/Patient/") for entry in entries)
    assert all(len(entry["resource"]["name"][0]["text"]) > 60_000 for entry in entries)
    assert "Content-Length" not in response.headers
    # An own address in a reference becomes a relative reference, as HAPI keeps it.
    practitioner = entries[0]["resource"]["generalPractitioner"][0]["reference"]
    assert practitioner == "Practitioner/none"


def test_decimals_keep_their_digits(gateway: Gateway) -> None:
    gateway.write(gateway.patient("decimal"))
    observation = (
        f'{{"resourceType":"Observation","id":"{gateway.prefix}-decimal","status":"final","code":{{"text":"x"}},'
        f'"subject":{{"reference":"Patient/{gateway.prefix}-decimal"}},"valueQuantity":{{"value":1.50}}}}'
    )
    path = f"/Observation/{gateway.prefix}-decimal"
    assert gateway.call("PUT", path, data=observation, headers=JSON).status_code == 201
    assert '"value":1.50' in gateway.call("GET", path).text
    # Read to be checked, since an included type comes along.
    included = gateway.call("GET", f"/Observation?_id={path[13:]}&_include=Observation:subject")
    assert '"value":1.50' in included.text
    assert len(included.json()["entry"]) == 2


def test_a_transaction_and_a_batch(gateway: Gateway) -> None:
    mother, child = gateway.patient("mother"), gateway.patient("child")
    transaction = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "fullUrl": f"{gateway.base}/Patient/{item['id']}",
                "resource": item,
                "request": {"method": "PUT", "url": f"Patient/{item['id']}"},
            }
            for item in (mother, child)
        ],
    }
    done = gateway.call("POST", "", data=json.dumps(transaction), headers=JSON)
    assert [entry["response"]["status"][:3] for entry in done.json()["entry"]] == ["201", "201"]
    batch = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [
            {"request": {"method": "GET", "url": url}}
            for url in (
                f"Patient/{mother['id']}",
                "AuditEvent?_count=1",
                f"{gateway.base}/Patient?_id={child['id']}",
                f"Patient/{gateway.prefix}-nobody",
            )
        ],
    }
    answer = gateway.call("POST", "/", data=json.dumps(batch), headers=JSON).json()
    assert answer["type"] == "batch-response"
    statuses = [entry["response"]["status"][:3] for entry in answer["entry"]]
    assert statuses == ["200", "403", "200", "404"]
    assert answer["entry"][2]["resource"]["entry"][0]["resource"]["id"] == child["id"]


def test_operations_of_the_server(gateway: Gateway) -> None:
    patient = gateway.patient("everything")
    gateway.write(patient)
    everything = gateway.call("GET", f"/Patient/{patient['id']}/$everything").json()
    assert [entry["resource"]["id"] for entry in everything["entry"]] == [patient["id"]]
    wrong = json.dumps({"resourceType": "Observation", "status": "final"})
    outcome = gateway.call("POST", "/Observation/$validate", data=wrong, headers=JSON).json()
    assert outcome["resourceType"] == "OperationOutcome"
    assert any("code" in issue["diagnostics"] for issue in outcome["issue"])


def test_the_capability_statement_names_everything_and_our_security(gateway: Gateway) -> None:
    ours = requests.get(f"{gateway.base}/metadata", timeout=30).json()
    theirs = requests.get(f"{gateway.upstream}/metadata", timeout=30).json()
    assert ours["implementation"]["url"] == gateway.base
    (server,), (inner,) = ours["rest"], theirs["rest"]
    kept = {resource["type"]: resource for resource in server["resource"]}
    for resource in inner["resource"]:
        mine = kept[resource["type"]]
        assert set(resource) <= set(mine)
        for key in ("interaction", "searchParam"):
            assert mine.get(key) == resource.get(key)
        names = {item["name"] for item in mine.get("operation", [])}
        assert {item["name"] for item in resource.get("operation", [])} <= names
    assert server["security"]["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"
    smart = requests.get(f"{gateway.base}/.well-known/smart-configuration", timeout=30).json()
    assert smart["code_challenge_methods_supported"] == ["S256"]
    assert {"permission-v2", "launch-ehr", "client-public"} <= set(smart["capabilities"])


def test_our_operations_are_declared_and_their_definitions_served(gateway: Gateway) -> None:
    statement = requests.get(f"{gateway.base}/metadata", timeout=30).json()
    declared = {
        (resource["type"], operation["name"]): operation["definition"]
        for resource in statement["rest"][0]["resource"]
        for operation in resource.get("operation", [])
    }
    for kind, name in (
        ("Patient", "risk-score"),
        ("RiskAssessment", "risk-score"),
        ("Task", "review"),
        ("Task", "claim"),
        ("Task", "release"),
    ):
        read = gateway.call("GET", f"/OperationDefinition/fhir-ext-{name}")
        assert read.json()["url"] == declared[kind, name]
        found = gateway.call("GET", f"/OperationDefinition?url={declared[kind, name]}").json()
        assert [entry["resource"]["code"] for entry in found["entry"]] == [name]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/Nothing", 404, "unknown-type"),
        ("GET", "/Patient/a b", 400, "path-encoding"),
        ("GET", "/Patient?_count=100000", 400, "bad-request"),
        ("POST", "/Patient", 415, "media-type"),
        ("HEAD", "/Patient/x", 405, None),
        ("GET", "/Patient/gw-nobody", 404, None),
    ],
)
def test_bad_requests_are_told_in_an_operation_outcome(
    gateway: Gateway, method: str, path: str, status: int, code: str | None
) -> None:
    response = gateway.call(method, path)
    assert response.status_code == status
    assert response.headers["X-Request-Id"]
    if method != "HEAD":
        outcome = response.json()
        assert outcome["resourceType"] == "OperationOutcome"
        if code:
            assert outcome["issue"][0]["details"]["coding"][0]["code"] == code


def test_without_a_token_nobody_comes_in(gateway: Gateway) -> None:
    for headers in (
        {},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer a.b.c"},
        {"Authorization": f"Bearer {gateway.token[:-8]}AAAAAAAA"},
    ):
        response = requests.get(f"{gateway.base}/Patient", headers=headers, timeout=30)
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert response.json()["resourceType"] == "OperationOutcome"


def test_fhirpy_works_unchanged(gateway: Gateway) -> None:
    client = SyncFHIRClient(gateway.base, authorization=f"Bearer {gateway.token}")
    patient = client.resource("Patient", **gateway.patient("fhirpy"))
    patient.save()
    found = client.resources("Patient").search(_id=patient["id"]).first()
    assert found is not None and found["id"] == patient["id"]
    found["gender"] = "unknown"
    found.save()
    assert client.reference("Patient", patient["id"]).to_resource()["gender"] == "unknown"
    numbers = [f"{gateway.prefix}-fhirpy-{n}" for n in range(7)]
    for number in numbers:
        client.resource("Patient", id=number).save()
    pages = client.resources("Patient").search(_id=",".join(numbers)).limit(2)
    assert sorted(item["id"] for item in pages.fetch_all()) == numbers
