"""Measurements on segmentations are valid in a real HAPI, profiles and codes included."""

from __future__ import annotations

import requests
from result_samples import context, resources
from segment_samples import measured

from fhir_ext.resources.bundle import result_bundle

HEADERS = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}


def test_every_resource_is_valid(hapi_base_url: str) -> None:
    of = measured()
    bundle = result_bundle(of, context(of))
    checked = 0
    for kind in ("Observation", "DetectedIssue"):
        for resource in resources(bundle, kind):
            answer = requests.post(
                f"{hapi_base_url}/{kind}/$validate", json=resource, headers=HEADERS, timeout=60
            )
            issues = answer.json()["issue"]
            errors = [i["diagnostics"] for i in issues if i["severity"] in ("error", "fatal")]
            assert errors == [], resource["id"]
            checked += 1
    assert checked == len(of.measurements) + 2
