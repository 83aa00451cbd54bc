"""Ids follow from what they stand for, and from nothing else."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from pydicom.uid import UID
from result_samples import MODEL

from fhir_ext.resources import ids


def key(**changes: object) -> str:
    arguments: dict[str, object] = {
        "study_instance_uid": "1.2.3",
        "series_instance_uid": "1.2.3.4",
        "sop_instance_uids": ["1.2.3.4.1", "1.2.3.4.2"],
        "model": MODEL,
    }
    return ids.inference_key(**{**arguments, **changes})  # type: ignore[arg-type]


def test_ids_never_change() -> None:
    """Ids that were written once: a change here would double every result of a site."""
    assert str(ids.NAMESPACE) == "bcd7760a-32d8-583e-870f-a27b7965a094"
    assert ids.imaging_study_id("1.2.3") == "b1516e2d-c470-580f-9844-9e3633a31aa8"
    assert key() == "b30eef5a7ac0f9adc9d869f3a529e3ecc798e215822b834c82717fc67dc736f1"
    assert ids.result_id("k", "panel") == "786b9ce7-0fe0-5bac-9391-1694954991d1"
    assert ids.dicom_uid("k", "sr") == "2.25.253415613363089190896373774186396397973"


def test_order_and_repetition_of_instances_do_not_matter() -> None:
    assert key(sop_instance_uids=["1.2.3.4.2", "1.2.3.4.1", "1.2.3.4.2"]) == key()


@pytest.mark.parametrize(
    "change",
    [
        {"study_instance_uid": "1.2.4"},
        {"series_instance_uid": "1.2.3.5"},
        {"sop_instance_uids": ["1.2.3.4.1"]},
        {"model": replace(MODEL, id="other")},
        {"model": replace(MODEL, version="1.0.1")},
        {"model": replace(MODEL, settings_hash="00" * 32)},
        {"priors": ["1.2.9"]},
    ],
)
def test_everything_that_changes_numbers_changes_the_key(change: dict[str, object]) -> None:
    assert key(**change) != key()


def test_title_and_review_policy_do_not_change_the_key() -> None:
    assert key(model=replace(MODEL, title="Another name", review="never")) == key()


def test_resource_ids_are_uuids_and_differ_by_every_part() -> None:
    made = {
        ids.result_id("k", "panel"),
        ids.result_id("l", "panel"),
        ids.result_id("k", "provenance"),
        ids.result_id("k", "measurement", "laa-950", "lungs"),
        ids.result_id("k", "measurement", "laa-950", "left-lung"),
        ids.result_id("k", "measurement", "laa-950lungs"),
        ids.task_id("k"),
        ids.parked_task_id("k"),
        ids.imaging_study_id("k"),
        ids.device_id(MODEL),
        ids.device_id(replace(MODEL, settings_hash="00" * 32)),
        ids.software_device_id("1.0.0"),
    }
    assert len(made) == 12
    assert all(UUID(item).version == 5 for item in made)


def test_dicom_uids_are_valid_and_short_enough() -> None:
    """PS3.5 section 9.1: at most 64 characters; B.2: 2.25 and a UUID as a decimal number."""
    uids = {
        ids.dicom_uid(key(), kind) for kind in ("sr", "sr-series", "observer", "tracking/lungs")
    }
    assert len(uids) == 4
    for uid in uids:
        assert UID(uid).is_valid
        assert len(uid) <= 64
        assert UUID(int=int(uid.removeprefix("2.25."))).version == 5
