"""AuditEvents of accesses in a real HAPI: valid in every shape, found, written once."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from access_samples import SAMPLES
from balp import balp_profiles
from noting import record

from fhir_ext import __version__
from fhir_ext.audit.segments import line_of
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.errors import ParkedWork
from fhir_ext.resources.access_event import AuditServer, access_events, without_links
from fhir_ext.resources.ids import access_event_id, software_device_id
from fhir_ext.settings import FhirSettings
from subscriptions.audit import AccessEventWriter

Json = dict[str, Any]

BASE = "https://fhir.example.org/fhir"
SERVER = AuditServer(f"Device/{software_device_id(__version__)}", BASE)


@pytest.fixture(scope="module")
def fhir(hapi_base_url: str) -> FhirClient:
    client = FhirClient(FhirSettings(base_url=hapi_base_url))
    for profile in balp_profiles():
        client.put(profile)
    return client


@pytest.fixture
def writer(fhir: FhirClient) -> AccessEventWriter:
    return AccessEventWriter(fhir, BASE)


def errors(fhir: FhirClient, event: Json) -> list[str]:
    return [
        issue["diagnostics"]
        for issue in fhir.validate(event)["issue"]
        if issue["severity"] in ("error", "fatal")
    ]


@pytest.mark.parametrize("name", SAMPLES)
def test_every_shape_is_valid_and_fulfils_the_profile_it_claims(fhir, name) -> None:
    for event in access_events(SAMPLES[name], SERVER):
        assert errors(fhir, event) == []
        assert errors(fhir, without_links(event, BASE)) == []


def _two_queries(event: Json) -> None:
    event["entity"].append(copy.deepcopy(event["entity"][0]))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("read", lambda e: e["agent"][0].pop("network")),
        ("read", lambda e: e["agent"].pop(1)),
        ("read", lambda e: e.update(action="E")),
        ("read", lambda e: e.update(outcome="4")),
        ("read", lambda e: e["entity"].pop(1)),
        ("read", lambda e: e["entity"].pop(0)),
        ("create", lambda e: e["agent"][0].pop("who")),
        ("delete", lambda e: e["agent"].reverse() or e["agent"].pop(0)),
        ("search", lambda e: e["entity"][0].pop("query")),
        ("search", _two_queries),
    ],
)
def test_the_profiles_notice_what_is_wrong(
    fhir, name: str, change: Callable[[Json], object]
) -> None:
    (event,) = access_events(SAMPLES[name], SERVER)
    if name == "delete":
        event["agent"] = event["agent"][:2]
    change(event)
    assert errors(fhir, event) != []


def _payload(*numbers: int, **changes: Any) -> tuple[list[str], Json]:
    requests = [str(uuid.uuid4()) for _ in numbers]
    lines = [line_of(record(n, request_id=r, **changes)) for n, r in zip(numbers, requests)]  # noqa: B905
    return requests, {"records": [orjson.loads(line) for line in lines]}


def test_writing_again_makes_no_new_version(fhir, writer) -> None:
    requests, payload = _payload(*range(60))
    for _ in range(2):
        writer(payload)
    for request in requests:
        event = fhir.read("AuditEvent", access_event_id(request, "p1"))
        assert event["meta"]["versionId"] == "1"


def test_events_are_found_as_the_handbook_says(fhir, writer) -> None:
    patient, client, user = (f"a{uuid.uuid4().hex[:12]}" for _ in range(3))
    # HAPI indexes references to what exists.
    fhir.put({"resourceType": "Patient", "id": patient})
    fhir.put({"resourceType": "Practitioner", "id": user})
    by = {"client_id": client, "subject": user, "fhir_user": f"Practitioner/{user}"}
    _, payload = _payload(1, patients=(patient,), **by)
    _, refused = _payload(
        2,
        target=f"Patient/{patient}",
        patients=(),
        outcome="4",
        http_status=403,
        refusal="scope",
        **by,
    )
    writer({"records": payload["records"] + refused["records"]})

    def found(**params: str) -> int:
        return len(fhir.search("AuditEvent", params))

    assert found(patient=f"Patient/{patient}") == 2
    assert found(patient=f"Patient/{patient}", date="2026-01-05") == 2
    assert found(patient=f"Patient/{patient}", date="lt2026-01-05") == 0
    assert found(agent=f"Practitioner/{user}") == 2
    assert found(altid=client) == 2
    assert found(altid=user, outcome="4") == 1
    assert found(altid=user, subtype="read", action="R") == 2
    assert found(entity=f"Patient/{patient}", altid=user) == 2
    assert found(altid=user, address="192.0.2.1") == 2


def test_what_hapi_cannot_read_is_parked_and_the_rest_is_written(fhir, writer) -> None:
    requests, payload = _payload(*range(5))
    payload["records"][2]["recorded"] = "yesterday"
    with pytest.raises(ParkedWork, match="1 of 5"):
        writer(payload)
    written = [fhir.find("AuditEvent", access_event_id(request, "p1")) for request in requests]
    assert [event is not None for event in written] == [True, True, False, True, True]
