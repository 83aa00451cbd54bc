"""Writes and Bundles that have moved data between patients: each is refused, nothing changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
    condition,
    mark,
    observation,
    reference,
)
from tokens import Tokens

if TYPE_CHECKING:
    from fhir_ext.cli.tree import Tree

Json = dict[str, Any]

OWN_COND, OTHER_COND = f"Condition/{PREFIX}cond-{OWN}", f"Condition/{PREFIX}cond-{OTHER}"
#: Who may write, confined to one patient and to a program.
WRITERS = {"patient": "patient/*.cruds", "user": "user/*.cruds"}


@pytest.fixture(scope="module")
def tokens(tree: Tree) -> Tokens:
    return Tokens(tree.urls["issuer"], tree.directory)


@pytest.fixture(scope="module")
def world(tree: Tree, tokens: Tokens) -> World:
    return World.prepared(tree.urls, tokens.get("coordinator", "user", "user/Patient.r"))


class Caller:
    """One token at the gateway."""

    def __init__(self, base: str, token: str) -> None:
        self.base = base.rstrip("/")
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {token}"

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        kind: str = "application/fhir+json",
        **headers: str,
    ) -> requests.Response:
        """Send JSON, or bytes and text as they are."""
        data = body if isinstance(body, str | bytes) or body is None else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._session.request(
            method,
            f"{self.base}/{path}",
            data=data,
            headers={"Content-Type": kind, **named},
            timeout=60,
        )

    def bundle(self, kind: str, *entries: Json) -> requests.Response:
        bundle = {"resourceType": "Bundle", "type": kind, "entry": list(entries)}
        return self.send("POST", "", bundle)


@pytest.fixture(scope="module", autouse=True)
def nothing_changes(world: World) -> Iterator[None]:
    """Whatever these tests try, nothing changes that is not the own patient's."""
    before = {path: world.read(path) for path in _watched()}
    counts = _counts(world)
    yield
    assert {path: world.read(path) for path in _watched()} == before
    assert _counts(world) == counts


@pytest.fixture(params=list(WRITERS))
def caller(request: pytest.FixtureRequest, tree: Tree, tokens: Tokens) -> Caller:
    """A clinician who may write."""
    token = tokens.get("clinician", request.param, WRITERS[request.param])
    return Caller(tree.urls["gateway"], token)


def _watched() -> list[str]:
    return [
        OTHER_COND,
        f"Condition/{PREFIX}cond-{MATE}",
        f"Observation/{PREFIX}obs-{OWN}",
        f"Observation/{PREFIX}obs-{OTHER}",
        f"Patient/{OWN}",
        f"Patient/{OTHER}",
        f"Task/{PREFIX}task-{OWN}",
        f"Device/{PREFIX}model",
    ]


def _counts(world: World) -> list[int]:
    """How many resources the other patient has, and how many nobody has."""
    return [
        world.count(query)
        for query in (
            f"Condition?subject=Patient/{OTHER}",
            f"Condition?asserter=Patient/{OTHER}",
            "Condition?subject:missing=true",
            f"Observation?subject=Patient/{OTHER}",
            f"Observation?performer=Patient/{OTHER}",
            "Subscription",
            "SearchParameter?code=patient",
        )
    ]


def refused(answer: requests.Response, *statuses: int) -> None:
    assert answer.status_code in (statuses or (400, 403, 404, 405, 415, 422)), answer.text
    assert mark(OTHER) not in answer.text
    assert answer.json()["resourceType"] == "OperationOutcome"


def about(subject: Any, **more: Any) -> Json:
    return {"resourceType": "Condition", "code": {"text": "x"}, "subject": subject, **more}


# Whose a new resource is


