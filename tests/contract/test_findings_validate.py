"""Results of every kind, ours and a site's, are valid in a real HAPI; profiles hold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import requests
from finding_samples import detected, of_a_site, refused_detection
from result_samples import context, panel_of, resources
from review_samples import ANN, Queue, allow, chosen, modified, parameters, struck, task_of

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.resources.bundle import create_only, result_bundle
from fhir_ext.resources.codes.naming import SITE_KINDS, site_system
from fhir_ext.resources.conformance import load_bundle
from fhir_ext.resources.ids import result_id
from fhir_ext.settings import FhirSettings
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.review.parameters import read_request
from operations.review.service import ReviewService

Json = dict[str, Any]
HEADERS = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
RESULTS = {
    "found": detected(),
    "none-found": detected(found=()),
    "not-looked": refused_detection(),
    "site": of_a_site(),
}


class Hapi:
    """`$validate` and transactions by plain requests."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.session = requests.Session()
        self.session.headers.update(HEADERS)
        assert self.post("", load_bundle()).status_code == 200

    def post(self, path: str, body: Json) -> requests.Response:
        return self.session.post(f"{self.base_url}{path}", json=body, timeout=60)

    def issues(self, resource: Json) -> list[Json]:
        answer = self.post(f"/{resource['resourceType']}/$validate", resource)
        found: list[Json] = answer.json()["issue"]
        return found

    def errors(self, resource: Json) -> list[str]:
        return [
            issue["diagnostics"]
            for issue in self.issues(resource)
            if issue["severity"] in ("error", "fatal")
        ]


@pytest.fixture(scope="module")
def hapi(hapi_base_url: str) -> Hapi:
    return Hapi(hapi_base_url)


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("stated", ["all", "least"])
def test_no_error_of_validate(hapi: Hapi, name: str, stated: str) -> None:
    of = RESULTS[name]
    optional = dict.fromkeys(("started", "sr_instance_uid", "seg_instance_uid", "trace_id"), None)
    bundle = result_bundle(of, context(of, **(optional if stated == "least" else {})))
    for entry in bundle["entry"]:
        resource = entry["resource"]
        assert hapi.errors(resource) == [], resource["resourceType"]


def test_a_code_of_a_site_is_at_most_a_warning(hapi: Hapi) -> None:
    of = of_a_site()
    told = [
        issue
        for resource in resources(result_bundle(of, context(of)), "Observation")
        for issue in hapi.issues(resource)
        if any(site_system(kind) in issue["diagnostics"] for kind in SITE_KINDS)
    ]
    assert told
    assert {issue["severity"] for issue in told} <= {"warning", "information"}


def test_all_of_it_can_be_written_and_found(hapi: Hapi) -> None:
    hapi.session.put(
        f"{hapi.base_url}/Patient/example",
        json={"resourceType": "Patient", "id": "example"},
        timeout=60,
    )
    of = of_a_site(study="1.2.826.0.1.3680043.8.498.4712")
    bundle = result_bundle(of, context(of))
    study = {
        "resourceType": "ImagingStudy",
        "id": context(of).imaging_study_id,
        "status": "available",
        "subject": {"reference": "Patient/example"},
    }
    url = f"{hapi.base_url}/ImagingStudy/{study['id']}"
    assert hapi.session.put(url, json=study, timeout=60).status_code in (200, 201)
    answer = hapi.post("", bundle)
    assert answer.status_code == 200, answer.text
    panel = panel_of(bundle)

    def found(**params: str) -> list[str]:
        answer = hapi.session.get(
            f"{hapi.base_url}/Observation",
            params=params,
            headers={"Cache-Control": "no-cache"},
            timeout=60,
        )
        return [entry["resource"]["id"] for entry in answer.json().get("entry", [])]

    assert found(code=f"{site_system('panel')}|acme-liver") == [panel["id"]]
    assert len(found(code=f"{site_system('measurement')}|acme-liver.liver-fat")) == 1
    assert len(found(**{"value-concept": "http://snomed.info/sct|197321007"})) == 1
    key = f"https://w3id.org/fhir-ext/identifier/inference-key|{of.inference_key}"
    assert len(found(identifier=key)) == 9


def _other_class(resource: Json) -> None:
    resource["code"]["coding"][0]["code"] = "no-such-code"


def _without(name: str) -> Callable[[Json], None]:
    def change(resource: Json) -> None:
        resource["component"] = [
            part for part in resource["component"] if part["code"]["coding"][0]["code"] != name
        ]

    return change


@pytest.mark.parametrize(
    "change",
    [
        _other_class,
        _without("score"),
        _without("centre-y"),
        _without("112040"),
        lambda r: r.pop("valueCodeableConcept"),
        lambda r: r.pop("bodySite"),
        lambda r: r["meta"].pop("security"),
    ],
)
def test_the_profile_of_places_holds(hapi: Hapi, change: Callable[[Json], object]) -> None:
    of = detected()
    place = copy.deepcopy(resources(result_bundle(of, context(of)), "Observation")[-1])
    assert hapi.errors(place) == []
    change(place)
    assert hapi.errors(place) != []


def test_the_profile_of_a_site_s_names_holds(hapi: Hapi) -> None:
    of = of_a_site()
    number = copy.deepcopy(resources(result_bundle(of, context(of)), "Observation")[1])
    assert hapi.errors(number) == []
    del number["code"]["coding"][0]
    assert hapi.errors(number) != []


@pytest.mark.parametrize("outcome", ["modify", "reject"])
def test_what_a_review_makes_of_them_is_valid(hapi: Hapi, outcome: str) -> None:
    fhir = FhirClient(FhirSettings(base_url=hapi.base_url))
    fhir.put({"resourceType": "Patient", "id": "example"})
    of = of_a_site(study=f"1.2.826.0.1.3680043.8.498.4713.{ord(outcome[0])}")
    fhir.put(
        {
            "resourceType": "ImagingStudy",
            "id": context(of).imaging_study_id,
            "status": "available",
            "subject": {"reference": "Patient/example"},
        }
    )
    fhir.transaction_once(create_only(result_bundle(of, context(of))))
    grade = result_id(of.inference_key, "classification", "grade", "liver")
    cyst = result_id(of.inference_key, "detection", "0")
    changes = [chosen(grade, site_system("category"), "acme-liver.grade.none"), struck(cyst)]
    body = modified(*changes) if outcome == "modify" else parameters("reject")
    service = ReviewService(fhir, Queue(), Registry(), Metrics())
    task = service.review(task_of(of), ANN, read_request(body), "1", allow)
    (trail,) = (o["valueReference"] for o in task["output"] if "valueReference" in o)
    provenance = fhir.read(*trail["reference"].split("/"))
    written = [fhir.read(*t["reference"].split("/")) for t in provenance["target"]]
    assert len(written) == 1 + 8 + 1
    assert {r["id"]: e for r in (*written, provenance) if (e := hapi.errors(r))} == {}
    statuses = {r["id"]: r["status"] for r in written}
    assert statuses[cyst] == "entered-in-error"
    assert statuses[grade] == ("amended" if outcome == "modify" else "entered-in-error")
