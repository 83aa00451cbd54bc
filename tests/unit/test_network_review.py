"""When the rules of a manifest ask a human to look."""

from __future__ import annotations

from typing import Any

import pytest
from manifest_samples import site_manifest
from network_samples import DETECTED, MEASURED

from fhir_ext.results import (
    Classification,
    Detection,
    Measurement,
    Refusal,
    Region,
    Uncertainty,
)
from models.manifest import Manifest
from models.review import review_of
from models.service import ServiceOutput

DOUBT = {"kind": "network", "tensor": "sd"}
LOOK: dict[str, Any] = {"kind": "classification", "region": "lungs", "tensor": "classes"}
OUTPUTS = [
    {**MEASURED, "uncertainty": DOUBT},
    {**LOOK, "name": "look", "classes": [{"name": "plain"}, {"name": "bright"}]},
    {**LOOK, "name": "signs", "classes": [{"name": "stent"}, {"name": "wire"}], "exclusive": False},
    DETECTED,
]
TENSORS = ("mean", "sd", "classes", "boxes", "scores", "count")
REFUSAL = Refusal("kernel", "B70f", "another")


def manifest(*rules: dict[str, Any], review: str = "rule") -> Manifest:
    runtime = {
        "kind": "torchscript",
        "weights": {"file": "net.ts", "sha256": "0" * 64, "licence": "MIT"},
        "inputs": [{"name": "image", "shape": ["n", 1, "d", "h", "w"]}],
        "outputs": [{"name": name, "shape": ["n", "*"]} for name in TENSORS],
    }
    return site_manifest(runtime=runtime, outputs=OUTPUTS, review=review, review_rules=rules)


def measured(value: float | None, sd: float | None = None) -> ServiceOutput:
    doubt = None if sd is None else Uncertainty("sd", sd)
    refusal = REFUSAL if value is None else None
    found = Measurement("mean-density", Region.LUNGS, "[hnsf'U]", value, refusal, doubt)
    return ServiceOutput(measurements=(found,))


def classified(name: str, *probabilities: float) -> ServiceOutput:
    names = ("plain", "bright") if name == "look" else ("present", "absent")
    chosen = names[probabilities.index(max(probabilities))]
    found = Classification(name, Region.LUNGS, names, probabilities, chosen)
    return ServiceOutput(classifications=(found,))


def detected(*scores: float) -> ServiceOutput:
    places = (Detection("ball", Region.LUNGS, "ball", s, (0, 0, 0), (1, 1, 1)) for s in scores)
    return ServiceOutput(detections=tuple(places), searched=True)


ABOVE = {"output": "mean-density", "at_or_above": 5}
BELOW = {"output": "mean-density", "at_or_below": -5}
UNSURE = {"output": "mean-density", "uncertainty_above": 2}
LOOK_BELOW = {"output": "look", "score_below": 0.7}
SIGNS_BELOW = {"output": "signs", "score_below": 0.7}
BALL_BELOW = {"output": "ball", "score_below": 0.6}


@pytest.mark.parametrize(
    ("rule", "output", "wanted"),
    [
        (ABOVE, measured(5), True),
        (ABOVE, measured(4.9), False),
        (ABOVE, measured(None), False),
        (BELOW, measured(-5), True),
        (BELOW, measured(-4.9), False),
        (UNSURE, measured(0, 2.1), True),
        (UNSURE, measured(0, 2.0), False),
        (UNSURE, measured(0), False),
        (LOOK_BELOW, classified("look", 0.65, 0.35), True),
        (LOOK_BELOW, classified("look", 0.3, 0.7), False),
        (LOOK_BELOW, classified("stent", 0.5, 0.5), False),
        (SIGNS_BELOW, classified("wire", 0.4, 0.6), True),
        (SIGNS_BELOW, classified("wire", 0.2, 0.8), False),
        (BALL_BELOW, detected(0.9, 0.5), True),
        (BALL_BELOW, detected(0.9, 0.6), False),
        (BALL_BELOW, detected(), False),
        (BALL_BELOW, measured(0), False),
    ],
)
def test_one_rule(rule: dict[str, Any], output: ServiceOutput, wanted: bool) -> None:
    assert review_of(manifest(rule), output) is wanted


def test_one_of_several_rules_is_enough() -> None:
    made = manifest(ABOVE, BELOW)
    found = [review_of(made, measured(value)) for value in (-9, 0, 9)]
    assert found == [True, False, True]


def test_without_rules_the_policy_decides() -> None:
    assert review_of(manifest(), measured(9)) is None
    assert review_of(manifest(review="always"), measured(9)) is None


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"output": "look", "at_or_above": 0.5}, "is for numbers only"),
        ({"output": "mean-density", "score_below": 0.5}, "is for classes and detections"),
        ({"output": "nothing", "score_below": 0.5}, "is no output of the model"),
        ({"output": "look", "uncertainty_above": 0.5}, "is for numbers only"),
    ],
)
def test_rules_that_can_never_hold_are_errors(rule: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        manifest(rule)


def test_a_number_without_uncertainty_has_no_rule_for_it() -> None:
    made = manifest().model_dump(mode="json", exclude_none=True)
    made["outputs"][0].pop("uncertainty")
    made["review_rules"] = [UNSURE]
    with pytest.raises(ValueError, match="has no uncertainty"):
        Manifest.model_validate(made)


@pytest.mark.parametrize(("region", "taken"), [("lungs", True), ("left-lung", False)])
def test_classes_share_the_names_of_results(region: str, taken: bool) -> None:
    made = manifest().model_dump(mode="json", exclude_none=True)
    made["outputs"].append({**MEASURED, "name": "wire", "region": region})
    if taken:
        with pytest.raises(ValueError, match="is the name of another result"):
            Manifest.model_validate(made)
    else:
        assert len(Manifest.model_validate(made).outputs) == 5
