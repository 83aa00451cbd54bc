"""A cardiothoracic ratio, stated and withheld, is valid in a real HAPI, profiles included."""

from __future__ import annotations

import pytest
import requests
from result_samples import context, resources, result

from fhir_ext.resources.bundle import result_bundle
from fhir_ext.results import Measurement, Refusal, Region
from models.registry import Registry

HEADERS = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
REGISTRY = Registry()
MANIFEST = REGISTRY.manifest("cardiothoracic-ratio")


@pytest.mark.parametrize(
    ("said", "count"),
    [({"value": 0.565}, 3), ({"refusal": Refusal("view-position", "AP", "PA")}, 2)],
    ids=["stated", "withheld"],
)
def test_every_resource_is_valid(hapi_base_url: str, said: dict[str, object], count: int) -> None:
    found = Measurement("cardiothoracic-ratio", Region.HEART, "1", **said)  # type: ignore[arg-type]
    conclusions = REGISTRY.derive(MANIFEST.identity(), (found,))
    assert conclusions is not None
    risks, issues = conclusions
    of = result(
        service="cardiothoracic-ratio",
        model=MANIFEST.identity(),
        measurements=(found,),
        risks=risks,
        issues=issues,
        status="done" if found.value is not None else "refused",
    )
    bundle = result_bundle(of, context(of))
    checked = 0
    for kind in ("Observation", "DetectedIssue"):
        for resource in resources(bundle, kind):
            answer = requests.post(
                f"{hapi_base_url}/{kind}/$validate", json=resource, headers=HEADERS, timeout=60
            )
            problems = [
                item["diagnostics"]
                for item in answer.json()["issue"]
                if item["severity"] in ("error", "fatal")
            ]
            assert problems == [], resource["id"]
            checked += 1
    assert checked == count
