"""What monitoring writes is valid in a real HAPI and found by model version; no patient in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from drift_samples import FIRST
from result_samples import MODEL

import fhir_ext
from fhir_ext.clients.fhir import FhirClient
from fhir_ext.resources import codes
from fhir_ext.resources.conformance import load_bundle
from fhir_ext.resources.device import model_device, software_device
from fhir_ext.resources.drift_issue import drift_issue
from fhir_ext.resources.ids import device_id, model_alert_id
from fhir_ext.settings import FhirSettings
from operations.model_drift.alerts import KINDS

Json = dict[str, Any]


@pytest.fixture(scope="module")
def fhir(hapi_base_url: str) -> FhirClient:
    client = FhirClient(FhirSettings(base_url=hapi_base_url))
    client.transaction(load_bundle())
    client.put(model_device(MODEL))
    client.put(software_device(fhir_ext.__version__))
    client.put({"resourceType": "Patient", "id": "drift-example"})
    return client


def issue(kind: str = "output-drift") -> Json:
    return drift_issue(
        model_alert_id(MODEL.id, MODEL.version, MODEL.settings_hash, kind, 1),
        MODEL,
        kind=kind,
        severity="high",
        findings=("laa-950/lungs PSI 0.41 (0.30 to 0.55, p < 0.0001)",),
        spans="2026-01-29 to 2026-02-05 against 2026-01-01 to 2026-01-29",
        identified=FIRST,
    )


def errors(fhir: FhirClient, resource: Json) -> list[str]:
    issues = fhir.validate(resource)["issue"]
    return [i["diagnostics"] for i in issues if i["severity"] in ("error", "fatal")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_valid(fhir: FhirClient, kind: str) -> None:
    assert errors(fhir, issue(kind)) == []


def _with_patient(resource: Json) -> None:
    resource["patient"] = {"reference": "Patient/drift-example"}


def _without_device(resource: Json) -> None:
    del resource["implicated"]


def _other_code(resource: Json) -> None:
    resource["code"]["coding"][0]["code"] = "input-drift"


def _unknown_kind(resource: Json) -> None:
    resource["evidence"][0]["code"][0]["coding"][0]["code"] = "moon-phase"


@pytest.mark.parametrize("break_it", [_with_patient, _without_device, _other_code, _unknown_kind])
def test_the_profile_refuses_what_it_must(
    fhir: FhirClient, break_it: Callable[[Json], object]
) -> None:
    broken = issue()
    break_it(broken)
    assert errors(fhir, broken)


def test_alerts_are_found_by_version_and_a_repeat_changes_nothing(fhir: FhirClient) -> None:
    first = fhir.put(issue())
    again = fhir.put(issue())
    assert first["meta"]["versionId"] == again["meta"]["versionId"] == "1"
    coded = f"{codes.MODEL_ALERT.url}|model-drift"
    asked = {"implicated": f"Device/{device_id(MODEL)}", "code": coded}
    assert issue()["id"] in [found["id"] for found in fhir.search("DetectedIssue", asked)]
    assert fhir.search("DetectedIssue", {**asked, "patient": "Patient/drift-example"}) == []
