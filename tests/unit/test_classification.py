"""Classification: what it may hold, and its Observation."""

from __future__ import annotations

from typing import Any

import pytest
from classification_samples import DENSITY, LETTERS, WITHHELD, work
from result_samples import context

from fhir_ext.resources import codes
from fhir_ext.resources.classification import classification, classification_reference
from fhir_ext.results import Classification, Refusal, Region

REFUSAL = Refusal("missing-view", "none", "four")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"chosen": "e"},
        {"chosen": "a", "category_codes": (None,)},
        {"chosen": "e", "probabilities": (0.1, 0.2, 0.3, 0.4)},
        {"chosen": "a", "probabilities": (0.5, 0.5)},
        {"chosen": "a", "probabilities": (0.5, 0.5, 0.5, 0.5)},
        {"chosen": "a", "probabilities": (1.5, -0.5, 0.0, 0.0)},
        {"chosen": "a", "probabilities": (float("nan"), 0.5, 0.5, 0.0)},
        {"refusal": REFUSAL, "chosen": "a", "probabilities": (0.1, 0.2, 0.3, 0.4)},
        {"refusal": REFUSAL, "probabilities": (0.1, 0.2, 0.3, 0.4)},
    ],
    ids=str,
)
def test_what_contradicts_itself_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"classification|probabilities"):
        Classification("breast-density", Region.BREASTS, LETTERS, **changes)


def test_category_and_probabilities() -> None:
    of = work()
    made = classification(of, DENSITY, context(of))
    assert made["status"] == "preliminary"
    assert made["meta"]["security"] == [codes.AI_ASSERTED.as_json()]
    assert [c["code"] for c in made["code"]["coding"]] == ["breast-density", "129715009"]
    assert [c["code"] for c in made["valueCodeableConcept"]["coding"]] == ["b", "129717001"]
    assert made["bodySite"]["coding"][0]["code"] == "63762007"
    said = {c["code"]["coding"][0]["code"]: c["valueQuantity"]["value"] for c in made["component"]}
    assert said == {
        "breast-density-a-probability": 0.081944,
        "breast-density-b-probability": 0.78304,
        "breast-density-c-probability": 0.133503,
        "breast-density-d-probability": 0.001513,
    }
    assert "dataAbsentReason" not in made
    assert {"reference": f"Observation/{made['id']}"} == classification_reference(of, DENSITY)
    assert made == classification(of, DENSITY, context(of))


def test_a_refusal_has_a_coded_reason_and_no_value() -> None:
    of = work(status="refused")
    made = classification(of, WITHHELD, context(of, sr_instance_uid=None))
    assert not {"valueCodeableConcept", "component"} & made.keys()
    assert [c["code"] for c in made["dataAbsentReason"]["coding"]] == [
        "not-performed",
        "missing-view",
    ]
    assert made["note"][0]["text"].startswith("missing-view: found no L-MLO; needed")
    assert len(made["identifier"]) == 1


def test_every_category_has_our_code_a_standard_one_and_a_probability() -> None:
    assert codes.CATEGORIES.keys() == codes.STANDARD_CLASSIFICATION.keys()
    for name, system in codes.CATEGORIES.items():
        assert name in codes.CLASSIFICATION
        for item in system.codes:
            assert f"{name}-{item.code}-probability" in codes.CLASSIFICATION
            assert item.code in codes.STANDARD_CATEGORY[name]
