"""What a manifest says of its numbers holds for every service alike."""

from __future__ import annotations

import math
from typing import Any

import pytest
from manifest_samples import site_manifest

from fhir_ext.results import Issue, Measurement, Refusal, Risk, Uncertainty
from models.manifest import Manifest, MeasurementOutput
from models.registry import Registry
from models.review import review_of
from models.said import all_withheld, measured
from models.service import Conclusions

REGISTRY = Registry()
REFUSAL = Refusal("kernel", "B70f", "another")


def manifest(*outputs: dict[str, Any], **changes: Any) -> Manifest:
    return site_manifest(outputs=outputs, **changes)


def output(name: str = "organ-volume", unit: str = "mL", **changes: Any) -> dict[str, Any]:
    return {"name": name, "region": "liver", "unit": unit, "valid": [0, 100], **changes}


def number(found: float, **changes: Any) -> Measurement:
    (one,) = measured(manifest(output(**changes)), {}, lambda _: found).measurements
    return one


@pytest.mark.parametrize(
    ("unit", "written"),
    [("1", 12.346), ("%", 12.346), ("mm3", 12.3), ("mL", 12.3), ("mm", 12.3), ("[hnsf'U]", 12.35),
     ("kg/m2", 12.3457)],
)  # fmt: skip
def test_decimals_follow_from_the_unit(unit: str, written: float) -> None:
    assert number(12.345678, unit=unit).value == written


@pytest.mark.parametrize(
    ("found", "seen"),
    [(100.06, "100.1"), (-0.06, "-0.1"), (math.nan, "nan"), (math.inf, "inf")],
)
def test_what_is_outside_of_the_valid_range_is_withheld(found: float, seen: str) -> None:
    assert number(found).refusal == Refusal("implausible-value", seen, "0 to 100")


@pytest.mark.parametrize("found", [100.04, -0.04])
def test_the_number_that_is_written_is_the_one_that_is_compared(found: float) -> None:
    assert number(found).value in (0, 100)


def test_cut_offs_and_uncertainty_belong_to_numbers_that_stand() -> None:
    told = {"name": "large", "at": 50, "because": "Somebody."}
    doubt = {"kind": "interval", "value": 3, "level": 0.9}
    made = manifest(output(thresholds=[told], uncertainty=doubt))
    said = measured(made, {}, lambda _: 49.96)
    assert said.notes == (("organ-volume", "large: at or above 50 mL. Somebody."),)
    assert said.measurements[0].uncertainty == Uncertainty("interval", 3, 0.9)
    assert measured(made, {}, lambda _: 49.94).notes == ()
    high = measured(made, {}, lambda _: 101.0)
    assert (high.notes, high.measurements[0].uncertainty) == ((), None)


def test_the_rule_for_doubt_holds_for_code_too() -> None:
    doubt = {"kind": "sd", "value": 3}
    rule = {"output": "organ-volume", "uncertainty_above": 2}
    made = manifest(output(uncertainty=doubt), review="rule", review_rules=[rule])
    assert review_of(made, measured(made, {}, lambda _: 1.0)) is True
    assert review_of(made, measured(made, {}, lambda _: REFUSAL)) is False


def test_nobody_is_asked_for_what_a_gate_refuses() -> None:
    asked = []

    def measure(wanted: MeasurementOutput) -> float:
        asked.append(wanted.name)
        return 7.0

    made = manifest(output(), output("organ-attenuation"))
    said = measured(made, {"organ-volume": REFUSAL}, measure)
    assert [item.refusal for item in said.measurements] == [REFUSAL, None]
    assert asked == ["organ-attenuation"]


def test_conclusions_see_every_number() -> None:
    seen: list[Measurement] = []
    risk, issue = Risk("emphysema", "high", "Why.", ()), Issue("emphysema-on-ct", "low", "Why.", ())

    def conclude(measurements: tuple[Measurement, ...]) -> Conclusions:
        seen.extend(measurements)
        return (risk,), (issue,)

    said = measured(manifest(output()), {}, lambda _: REFUSAL, conclude)
    assert (said.risks, said.issues) == ((risk,), (issue,))
    assert tuple(seen) == said.measurements


@pytest.mark.parametrize("shipped", REGISTRY.shipped(), ids=lambda item: item.manifest.id)
def test_every_output_is_withheld_in_its_place(shipped: Any) -> None:
    said = all_withheld(shipped.manifest, REFUSAL)
    given = [item.name for item in (*said.measurements, *said.classifications)]
    given += [name for name, _ in said.withheld]
    wanted = []
    for item in shipped.manifest.outputs:
        results = getattr(item, "results", lambda: ())()
        wanted += [name for name, _ in results] or [item.name]
    assert given == wanted
    assert not said.stands
