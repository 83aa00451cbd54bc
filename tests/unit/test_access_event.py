"""AuditEvents of accesses: the shapes of BALP, one per patient, the same bytes every time."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from access_samples import SAMPLES, SERVER
from hypothesis import given
from hypothesis import strategies as st
from noting import record

from fhir_ext.audit.record import AccessRecord
from fhir_ext.resources.access_event import access_events, without_links

Json = dict[str, Any]
BALP = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."


def events(name: str) -> list[Json]:
    return access_events(SAMPLES[name], SERVER)


def code(agent: Json) -> str:
    return str(agent["type"]["coding"][0]["code"])


def entities(event: Json, entity_type: str) -> list[Json]:
    return [entity for entity in event["entity"] if entity["type"]["code"] == entity_type]


def test_a_read_as_it_is_written() -> None:
    (event,) = events("read")
    event.pop("id")
    assert event == {
        "resourceType": "AuditEvent",
        "meta": {"profile": [f"{BALP}PatientRead"]},
        "type": {
            "system": "http://terminology.hl7.org/CodeSystem/audit-event-type",
            "code": "rest",
            "display": "RESTful Operation",
        },
        "subtype": [
            {
                "system": "http://hl7.org/fhir/restful-interaction",
                "code": "read",
                "display": "read",
            }
        ],
        "action": "R",
        "recorded": "2026-01-05T10:15:00.000Z",
        "outcome": "0",
        "agent": [
            {
                "type": {
                    "coding": [
                        {
                            "system": "http://dicom.nema.org/resources/ontology/DCM",
                            "code": "110152",
                            "display": "Destination Role ID",
                        }
                    ]
                },
                "who": {"identifier": {"value": "app"}, "display": "app"},
                "altId": "app",
                "requestor": False,
                "network": {"address": "192.0.2.1", "type": "2"},
            },
            {
                "type": {
                    "coding": [
                        {
                            "system": "http://dicom.nema.org/resources/ontology/DCM",
                            "code": "110153",
                            "display": "Source Role ID",
                        }
                    ]
                },
                "who": {"reference": "Device/software"},
                "requestor": False,
                "network": {"address": "https://fhir.example.org/fhir", "type": "5"},
            },
            {
                "type": {
                    "coding": [
                        {
                            "system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType",
                            "code": "IRCP",
                            "display": "information recipient",
                        }
                    ]
                },
                "who": {
                    "reference": "Practitioner/1",
                    "identifier": {"value": "user"},
                    "display": "user",
                },
                "altId": "user",
                "requestor": True,
                "role": [{"text": "clinician"}],
            },
        ],
        "source": {
            "site": "fhir.example.org",
            "observer": {"reference": "Device/software"},
            "type": [
                {
                    "system": "http://terminology.hl7.org/CodeSystem/security-source-type",
                    "code": "4",
                    "display": "Application Server",
                }
            ],
        },
        "entity": [
            {
                "what": {"reference": "Observation/1"},
                "type": {
                    "system": "http://terminology.hl7.org/CodeSystem/audit-entity-type",
                    "code": "2",
                    "display": "System Object",
                },
                "role": {
                    "system": "http://terminology.hl7.org/CodeSystem/object-role",
                    "code": "4",
                    "display": "Domain Resource",
                },
            },
            {
                "what": {"reference": "Patient/p1"},
                "type": {
                    "system": "http://terminology.hl7.org/CodeSystem/audit-entity-type",
                    "code": "1",
                    "display": "Person",
                },
                "role": {
                    "system": "http://terminology.hl7.org/CodeSystem/object-role",
                    "code": "1",
                    "display": "Patient",
                },
            },
            {
                "what": {"identifier": {"value": "00000001"}},
                "type": {
                    "system": "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType",
                    "code": "XrequestId",
                    "display": (
                        "transport specific unique identifier where http X-Request-Id is used"
                    ),
                },
                "detail": [{"type": "http-status", "valueString": "200"}],
            },
        ],
    }


@pytest.mark.parametrize(
    ("name", "profile", "client", "server"),
    [
        ("read", "PatientRead", "110152", "110153"),
        ("read of no patient", "Read", "110152", "110153"),
        ("vread", "PatientRead", "110152", "110153"),
        ("create", "PatientCreate", "110153", "110152"),
        ("create of no patient", "Create", "110153", "110152"),
        ("update", "PatientUpdate", "110153", "110152"),
        ("patch", "PatientUpdate", "110153", "110152"),
        ("delete", "PatientDelete", "110150", "custodian"),
        ("search", "PatientQuery", "110153", "110152"),
        ("search of nothing", "Query", "110153", "110152"),
        ("search of all", "PatientQuery", "110153", "110152"),
        ("conditional update", None, "110153", "110152"),
        ("history", None, "110152", "110153"),
        ("transaction", None, "110153", "110152"),
        ("operation", None, "110153", "110152"),
        ("refused", None, "110152", "110153"),
        ("not found", None, "110152", "110153"),
        ("failed", None, "110152", "110153"),
        ("no address", None, "110152", "110153"),
    ],
)
def test_profile_and_roles(name: str, profile: str | None, client: str, server: str) -> None:
    event = events(name)[0]
    assert event.get("meta", {}).get("profile") == ([BALP + profile] if profile else None)
    assert [code(agent) for agent in event["agent"][:2]] == [client, server]


def test_one_event_for_each_patient() -> None:
    found = events("search of several")
    patients = [entities(event, "1")[0]["what"]["reference"] for event in found]
    assert patients == ["Patient/p1", "Patient/p2", "Patient/p3"]
    assert len({event["id"] for event in found}) == 3


def test_the_query_is_kept_as_it_was_asked_and_nowhere_readable() -> None:
    (event,) = events("search")
    (query,) = entities(event, "2")
    assert base64.b64decode(query["query"]).decode() == "Observation?code=1"
    assert query["role"]["code"] == "24"
    assert "what" not in query
    assert "code=1" not in json.dumps(event)


def test_a_program_stands_for_itself() -> None:
    (event,) = events("read by a program")
    assert len(event["agent"]) == 2
    assert event["agent"][0]["requestor"] is True
    assert event["agent"][0]["role"] == [{"text": "service"}]


@pytest.mark.parametrize("name", ["refused", "refused search", "no token"])
def test_a_refusal_says_its_code_only(name: str) -> None:
    (event,) = events(name)
    assert event["outcome"] == "4"
    assert event["outcomeDesc"] == SAMPLES[name].refusal


def test_nobody_is_named_without_a_token() -> None:
    (event,) = events("no token")
    assert "who" not in event["agent"][0]
    assert event["agent"][0]["network"]["address"] == "192.0.2.1"
    assert len(event["agent"]) == 2


def test_writing_makes_an_author() -> None:
    assert code(events("create")[0]["agent"][2]) == "AUT"


def test_an_operation_is_named() -> None:
    assert events("operation")[0]["entity"][0]["name"] == "$everything"
    assert "what" not in events("operation of the system")[0]["entity"][0]
    assert events("operation of a type")[0]["entity"][0]["what"]["type"] == "RiskAssessment"


def test_everything_a_transaction_wrote_is_named() -> None:
    for event in events("transaction"):
        found = [entity["what"]["reference"] for entity in entities(event, "2")]
        assert found == ["Observation/1", "Observation/2"]


def test_without_links_nothing_but_our_device_is_referred_to() -> None:
    base = SERVER.base_url
    for name in SAMPLES:
        for event in events(name):
            before = json.dumps(event)
            loose = without_links(event, base)
            assert json.dumps(event) == before
            assert loose["id"] == event["id"]
            found = [agent.get("who", {}).get("reference") for agent in loose["agent"]]
            found += [entity.get("what", {}).get("reference") for entity in loose["entity"]]
            assert set(found) == {None, "Device/software"}
    (event,) = [without_links(event, base) for event in events("read")]
    assert entities(event, "1")[0]["what"] == {
        "type": "Patient",
        "identifier": {"system": "urn:ietf:rfc:3986", "value": f"{base}/Patient/p1"},
        "display": "Patient/p1",
    }


texts = st.text(max_size=20)
records = st.builds(
    AccessRecord,
    request_id=st.uuids().map(str),
    recorded=st.just("2026-01-05T10:15:00.000Z"),
    interaction=st.sampled_from(sorted({s.interaction for s in SAMPLES.values()})) | texts,
    action=st.sampled_from("CRUDE"),
    outcome=st.sampled_from("048"),
    http_status=st.integers(200, 599),
    client_id=st.none() | texts,
    subject=st.none() | texts,
    fhir_user=st.none() | texts,
    personas=st.lists(texts, max_size=3).map(tuple),
    network_address=st.none() | st.ip_addresses().map(str),
    target=st.none() | st.sampled_from(["Patient", "Patient/1", "Observation/a.b-c"]) | texts,
    query=st.none() | texts,
    operation=st.none() | texts,
    patients=st.lists(st.from_regex(r"[a-z0-9.-]{1,64}", fullmatch=True), max_size=4).map(tuple),
    resources=st.lists(st.sampled_from(["Patient/1", "Task/2"]), max_size=3).map(tuple),
    refusal=st.none() | st.just("scope"),
)


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


@given(records)
def test_whatever_is_noted_becomes_well_formed_events(access: AccessRecord) -> None:
    found = access_events(access, SERVER)
    assert found == access_events(access, SERVER)
    assert len(found) == max(1, len(set(access.patients)))
    assert len({event["id"] for event in found}) == len(found)
    for event in found:
        # FHIR R4: no empty strings, no control characters (datatypes, string).
        for text in _strings(event):
            assert text.strip()
            assert not set(text) & set(map(chr, [*range(9), *range(14, 32)]))
        # AuditEvent sev-1: a name or a query, not both.
        assert not any({"name", "query"} <= entity.keys() for entity in event["entity"])
        if "meta" in event:
            assert event["outcome"] == "0"
            assert len(entities(event, "2")) == 1
            assert "who" in event["agent"][0]
            assert "network" in event["agent"][0]


def test_ids_follow_from_request_and_patient() -> None:
    one = access_events(record(1), SERVER)[0]["id"]
    assert one == access_events(record(1, target="Observation/2"), SERVER)[0]["id"]
    others = (record(2), record(1, patients=("p2",)), record(1, patients=()))
    assert len({one, *(access_events(other, SERVER)[0]["id"] for other in others)}) == 4
