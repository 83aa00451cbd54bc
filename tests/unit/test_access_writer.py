"""The chore `audit`: whatever the server refuses or loses, every other entry is written."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson
import pytest
from noting import record

from fhir_ext.audit.record import AccessRecord
from fhir_ext.audit.segments import line_of
from fhir_ext.errors import (
    FhirExtError,
    ParkedWork,
    UnprocessableError,
    UpstreamError,
    UpstreamUnavailable,
)
from subscriptions.audit import AccessEventWriter

Json = dict[str, Any]
BASE = "https://fhir.example.org/fhir"


class Server:
    """A FHIR server as the writer sees it.

    Attributes:
        patients: which exist; with None, references are not looked at.
        broken: events with this text in them make it answer 500.
    """

    def __init__(self) -> None:
        self.stored: dict[str, Json] = {}
        self.patients: set[str] | None = None
        self.broken = "\0"
        self.down: FhirExtError | None = None
        self.transactions: list[int] = []
        self.puts = 0

    def _check(self, resource: Json) -> None:
        if self.down:
            raise self.down
        if self.broken in str(resource):
            raise UpstreamError("500", code="fhir-server-error")
        for entity in resource.get("entity", []):
            reference = entity.get("what", {}).get("reference", "")
            known = self.patients is None or reference in self.patients
            if reference.startswith("Patient/") and not known:
                raise UnprocessableError("refused", code="fhir-refused")

    def put(self, resource: Json) -> Json:
        self.puts += 1
        self._check(resource)
        self.stored[resource["id"]] = resource
        return resource

    def transaction(self, bundle: Json) -> Json:
        self.transactions.append(len(bundle["entry"]))
        for entry in bundle["entry"]:
            self._check(entry["resource"])
        for entry in bundle["entry"]:
            self.stored[entry["resource"]["id"]] = entry["resource"]
        return bundle

    @property
    def events(self) -> list[Json]:
        return [item for item in self.stored.values() if item["resourceType"] == "AuditEvent"]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def writer(server) -> AccessEventWriter:
    return AccessEventWriter(server, BASE)


def payload(*records: AccessRecord) -> Json:
    return {"records": [orjson.loads(line_of(item)) for item in records]}


def test_all_patients_of_all_records_in_few_transactions(server, writer) -> None:
    people = tuple(f"p{number}" for number in range(70))
    writer(payload(record(1, patients=people), record(2, patients=()), record(3)))
    assert server.transactions == [50, 22]
    assert len(server.events) == 72
    # The Device that they name.
    assert server.puts == 1
    writer(payload(record(3)))
    assert len(server.events) == 72
    assert server.puts == 1


def test_links_that_the_server_refuses_become_logical(server, writer) -> None:
    server.patients = {"Patient/p1"}
    writer(payload(record(1), record(2, patients=("gone",)), record(3)))
    assert len(server.events) == 3
    whats = [entity.get("what", {}) for event in server.events for entity in event["entity"]]
    assert sum(what.get("reference") == "Patient/p1" for what in whats) == 2
    assert sum(what.get("display") == "Patient/gone" for what in whats) == 1


def test_one_that_is_refused_in_any_form_is_parked_and_the_rest_is_written(server, writer) -> None:
    server.broken = "poison"
    records = [record(number) for number in range(10)]
    records[4] = record(4, target="Observation/poison")
    with pytest.raises(ParkedWork) as parked:
        writer(payload(*records))
    assert parked.value.code == "fhir-refused"
    assert "1 of 10" in parked.value.message
    assert len(server.events) == 9


def test_a_record_of_another_version_does_not_stop_the_others(server, writer) -> None:
    sent = {"records": [asdict(record(1)), {"unknown": 1}, {**asdict(record(2)), "new": 1}]}
    with pytest.raises(ParkedWork, match="2 of 3"):
        writer(sent)
    assert len(server.events) == 1


@pytest.mark.parametrize(
    "error",
    [
        UpstreamUnavailable("down"),
        UpstreamError("500", code="fhir-server-error"),
        UpstreamError("conflict", code="write-conflict"),
    ],
)
def test_a_server_that_is_down_or_broken_blames_no_record(server, writer, error) -> None:
    writer(payload(record(1)))
    server.down = error
    with pytest.raises(UpstreamError):
        writer(payload(record(2)))
    server.down = None
    writer(payload(record(2)))
    assert len(server.events) == 2
