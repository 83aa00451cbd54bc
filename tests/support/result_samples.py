"""Results and contexts for tests of the builders; nothing here comes from a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from fhir_ext.resources.context import WriteContext
from fhir_ext.resources.ids import dicom_uid, imaging_study_id, inference_key
from fhir_ext.results import (
    Issue,
    Measurement,
    ModelIdentity,
    Refusal,
    Region,
    Risk,
    ServiceResult,
)

MODEL = ModelIdentity(
    id="lung-density",
    version="1.0.0",
    title="Lung density on CT",
    settings_hash="5e" * 32,
    review="always",
)
STUDY_UID = "1.2.826.0.1.3680043.8.498.1"
SERIES_UID = "1.2.826.0.1.3680043.8.498.1.1"
KERNEL = Refusal("kernel", "B70f", "a smooth kernel on the list of its manufacturer")
RISK = Risk(
    "emphysema",
    "high",
    "LAA-950 of both lungs is 7.3 %; 5 % or more is CT emphysema (doi 10.2147/COPD.S284477).",
    ("laa-950",),
)
ISSUE = Issue(
    code="emphysema-on-ct",
    severity="moderate",
    detail="LAA-950 of both lungs is 7.3 %; 5 % or more is CT emphysema.",
    evidence=("laa-950",),
    known_condition="emphysema",
)
ISSUED = datetime(2026, 1, 5, 9, 30, 15, 123456, tzinfo=UTC)

#: The regions of lung density.
LUNGS = (Region.LUNGS, Region.LEFT_LUNG, Region.RIGHT_LUNG)

_VALUES = {
    "lung-volume": ("mL", 5123.4),
    "mean-lung-density": ("[hnsf'U]", -842.11),
    "laa-950": ("%", 7.25),
    "perc15": ("[hnsf'U]", -951.3),
}


def measurements(withheld: dict[str, Refusal] | None = None) -> tuple[Measurement, ...]:
    """All numbers of lung density; those named in `withheld` as refusals."""
    withheld = withheld or {}
    return tuple(
        Measurement(name, region, unit, refusal=withheld[name])
        if name in withheld
        else Measurement(name, region, unit, value=value)
        for name, (unit, value) in _VALUES.items()
        for region in LUNGS
    )


def result(
    *,
    study: str = STUDY_UID,
    series: str = SERIES_UID,
    instances: Sequence[str] = ("1.2.3.1", "1.2.3.2"),
    model: ModelIdentity = MODEL,
    withheld: dict[str, Refusal] | None = None,
    **changes: Any,
) -> ServiceResult:
    """A result that found emphysema, with some numbers withheld on request."""
    made = ServiceResult(
        service="lung-density",
        model=model,
        inference_key=inference_key(study, series, instances, model),
        study_instance_uid=study,
        series_instance_uid=series,
        sop_instance_uids=tuple(sorted(instances)),
        status="done",
        measurements=measurements(withheld),
        risks=(RISK,),
        issues=(ISSUE,),
    )
    return replace(made, **changes)


def refused(**changes: Any) -> ServiceResult:
    """A result that gives no number at all."""
    withheld = dict.fromkeys(_VALUES, Refusal("no-slices", "0 slices", "a stack of slices"))
    return result(withheld=withheld, status="refused", risks=(), issues=(), **changes)


def context(of: ServiceResult, **changes: Any) -> WriteContext:
    """A context in which everything optional is stated."""
    made = WriteContext(
        patient_reference="Patient/example",
        imaging_study_id=imaging_study_id(of.study_instance_uid),
        imaging_study_version="3",
        issued=ISSUED,
        started="2026-01-05T10:15:00+01:00",
        sr_instance_uid=dicom_uid(of.inference_key, "sr"),
        seg_instance_uid=dicom_uid(of.inference_key, "seg"),
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        software_version="0.1.0",
    )
    return replace(made, **changes)


def resources(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Resources of one type in a bundle, in order."""
    found = (entry["resource"] for entry in bundle["entry"])
    return [resource for resource in found if resource["resourceType"] == kind]


def panel_of(bundle: dict[str, Any]) -> dict[str, Any]:
    """The one panel that is not cancelled."""
    (found,) = (
        o
        for o in resources(bundle, "Observation")
        if "hasMember" in o and o["status"] != "cancelled"
    )
    return found


def member(bundle: dict[str, Any], name: str, side: str) -> dict[str, Any]:
    """The member of a measurement on one side (SNOMED CT laterality)."""
    (found,) = (
        o
        for o in resources(bundle, "Observation")
        if o["code"]["coding"][0]["code"] == name
        and o["component"][0]["valueCodeableConcept"]["coding"][0]["code"] == side
    )
    return found