@pytest.mark.parametrize(
    "subject",
    [
        reference(OTHER),
        {"reference": f"Patient/{OTHER}/_history/1"},
        {"reference": f"Patient?identifier={CODES}|{OTHER}"},
        {"reference": f"https://elsewhere.example/fhir/Patient/{OWN}"},
        {"reference": f"./Patient/{OWN}"},
        {"reference": f"Patient/{OWN}/../{OTHER}"},
        {"reference": f"Patient/{OWN}#"},
        {"reference": "#p"},
        {"reference": "urn:uuid:0f1e7c1e-6a0f-4bb8-9a4e-3f4d8a3f2b11"},
        {"identifier": {"system": CODES, "value": OTHER}},
        {"identifier": {"system": CODES, "value": OWN}},
        {"display": OWN},
        {"type": "Patient"},
        {"reference": "Group/demo-screening"},
        [reference(OWN), reference(OTHER)],
        [reference(OWN)],
        f"Patient/{OWN}",
        None,
        {},
    ],
    ids=str,
)
def test_create_for_another(caller: Caller, subject: Any) -> None:
    contained = [{"resourceType": "Patient", "id": "p"}]
    answer = caller.send("POST", "Condition", about(subject, contained=contained))
    if subject == [reference(OWN)]:
        # HAPI itself would refuse it later; nothing is stored either way.
        assert answer.status_code < 500
        return
    refused(answer)


@pytest.mark.parametrize("base", ["inner", "public"])
def test_create_with_an_address_of_the_server(caller: Caller, world: World, base: str) -> None:
    """HAPI takes references under its own base for local ones, so the gateway must too."""
    address = {"inner": world.hapi, "public": caller.base}[base]
    other = {"reference": f"{address}/Patient/{OTHER}"}
    refused(caller.send("POST", "Condition", about(other)))
    refused(caller.send("POST", "Condition", about(reference(OWN), asserter=other)))


def test_create_with_the_public_address_of_the_own_patient(caller: Caller, world: World) -> None:
    own = {"reference": f"{caller.base}/Patient/{OWN}"}
    answer = caller.send("POST", "Condition", about(own))
    assert answer.status_code == 201, answer.text
    stored = world.read(f"Condition/{answer.json()['id']}")
    assert stored["subject"] == reference(OWN)


@pytest.mark.parametrize(
    "asserter",
    [reference(OTHER), {"reference": f"Patient?identifier={CODES}|{OTHER}"}],
    ids=str,
)
def test_create_into_the_compartment_of_another(caller: Caller, asserter: Json) -> None:
    """About the own patient, said by another: it would appear in the other's record."""
    refused(caller.send("POST", "Condition", about(reference(OWN), asserter=asserter)))


def test_a_name_that_stands_twice(caller: Caller, world: World) -> None:
    """Parsers differ in which of two they take; what is stored is what was checked."""
    texts = [
        '{"resourceType":"Condition","code":{"text":"twice"},'
        f'"subject":{{"reference":"Patient/{first}"}},"subject":{{"reference":"Patient/{last}"}}}}'
        for first, last in ((OWN, OTHER), (OTHER, OWN))
    ]
    refused(caller.send("POST", "Condition", texts[0]))
    answer = caller.send("POST", "Condition", texts[1])
    if answer.status_code == 201:
        stored = world.read(f"Condition/{answer.json()['id']}")
        assert stored["subject"]["reference"] == f"Patient/{OWN}"
    else:
        refused(answer)


def test_other_formats_of_a_body(caller: Caller) -> None:
    xml = (
        '<Condition xmlns="http://hl7.org/fhir"><code><text value="x"/></code>'
        f'<subject><reference value="Patient/{OTHER}"/></subject></Condition>'
    )
    turtle = "application/x-turtle"
    for kind in ("application/fhir+xml", "application/xml", "text/xml", turtle, "text/plain"):
        refused(caller.send("POST", "Condition", xml, kind), 415)
    refused(caller.send("POST", "Condition", xml, "application/fhir+json;x=application/xml"), 400)
    refused(caller.send("POST", "Condition?_format=xml", xml), 400)


def test_a_resource_of_another_type(caller: Caller) -> None:
    refused(caller.send("POST", "Condition", observation(OTHER)))
    refused(caller.send("POST", "Communication", condition(OWN)))
    refused(caller.send("PUT", OWN_COND, {**observation(OWN), "id": f"{PREFIX}cond-{OWN}"}))
    refused(caller.send("PUT", OWN_COND, condition(OWN, f"{PREFIX}cond-{OTHER}")))


# What stands there already


