"""The FHIR client on a real HAPI: pages, errors of our tree, conflicts."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.embedded.process import free_port
from fhir_ext.errors import NotFoundError, UnprocessableError, UpstreamUnavailable
from fhir_ext.settings import FhirSettings


@pytest.fixture(scope="module")
def client(hapi_base_url: str) -> FhirClient:
    return FhirClient(FhirSettings(base_url=hapi_base_url))


def _patient(family: str, number: int) -> dict[str, object]:
    return {
        "resourceType": "Patient",
        "id": f"{family.lower()}-{number}",
        "name": [{"family": family}],
    }


def test_a_search_follows_all_its_pages(client: FhirClient) -> None:
    family = f"Paged{uuid.uuid4().hex[:8]}"
    for number in range(5):
        client.put(_patient(family, number))
    found = client.search("Patient", {"family": family, "_count": 2})
    assert sorted(p["id"] for p in found) == [f"{family.lower()}-{n}" for n in range(5)]
    assert len(client.search("Patient", {"family": family, "_count": 2}, limit=3)) == 3
    assert len(list(client.pages("Patient", {"family": family, "_count": 2}))) == 3


def test_a_search_sees_what_was_just_written(client: FhirClient) -> None:
    family = f"Fresh{uuid.uuid4().hex[:8]}"
    for number in range(3):
        client.put(_patient(family, number))
        assert len(client.search("Patient", {"family": family})) == number + 1


def test_missing_and_deleted_are_not_found(client: FhirClient) -> None:
    assert client.find("Patient", "nobody-at-all") is None
    with pytest.raises(NotFoundError) as caught:
        client.read("Patient", "nobody-at-all")
    assert "nobody-at-all" not in str(caught.value)


def test_a_refused_resource_is_our_fault_and_not_quoted(client: FhirClient) -> None:
    secret = "Verysecretname"
    bad = {**_patient(secret, 1), "birthDate": "not a date"}
    with pytest.raises(UnprocessableError) as caught:
        client.put(bad)
    assert secret not in str(caught.value)
    assert caught.value.code == "fhir-refused"


def test_parallel_writes_of_one_resource_all_succeed(client: FhirClient) -> None:
    family = f"Contended{uuid.uuid4().hex[:8]}"

    def write(number: int) -> None:
        client.put({**_patient(family, 1), "birthDate": f"19{60 + number}-01-01"})

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(write, range(8)))
    assert client.read("Patient", f"{family.lower()}-1")["birthDate"].startswith("19")


def test_an_unchanged_put_makes_no_new_version(client: FhirClient) -> None:
    patient = _patient(f"Same{uuid.uuid4().hex[:8]}", 1)
    first, second = client.put(patient), client.put(patient)
    assert first["meta"]["versionId"] == second["meta"]["versionId"] == "1"


def test_a_server_that_is_not_there_is_unavailable() -> None:
    settings = FhirSettings(
        base_url=f"http://127.0.0.1:{free_port()}/fhir", timeout=timedelta(seconds=2)
    )
    with pytest.raises(UpstreamUnavailable):
        FhirClient(settings).metadata()
