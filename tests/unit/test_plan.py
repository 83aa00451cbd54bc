"""Planning rules: what applies, and a readable reason for everything that does not."""

from __future__ import annotations

import pytest

from fhir_ext.errors import SettingsError
from models.lifecycle import Assignment
from operations.analyze.plan import Plan, VersionRef, age_years, make_plan
from operations.analyze.rules import Rules, load_rules

SHIPPED = load_rules(None)
#: The rule of lung density alone, so that others do not say why they are not applied.
DENSITY = Rules(services=tuple(r for r in SHIPPED.services if r.service == "lung-density"))


def _study(**series: object) -> dict[str, object]:
    base = {"uid": "1.2.3", "modality": {"code": "CT"}, "numberOfInstances": 120}
    return {"started": "2026-05-04T10:00:00+00:00", "series": [{**base, **series}]}


def _plan(study: dict[str, object], **kwargs: object) -> object:
    arguments = {
        "birth_date": "1960-01-01",
        "programs": frozenset(),
        "assigned": {"lung-density": Assignment("1.0.0")},
        **kwargs,
    }
    return _made(DENSITY, study, **arguments)


def _made(rules: Rules, study: dict[str, object], **arguments: object) -> Plan:
    return make_plan(rules, study, images=lambda _service, _version: "volume", **arguments)


def test_adult_chest_ct_is_planned() -> None:
    plan = _plan(_study())
    assert [job.versions for job in plan.jobs] == [(VersionRef("lung-density", "1.0.0"),)]
    assert plan.jobs[0].instance_count == 120
    assert plan.not_applied == ()


@pytest.mark.parametrize(
    ("series", "kwargs", "reason", "seen"),
    [
        ({"modality": {"code": "MR"}}, {}, "modality", "MR"),
        ({}, {"assigned": {}}, "model-not-installed", "lung-density"),
        ({}, {"assigned": {"lung-density": Assignment()}}, "model-not-active", "lung-density"),
        ({"bodySite": {"code": "12738006"}}, {}, "body-part", "12738006"),
        ({"description": "Scout PA"}, {}, "description", "matches scout"),
        ({"numberOfInstances": 3}, {}, "too-few-instances", "3"),
        ({}, {"birth_date": "2015-06-01"}, "age", "10 years"),
    ],
)
def test_each_condition_gives_its_reason(
    series: dict[str, object], kwargs: dict[str, object], reason: str, seen: str
) -> None:
    plan = _plan(_study(**series), **kwargs)
    assert plan.jobs == ()
    assert [(item.reason, item.seen) for item in plan.not_applied] == [(reason, seen)]


IMAGES = {"segment-measurements": "segmented-volume", "breast-density": "mammograms"}


def _shipped(*series: tuple[str, int, str], born: str = "1960-01-01") -> dict[str, set[str]]:
    """Service to the series that it looks at, by the shipped rules with everything installed.

    Args:
        series: modality, instances, SNOMED CT code of the body site (or empty).
    """
    listed = [
        {
            "uid": f"1.{number}",
            "modality": {"code": modality},
            "numberOfInstances": instances,
            **({"bodySite": {"code": site}} if site else {}),
        }
        for number, (modality, instances, site) in enumerate(series, start=1)
    ]
    plan = make_plan(
        SHIPPED,
        {"started": "2026-05-04T10:00:00+00:00", "series": listed},
        birth_date=born,
        programs=frozenset(),
        assigned={rule.service: Assignment("1.0.0") for rule in SHIPPED.services},
        images=lambda service, _version: IMAGES.get(service, "volume"),
    )
    found: dict[str, set[str]] = {}
    for job in plan.jobs:
        for version in job.versions:
            looked = {job.series_instance_uid}
            if job.whole_study:
                looked |= {item.series_instance_uid for item in job.further}
            found.setdefault(version.service, set()).update(looked)
    return found


def test_the_shipped_rules_name_a_service_once() -> None:
    names = [rule.service for rule in SHIPPED.services]
    assert names == ["lung-density", "segment-measurements", "breast-density", "nodule-detection"]


CHEST, ABDOMEN, HEAD = "816094009", "818981001", "69536005"


@pytest.mark.parametrize(
    ("series", "services"),
    [
        ([("CT", 120, CHEST)], {"lung-density", "nodule-detection"}),
        ([("CT", 120, "")], {"lung-density"}),
        (
            [("CT", 120, CHEST), ("SEG", 1, "")],
            {"lung-density", "nodule-detection", "segment-measurements"},
        ),
        ([("CT", 4, ABDOMEN), ("SEG", 1, "")], {"segment-measurements"}),
        ([("CT", 2, ABDOMEN), ("SEG", 1, "")], set()),
        ([("CT", 120, HEAD), ("SEG", 1, "")], set()),
        ([("MG", 1, "")], {"breast-density"}),
        ([("MR", 120, CHEST), ("SEG", 1, "")], set()),
    ],
    ids=str,
)
def test_shipped_rules(series: list[tuple[str, int, str]], services: set[str]) -> None:
    assert _shipped(*series).keys() == services
    assert _shipped(*series, born="2015-01-01") == {}


def test_mammograms_of_a_study_are_looked_at_together() -> None:
    views = [("MG", 1, "76752008")] * 4
    assert _shipped(*views) == {"breast-density": {"1.1", "1.2", "1.3", "1.4"}}


@pytest.mark.parametrize(("unknown", "planned"), [("apply", True), ("skip", False)])
def test_an_unknown_age_is_the_rule_s_to_decide(unknown: str, planned: bool) -> None:
    rule = {"service": "s", "modality": ["CT"], "min_age_years": 18, "age_unknown": unknown}
    plan = _made(
        Rules.model_validate({"services": [rule]}),
        _study(),
        birth_date=None,
        programs=frozenset(),
        assigned={"s": Assignment("1.0.0")},
    )
    assert bool(plan.jobs) is planned
    assert [item.seen for item in plan.not_applied] == ([] if planned else ["unknown"])


def test_free_text_of_the_description_is_never_repeated() -> None:
    plan = _plan(_study(description="localizer for Mrs Doe"))
    assert "Doe" not in plan.not_applied[0].seen


def test_program_membership() -> None:
    rules = Rules.model_validate(
        {"services": [{"service": "s", "modality": ["CT"], "program": "lung-screening"}]}
    )
    arguments = {"birth_date": None, "assigned": {"s": Assignment("1.0.0")}}
    outside = _made(rules, _study(), programs=frozenset(), **arguments)
    inside = _made(rules, _study(), programs=frozenset({"lung-screening"}), **arguments)
    assert outside.not_applied[0].reason == "program"
    assert [item.service for item in inside.jobs[0].versions] == ["s"]


@pytest.mark.parametrize(
    ("born", "started", "years"),
    [
        ("1960-05-04", "2026-05-04T00:00:00+00:00", 66),
        ("1960", "2026-01-01", 66),
        ("1960-05", "2026-05-02", 66),
        (None, "2026-05-02", None),
        ("1960-05", None, None),
    ],
)
def test_age_at_the_study(born: str | None, started: str | None, years: int | None) -> None:
    age = age_years(born, started)
    assert (age is None and years is None) or round(age) == years


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("services: [", "not YAML"),
        ("services: [{service: x}]", "modality"),
        ("services: [{service: x, modality: [CT], typo: 1}]", "typo"),
        ("services: [{service: x, modality: [CT], exclude_description: ['(']}]", "not valid"),
    ],
)
def test_wrong_rules_say_where(tmp_path, text: str, says: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=says):
        load_rules(path)