def test_update_that_moves_a_resource(caller: Caller, world: World) -> None:
    name = f"{PREFIX}cond-{OWN}"
    before = world.read(OWN_COND)
    refused(caller.send("PUT", OWN_COND, condition(OTHER, name)), 403)
    assert world.read(OWN_COND) == before


@pytest.mark.parametrize("headers", [{}, {"If_Match": 'W/"1"'}, {"If_None_Match": "*"}], ids=str)
def test_update_that_takes_a_resource_over(caller: Caller, headers: dict[str, str]) -> None:
    """The body is about the own patient; what stands there is not."""
    answer = caller.send("PUT", OTHER_COND, condition(OWN, f"{PREFIX}cond-{OTHER}"), **headers)
    refused(answer, 404)


def test_update_as_create_for_another(caller: Caller, world: World) -> None:
    name = f"{PREFIX}cond-new"
    refused(caller.send("PUT", f"Condition/{name}", condition(OTHER, name)), 403)
    assert not world.exists(f"Condition/{name}")


@pytest.mark.parametrize(
    "steps",
    [
        [{"op": "replace", "path": "/subject/reference", "value": f"Patient/{OTHER}"}],
        [{"op": "replace", "path": "/subject", "value": reference(OTHER)}],
        [{"op": "add", "path": "/subject/reference", "value": f"Patient/{OTHER}"}],
        [{"op": "add", "path": "/asserter", "value": reference(OTHER)}],
        [{"op": "copy", "from": "/note/0/text", "path": "/subject/reference"}],
        [{"op": "move", "from": "/subject", "path": "/recorder"}],
        [{"op": "remove", "path": "/subject"}],
        [{"op": "replace", "path": "", "value": condition(OTHER)}],
        [{"op": "replace", "path": "/", "value": condition(OTHER)}],
        [{"op": "add", "path": "/id", "value": f"{PREFIX}cond-{OTHER}"}],
        [{"op": "add", "path": "/_subject", "value": {}}],
        [{"op": "add", "path": "/~0subject/../subject", "value": reference(OTHER)}],
        [{"op": "replace", "path": "subject/reference", "value": f"Patient/{OTHER}"}],
        [{"op": "replace", "path": "//subject/reference", "value": f"Patient/{OTHER}"}],
        [
            {"op": "add", "path": "/code/text", "value": "y"},
            {"op": "replace", "path": "/subject", "value": reference(OTHER)},
        ],
    ],
    ids=str,
)
def test_patch_of_whose_it_is(caller: Caller, world: World, steps: list[Json]) -> None:
    before = world.read(OWN_COND)
    refused(caller.send("PATCH", OWN_COND, steps, "application/json-patch+json"))
    assert world.read(OWN_COND)["subject"] == before["subject"]
    assert "asserter" not in world.read(OWN_COND)


def test_patch_of_anothers(caller: Caller) -> None:
    steps = [{"op": "add", "path": "/code/text", "value": "y"}]
    refused(caller.send("PATCH", OTHER_COND, steps, "application/json-patch+json"), 404)
    # JSON Patch can ask: is this the value?
    asking = [{"op": "test", "path": "/note/0/text", "value": mark(OTHER)}]
    refused(caller.send("PATCH", OTHER_COND, asking, "application/json-patch+json"), 404)


def test_patches_of_other_kinds(caller: Caller) -> None:
    operation = [
        {"name": "type", "valueCode": "replace"},
        {"name": "path", "valueString": "Condition.subject.reference"},
        {"name": "value", "valueString": f"Patient/{OTHER}"},
    ]
    fhirpath = {
        "resourceType": "Parameters",
        "parameter": [{"name": "operation", "part": operation}],
    }
    refused(caller.send("PATCH", OWN_COND, fhirpath), 415)
    refused(caller.send("PATCH", OWN_COND, {"subject": reference(OTHER)}), 415)
    merge = "application/merge-patch+json"
    refused(caller.send("PATCH", OWN_COND, {"subject": reference(OTHER)}, merge), 415)
    xml = '<diff><replace sel="Condition/subject/reference/@value">Patient/x</replace></diff>'
    refused(caller.send("PATCH", OWN_COND, xml, "application/xml-patch+xml"), 415)


