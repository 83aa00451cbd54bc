"""Planning with several versions, segmentations and mammograms; states of versions."""

from __future__ import annotations

from typing import Any

import pytest
from planning import plan_of

from models.lifecycle import Assignment, State, VersionState, assign, draw
from models.registry import Registry
from operations.analyze.plan import (
    NO_SEGMENTATION,
    Plan,
    SeriesRef,
    VersionRef,
)
from operations.analyze.rules import Rules, default_rule

RULES = Rules.model_validate(
    {
        "services": [
            {"service": "density", "modality": ["CT"]},
            {"service": "segments", "modality": ["CT"]},
            {"service": "breast", "modality": ["MG"]},
        ]
    }
)
IMAGES = {"density": "volume", "segments": "segmented-volume", "breast": "mammograms"}


def planned(*series: tuple[str, str, int], **assigned: Assignment) -> Plan:
    return plan_of(RULES, IMAGES, assigned, *series)


def reasons(plan: Plan) -> set[tuple[str, str, str]]:
    return {(item.series_instance_uid, item.service, item.reason) for item in plan.not_applied}


def test_a_shadow_looks_at_what_the_active_version_looks_at() -> None:
    plan = planned(("1.1", "CT", 50), density=Assignment("1.0.0", shadows=("1.1.0", "2.0.0")))
    (job,) = plan.jobs
    assert job.versions == (
        VersionRef("density", "1.0.0", "active"),
        VersionRef("density", "1.1.0", "shadow"),
        VersionRef("density", "2.0.0", "shadow"),
    )


def test_a_canary_writes_in_place_of_the_active_version() -> None:
    plan = planned(("1.1", "CT", 50), density=Assignment("1.1.0", canary=True))
    assert plan.jobs[0].versions == (VersionRef("density", "1.1.0", "canary"),)


def test_segments_are_read_beside_the_stack_by_who_needs_them() -> None:
    both = {"density": Assignment("1.0.0"), "segments": Assignment("1.0.0")}
    plan = planned(("1.1", "CT", 50), ("1.2", "SEG", 2), **both)
    (job,) = plan.jobs
    assert job.further == (SeriesRef("1.2", 2),)
    assert [version.service for version in job.versions] == ["density", "segments"]
    alone = planned(("1.1", "CT", 50), ("1.2", "SEG", 2), density=Assignment("1.0.0"))
    assert alone.jobs[0].further == ()


def test_without_a_segmentation_that_is_the_reason() -> None:
    plan = planned(("1.1", "CT", 50), segments=Assignment("1.0.0"))
    assert plan.jobs == ()
    assert ("1.1", "segments", NO_SEGMENTATION) in reasons(plan)


def test_mammograms_of_a_study_are_one_job_whatever_their_order() -> None:
    series = (("1.3", "MG", 1), ("1.1", "MG", 2), ("1.2", "MG", 1))
    plan = planned(*series, breast=Assignment("1.0.0"))
    (job,) = plan.jobs
    assert job.kind == "mammograms"
    assert (job.series_instance_uid, job.instance_count) == ("1.1", 2)
    assert job.further == (SeriesRef("1.2", 1), SeriesRef("1.3", 1))
    assert planned(*reversed(series), breast=Assignment("1.0.0")).jobs == plan.jobs


def test_installed_and_not_switched_on_is_another_reason_than_not_installed() -> None:
    plan = planned(("1.1", "CT", 50), density=Assignment())
    assert plan.jobs == ()
    assert ("1.1", "density", "model-not-active") in reasons(plan)
    assert ("1.1", "segments", "model-not-installed") in reasons(plan)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_canary_sees_its_share_and_always_the_same_studies(share: float) -> None:
    states = (
        VersionState("density", "1.0.0", State.ACTIVE),
        VersionState("density", "1.1.0", State.CANARY, share),
        VersionState("density", "2.0.0", State.SHADOW),
        VersionState("density", "0.9.0", State.RETIRED),
        VersionState("density", "0.8.0", State.RECALLED),
    )
    studies = [f"1.2.{number}" for number in range(2000)]
    chosen = {uid for uid in studies if assign(states, uid)["density"].canary}
    assert chosen == {uid for uid in studies if draw("density", uid) < share}
    assert abs(len(chosen) / len(studies) - share) < 0.04
    for uid in studies:
        item = assign(states, uid)["density"]
        assert item.writes == ("1.1.0" if uid in chosen else "1.0.0")
        assert item.shadows == ("2.0.0",)


def test_a_larger_share_sees_the_studies_of_a_smaller_one_too() -> None:
    def chosen(share: float) -> set[str]:
        states = (VersionState("density", "1.1.0", State.CANARY, share),)
        studies = (f"1.2.{number}" for number in range(500))
        return {uid for uid in studies if assign(states, uid)["density"].canary}

    assert chosen(0.1) < chosen(0.5) < chosen(1.0)


def test_nothing_is_active_when_nothing_was_activated() -> None:
    states = (VersionState("density", "1.0.0", State.DRAFT),)
    assert assign(states, "1.2")["density"] == Assignment()


def test_a_service_without_a_rule_follows_its_manifest() -> None:
    manifest = Registry().manifest("lung-density")
    completed = RULES.completed([manifest])
    assert [rule.service for rule in completed.services] == [
        "density",
        "segments",
        "breast",
        "lung-density",
    ]
    rule = completed.services[-1]
    assert rule.modality == manifest.inputs.modality
    assert rule.min_instances == manifest.inputs.min_slices
    assert RULES.completed([manifest]).completed([manifest]) == completed


def test_body_parts_of_a_manifest_are_the_codes_that_series_carry() -> None:
    manifest = Registry().manifest("lung-density")
    inputs = manifest.inputs.model_copy(update={"body_part": ("CHEST", "no such part")})
    changed: Any = manifest.model_copy(update={"inputs": inputs})
    assert default_rule(changed).body_site == ("816094009",)