def test_deletes(caller: Caller, world: World) -> None:
    for path in (
        OWN_COND,
        OTHER_COND,
        f"{OWN_COND}?_cascade=delete",
        f"Patient/{OTHER}?_cascade=delete",
        f"Condition?subject=Patient/{OTHER}",
        f"Condition?_id={PREFIX}cond-{OWN}",
        "Condition",
    ):
        refused(caller.send("DELETE", path), 403)
    refused(caller.send("DELETE", OWN_COND, None, "application/json", X_Cascade="delete"), 403)
    assert world.exists(OWN_COND)


def test_conditional_forms(caller: Caller) -> None:
    match = f"Condition?subject=Patient/{OTHER}"
    refused(caller.send("PUT", match, condition(OWN)), 403)
    refused(caller.send("PUT", f"Condition?subject=Patient/{OWN}", condition(OWN)), 403)
    steps = [{"op": "add", "path": "/code/text", "value": "y"}]
    refused(caller.send("PATCH", match, steps, "application/json-patch+json"), 403)
    # Whether it exists already would tell about the other patient.
    condition_of_create = f"subject=Patient/{OTHER}"
    refused(
        caller.send("POST", "Condition", condition(OWN), If_None_Exist=condition_of_create), 403
    )


def test_what_is_not_written_by_users(caller: Caller) -> None:
    subscription = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "all of it, please",
        "criteria": "Observation?",
        "channel": {"type": "rest-hook", "endpoint": "https://evil.example/", "payload": "json"},
    }
    parameter = {
        "resourceType": "SearchParameter",
        "url": f"{CODES}/patient",
        "name": "patient",
        "status": "active",
        "description": "x",
        "code": "patient",
        "base": ["Observation"],
        "type": "reference",
        "expression": "Observation.performer",
    }
    provenance = {
        "resourceType": "Provenance",
        "target": [reference(OWN)],
        "recorded": "2024-05-01T10:00:00Z",
        "agent": [{"who": {"display": "x"}}],
    }
    group = {"resourceType": "Group", "id": "demo-screening", "type": "person", "actual": True}
    group["member"] = [{"entity": reference(OTHER)}]
    for resource in (subscription, parameter, provenance, {"resourceType": "Binary"}):
        refused(caller.send("POST", resource["resourceType"], resource), 403)
    refused(caller.send("PUT", "Group/demo-screening", group), 403)
    patient = {"resourceType": "Patient", "id": OWN, "link": []}
    refused(caller.send("PUT", f"Patient/{OWN}", patient), 403)


# Bundles


def get(url: str, method: str = "GET") -> Json:
    return {"request": {"method": method, "url": url}}


def write(method: str, url: str, resource: Json, **request: str) -> Json:
    return {"resource": resource, "request": {"method": method, "url": url, **request}}


@pytest.mark.parametrize(
    "url",
    [
        f"Patient/{OTHER}",
        f"/Patient/{OTHER}",
        f"{{base}}/Patient/{OTHER}",
        f"{{hapi}}/Patient/{OTHER}",
        f"https://evil.example/fhir/Patient/{OTHER}",
        f"//evil.example/Patient/{OTHER}",
        f"Patient/{OWN}/../{OTHER}",
        "Patient/%6dx-other",
        f"Patient/{OWN}/../../fhir/Patient/{OTHER}",
        f"Patient/{OTHER}/_history/1",
        f"Patient/{OTHER}/_history",
        f"Patient/{OTHER}/$everything",
        f"Patient/{OTHER}/Condition",
        f"Observation?patient=Patient/{OTHER}",
        f"{{base}}/Observation?patient=Patient/{OTHER}",
        f"Observation?code={CODES}|{CODE}&patient={OTHER}&_include=*",
        "Observation?_has:Group:member:_id=demo-screening",
        "Patient/$everything",
        "$graphql?query={PatientList{id}}",
        "_history",
        "Condition/_history",
        "?_getpages=11111111-2222-3333-4444-555555555555",
        "?_type=Patient",
        "metadata",
        "",
        "/",
    ],
)
@pytest.mark.parametrize("kind", ["batch", "transaction"])
def test_entries_that_read(caller: Caller, world: World, kind: str, url: str) -> None:
    url = url.replace("{base}", caller.base).replace("{hapi}", world.hapi)
    answer = caller.bundle(kind, get(f"Observation/{PREFIX}obs-{OWN}"), get(url))
    assert answer.status_code < 500, answer.text
    assert mark(OTHER) not in answer.text
    if kind == "batch":
        # The other entry is answered nevertheless.
        assert answer.status_code == 200
        entries = answer.json()["entry"]
        assert len(entries) == 2
        assert mark(OWN) in json.dumps(entries[0])
        assert "resource" not in entries[1] or entries[1]["resource"].get("total", 0) == 0


@pytest.mark.parametrize("method", ["get", "HEAD", "OPTIONS", "TRACE", "GET ", "PATCH", "MOVE"])
def test_entries_with_odd_methods(caller: Caller, method: str) -> None:
    answer = caller.bundle("transaction", get(f"Patient/{OTHER}", method))
    refused(answer)


def test_a_bundle_in_a_bundle(caller: Caller) -> None:
    inner = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [get(f"Patient/{OTHER}")],
    }
    for url in ("", "/", caller.base, f"{caller.base}/"):
        answer = caller.bundle("batch", write("POST", url, inner))
        assert answer.status_code == 200
        assert answer.json()["entry"][0]["response"]["status"].startswith("4")
        assert mark(OTHER) not in answer.text
    refused(caller.bundle("transaction", write("POST", "", inner)))
    refused(caller.bundle("transaction", write("POST", "Bundle", inner)))


@pytest.mark.parametrize(
    "bad",
    [
        write("POST", "Condition", condition(OTHER)),
        write("PUT", OTHER_COND, condition(OTHER, f"{PREFIX}cond-{OTHER}")),
        write("PUT", OTHER_COND, condition(OWN, f"{PREFIX}cond-{OTHER}")),
        write("PUT", OWN_COND, condition(OTHER, f"{PREFIX}cond-{OWN}")),
        write("POST", "Condition", about({"reference": f"Patient?identifier={CODES}|{OTHER}"})),
        write("POST", "Condition", condition(OWN), ifNoneExist=f"subject=Patient/{OTHER}"),
        write("PUT", f"Condition?subject=Patient/{OTHER}", condition(OWN)),
        write("PATCH", OWN_COND, {"resourceType": "Binary", "data": "W10="}),
        write("POST", "Communication", condition(OWN)),
        get(OTHER_COND, "DELETE"),
        get(f"Condition?subject=Patient/{OTHER}", "DELETE"),
    ],
    ids=lambda entry: f"{entry['request']['method']} {entry['request']['url']}",
)
def test_one_bad_entry_spoils_a_transaction(caller: Caller, world: World, bad: Json) -> None:
    before = world.count(f"Condition?subject=Patient/{OWN}")
    good = write("POST", "Condition", condition(OWN))
    refused(caller.bundle("transaction", good, bad))
    assert world.count(f"Condition?subject=Patient/{OWN}") == before
    answer = caller.bundle("batch", bad)
    assert answer.status_code == 200
    assert answer.json()["entry"][0]["response"]["status"].startswith("4")


def test_a_new_patient_through_a_transaction(caller: Caller) -> None:
    """A patient of one's own making, under whom anything might be filed."""
    full = "urn:uuid:6ab3a0f5-54a4-4ba6-8b5c-0d6f3a4e7c0d"
    patient = write("POST", "Patient", {"resourceType": "Patient"})
    refused(caller.bundle("transaction", {"fullUrl": full, **patient}))
    filed = write("POST", "Condition", about({"reference": full}))
    target = {"fullUrl": full, **write("PUT", OWN_COND, condition(OWN, f"{PREFIX}cond-{OWN}"))}
    refused(caller.bundle("transaction", target, filed))


def test_bundles_of_other_types(caller: Caller) -> None:
    for kind in ("history", "searchset", "message", "document", "collection", "", "BATCH"):
        refused(caller.bundle(kind, get(f"Patient/{OTHER}")), 400)
    for body in ([], "x", 7, None, {"resourceType": "Bundle"}):
        refused(caller.send("POST", "", json.dumps(body)), 400)
