"""What a result becomes: statuses, labels, withheld numbers, reviews, supersession."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from result_samples import (
    ISSUE,
    KERNEL,
    MODEL,
    context,
    measurements,
    member,
    panel_of,
    refused,
    resources,
    result,
)

from fhir_ext.resources import codes
from fhir_ext.resources.bundle import merge_bundles, result_bundle
from fhir_ext.resources.ids import (
    device_id,
    imaging_study_id,
    parked_task_id,
    result_id,
    software_device_id,
    task_id,
)
from fhir_ext.resources.task import parked_task
from fhir_ext.results import Refusal, Region, ServiceResult

LEFT, RIGHT, BOTH = codes.LEFT.code, codes.RIGHT.code, codes.BILATERAL.code


def bundle_of(of: ServiceResult, **changes: Any) -> dict[str, Any]:
    return result_bundle(of, context(of, **changes))


def stored(of: ServiceResult, **statuses: str) -> tuple[dict[str, Any], ...]:
    """Results as a server gives them back: with versions, and some under other statuses."""
    found = []
    for entry in bundle_of(of)["entry"]:
        item = json.loads(json.dumps(entry["resource"]))
        if item["resourceType"] in ("Observation", "RiskAssessment", "DetectedIssue", "Task"):
            item["meta"] = {
                **item["meta"],
                "versionId": "4",
                "lastUpdated": "2026-01-05T09:30:16.000Z",
                "source": "#abc",
            }
            item["status"] = statuses.get(item["resourceType"], item["status"])
            found.append(item)
    return tuple(found)


def test_same_arguments_give_the_same_bytes() -> None:
    first = json.dumps(bundle_of(result(withheld={"perc15": KERNEL})))
    assert json.dumps(bundle_of(result(withheld={"perc15": KERNEL}))) == first


def test_every_entry_is_a_put_under_its_own_id() -> None:
    bundle = bundle_of(result())
    assert bundle["type"] == "transaction"
    for entry in bundle["entry"]:
        resource = entry["resource"]
        assert entry["request"] == {
            "method": "PUT",
            "url": f"{resource['resourceType']}/{resource['id']}",
        }
    urls = [entry["request"]["url"] for entry in bundle["entry"]]
    assert len(set(urls)) == len(urls)


def test_all_that_the_model_says_is_preliminary_and_labelled() -> None:
    bundle = bundle_of(result())
    for kind in ("Observation", "RiskAssessment", "DetectedIssue"):
        assert resources(bundle, kind)
        for resource in resources(bundle, kind):
            assert resource["status"] == "preliminary"
            assert resource["meta"]["security"] == [codes.AI_ASSERTED.as_json()]


def test_panel_names_its_source_device_series_and_members() -> None:
    made = result()
    bundle = bundle_of(made)
    panel = panel_of(bundle)
    assert panel["id"] == result_id(made.inference_key, "panel")
    assert panel["derivedFrom"] == [
        {"reference": f"ImagingStudy/{imaging_study_id(made.study_instance_uid)}"}
    ]
    assert panel["device"] == {"reference": f"Device/{device_id(MODEL)}"}
    assert panel["effectiveDateTime"] == "2026-01-05T10:15:00+01:00"
    assert panel["issued"] == "2026-01-05T09:30:15.123Z"
    assert panel["component"][0]["code"]["coding"][0]["code"] == "112002"
    assert panel["component"][0]["valueString"] == made.series_instance_uid
    identifiers = {item["system"]: item["value"] for item in panel["identifier"]}
    assert identifiers[codes.INFERENCE_KEY] == made.inference_key
    assert identifiers["urn:dicom:uid"].startswith("urn:oid:2.25.")
    members = [o["id"] for o in resources(bundle, "Observation") if o["id"] != panel["id"]]
    assert [m["reference"].split("/")[1] for m in panel["hasMember"]] == members
    assert len(members) == len(made.measurements) == 12


def test_what_is_not_known_is_left_out() -> None:
    bundle = bundle_of(
        result(), started=None, sr_instance_uid=None, seg_instance_uid=None, trace_id=None
    )
    panel = panel_of(bundle)
    assert "effectiveDateTime" not in panel
    assert [item["system"] for item in panel["identifier"]] == [codes.INFERENCE_KEY]
    assert len(panel["component"]) == 1
    (audit,) = resources(bundle, "AuditEvent")
    assert "trace-id" not in json.dumps(audit)


def test_a_number_has_its_unit_site_and_side() -> None:
    left = member(bundle_of(result()), "lung-volume", LEFT)
    assert left["valueQuantity"] == {
        "value": 5123.4,
        "unit": "mL",
        "system": "http://unitsofmeasure.org",
        "code": "mL",
    }
    assert [c["code"] for c in left["code"]["coding"]] == ["lung-volume", "118565006"]
    assert [c["code"] for c in left["bodySite"]["coding"]] == [
        "39607008:272741003=7771000",
        "39607008",
    ]
    assert left["bodySite"]["text"] == "Left lung"
    assert "dataAbsentReason" not in left
    both = member(bundle_of(result()), "lung-volume", BOTH)
    assert [c["code"] for c in both["bodySite"]["coding"]] == ["39607008"]


def test_the_threshold_of_laa_950_is_stated() -> None:
    item = member(bundle_of(result()), "laa-950", RIGHT)
    values = {c["code"]["coding"][0]["code"]: c.get("valueQuantity") for c in item["component"]}
    assert values["112032"]["value"] == -950
    assert values["112032"]["code"] == "[hnsf'U]"


def test_a_withheld_number_has_a_coded_reason_and_no_value() -> None:
    bundle = bundle_of(result(withheld={"perc15": KERNEL}))
    item = member(bundle, "perc15", LEFT)
    assert "valueQuantity" not in item
    assert [(c["system"], c["code"]) for c in item["dataAbsentReason"]["coding"]] == [
        ("http://terminology.hl7.org/CodeSystem/data-absent-reason", "not-performed"),
        ("https://w3id.org/fhir-ext/CodeSystem/refusal-reason", "kernel"),
    ]
    assert "B70f" in item["note"][0]["text"]
    assert "a smooth kernel" in item["note"][0]["text"]
    assert "valueQuantity" in member(bundle, "lung-volume", LEFT)


@pytest.mark.parametrize(
    ("rule", "general", "specific"),
    [
        ("kernel", "not-performed", "kernel"),
        ("lung-mask-implausible", "error", "lung-mask-implausible"),
        ("implausible-value", "error", "implausible-value"),
        ("a-rule-of-tomorrow", "not-performed", "other"),
    ],
)
def test_kinds_of_absence(rule: str, general: str, specific: str) -> None:
    item = member(bundle_of(result(withheld={"perc15": Refusal(rule, "x", "y")})), "perc15", BOTH)
    assert [c["code"] for c in item["dataAbsentReason"]["coding"]] == [general, specific]
    assert item["note"][0]["text"].startswith(f"{rule}: ")


def test_risk_has_no_probability_and_rests_on_both_lungs() -> None:
    made = result()
    (risk,) = resources(bundle_of(made), "RiskAssessment")
    (prediction,) = risk["prediction"]
    assert not [name for name in prediction if name.startswith("probability")]
    assert prediction["qualitativeRisk"]["coding"][0]["code"] == "high"
    assert "doi 10.2147/COPD.S284477" in prediction["rationale"]
    assert risk["basis"] == [
        {
            "reference": "Observation/"
            + result_id(made.inference_key, "measurement", "laa-950", "lungs")
        }
    ]
    assert "lung-density 1.0.0" in risk["method"]["text"]
    assert risk["performer"] == {"reference": f"Device/{device_id(MODEL)}"}


def test_evidence_falls_back_to_the_sides() -> None:
    both = Refusal("implausible-value", "99", "0 to 85")
    numbers = tuple(
        replace(m, value=None, refusal=both)
        if (m.name, m.region) == ("laa-950", Region.LUNGS)
        else m
        for m in measurements()
    )
    (risk,) = resources(bundle_of(result(measurements=numbers)), "RiskAssessment")
    assert len(risk["basis"]) == 2


def test_an_issue_about_one_region_names_no_other() -> None:
    left = replace(ISSUE, region=Region.LEFT_LUNG)
    made = result(issues=(left,))
    (issue,) = resources(bundle_of(made), "DetectedIssue")
    (named,) = issue["evidence"][0]["detail"]
    assert named["reference"].endswith(
        result_id(made.inference_key, "measurement", "laa-950", "left-lung")
    )


def test_a_risk_that_rests_on_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no number that stands"):
        bundle_of(result(withheld={"laa-950": KERNEL}))


def test_issue_has_its_evidence_and_is_dropped_when_known() -> None:
    made = result()
    (issue,) = resources(bundle_of(made), "DetectedIssue")
    assert issue["author"] == {"reference": f"Device/{device_id(MODEL)}"}
    assert issue["severity"] == "moderate"
    assert issue["implicated"][0]["reference"].endswith(result_id(made.inference_key, "panel"))
    assert issue["evidence"][0]["detail"]
    assert issue["evidence"][0]["code"][0]["coding"][0]["code"] == "87433001"
    known = bundle_of(made, known_conditions=frozenset({"emphysema"}))
    assert resources(known, "DetectedIssue") == []
    assert len(resources(known, "RiskAssessment")) == 1
    assert len(resources(bundle_of(made, known_conditions={"other"}), "DetectedIssue")) == 1


@pytest.mark.parametrize(
    ("policy", "raised", "asked"),
    [
        ("always", True, True),
        ("always", False, True),
        ("rule", True, True),
        ("rule", False, False),
        ("never", True, False),
    ],
)
def test_review_follows_the_policy(policy: Any, raised: bool, asked: bool) -> None:
    made = result(model=replace(MODEL, review=policy))
    if not raised:
        made = replace(made, risks=(), issues=())
    tasks = resources(bundle_of(made), "Task")
    assert len(tasks) == asked
    for task in tasks:
        assert (task["status"], task["intent"]) == ("requested", "order")
        assert task["code"]["coding"][0]["code"] == "review-ai-result"
        assert task["reasonCode"]["coding"][0]["code"] == f"policy-{policy}"
        assert task["focus"] == task["input"][0]["valueReference"]
        assert len(task["input"]) == 1 + 2 * raised


def test_a_known_issue_alone_asks_for_no_review_by_rule() -> None:
    made = result(model=replace(MODEL, review="rule"), risks=())
    assert resources(bundle_of(made, known_conditions={"emphysema"}), "Task") == []


def test_a_refused_result_is_written_and_not_reviewed() -> None:
    bundle = bundle_of(refused())
    assert len(resources(bundle, "Observation")) == 13
    assert resources(bundle, "Task") == []
    assert len(resources(bundle, "Provenance")) == 1


@pytest.mark.parametrize(
    ("policy", "says", "reason"),
    [
        ("rule", True, "policy-rule"),
        ("rule", False, None),
        ("never", True, "policy-rule"),
        ("always", True, "policy-always"),
    ],
)
def test_what_the_service_says_goes_before_the_policy(
    policy: Any, says: bool, reason: str | None
) -> None:
    made = result(model=replace(MODEL, review=policy), review=says)
    asked = [t["reasonCode"]["coding"][0]["code"] for t in resources(bundle_of(made), "Task")]
    assert asked == ([] if reason is None else [reason])
    nothing = replace(made, status="refused", risks=(), issues=())
    assert resources(bundle_of(nothing), "Task") == []


def test_provenance_targets_all_and_names_agents_and_source() -> None:
    made = result()
    bundle = bundle_of(made)
    (provenance,) = resources(bundle, "Provenance")
    assert provenance["id"] == result_id(made.inference_key, "provenance")
    written = [
        f"{r['resourceType']}/{r['id']}"
        for kind in ("Observation", "RiskAssessment", "DetectedIssue", "Task")
        for r in resources(bundle, kind)
    ]
    assert [target["reference"] for target in provenance["target"]] == written
    assert [agent["who"]["reference"] for agent in provenance["agent"]] == [
        f"Device/{device_id(MODEL)}",
        f"Device/{software_device_id('0.1.0')}",
    ]
    source, series = provenance["entity"]
    assert series["role"] == "source"
    assert series["what"]["identifier"]["value"] == f"urn:oid:{made.series_instance_uid}"
    study = f"ImagingStudy/{imaging_study_id(made.study_instance_uid)}"
    assert source["role"] == "source"
    assert source["what"]["reference"] == f"{study}/_history/3"


def test_audit_names_the_patient_the_key_and_the_trace() -> None:
    made = result()
    (audit,) = resources(bundle_of(made), "AuditEvent")
    patient = audit["entity"][0]
    assert patient["what"] == {"reference": "Patient/example"}
    assert (patient["type"]["code"], patient["role"]["code"]) == ("1", "1")
    assert [agent["type"]["coding"][0]["code"] for agent in audit["agent"]] == ["110153", "110152"]
    details = {d["type"]: d["valueString"] for d in audit["entity"][1]["detail"]}
    assert details == {
        "inference-key": made.inference_key,
        "trace-id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }


def test_devices_are_the_exact_model_version_and_this_software() -> None:
    model, software = resources(bundle_of(result()), "Device")
    assert model["version"][0]["value"] == "1.0.0"
    assert model["version"][1]["value"] == MODEL.settings_hash
    assert model["type"]["coding"][0]["code"] == "Artificial-Intelligence"
    assert software["version"][0]["value"] == "0.1.0"


def test_superseded_preliminary_results_are_cancelled_once_and_only_as_read() -> None:
    old = stored(result(instances=("1.2.3.1",)))
    bundle = bundle_of(result(), superseded=old)
    cancelled = [e for e in bundle["entry"] if e["resource"].get("status") == "cancelled"]
    assert {e["resource"]["id"] for e in cancelled} == {item["id"] for item in old}
    for entry in cancelled:
        assert entry["request"]["ifMatch"] == 'W/"4"'
        assert set(entry["resource"].get("meta", {})) <= {"profile", "security"}
    (provenance,) = resources(bundle, "Provenance")
    revised = [e["what"]["reference"] for e in provenance["entity"] if e["role"] == "revision"]
    assert revised == [
        f"{item['resourceType']}/{item['id']}" for item in old if item["resourceType"] != "Task"
    ]
    targets = {target["reference"].split("/")[1] for target in provenance["target"]}
    assert not targets & {item["id"] for item in old}


@pytest.mark.parametrize("status", ["final", "amended", "corrected", "entered-in-error"])
def test_what_a_human_signed_stays(status: str) -> None:
    old = stored(
        result(instances=("1.2.3.1",)),
        Observation=status,
        RiskAssessment=status,
        DetectedIssue=status,
        Task="completed",
    )
    bundle = bundle_of(result(), superseded=old)
    written = {entry["resource"]["id"] for entry in bundle["entry"]}
    assert not written & {item["id"] for item in old}
    (provenance,) = resources(bundle, "Provenance")
    assert [e["role"] for e in provenance["entity"]].count("revision") == 15


def test_what_was_replaced_before_is_not_revised_again() -> None:
    old = stored(
        result(instances=("1.2.3.1",)),
        Observation="cancelled",
        RiskAssessment="cancelled",
        DetectedIssue="cancelled",
        Task="cancelled",
    )
    bundle = bundle_of(result(), superseded=old)
    (provenance,) = resources(bundle, "Provenance")
    assert [e["role"] for e in provenance["entity"]] == ["source", "source"]
    assert not [e for e in bundle["entry"] if e["resource"].get("status") == "cancelled"]


def test_a_task_that_somebody_works_on_stays() -> None:
    old = stored(result(instances=("1.2.3.1",)), Task="in-progress")
    bundle = bundle_of(result(), superseded=old)
    assert task_id(result(instances=("1.2.3.1",)).inference_key) not in {
        task["id"] for task in resources(bundle, "Task")
    }


def test_a_result_does_not_cancel_itself() -> None:
    bundle = bundle_of(result(), superseded=stored(result()))
    assert not [e for e in bundle["entry"] if e["resource"].get("status") == "cancelled"]


def test_superseded_resources_are_not_changed_in_place() -> None:
    old = stored(result(instances=("1.2.3.1",)))
    before = json.dumps(old)
    bundle_of(result(), superseded=old)
    assert json.dumps(old) == before


def test_merged_results_share_their_devices() -> None:
    one, two = result(), result(series="1.2.826.0.1.3680043.8.498.1.2")
    merged = merge_bundles([bundle_of(one), bundle_of(two)])
    assert len(resources(merged, "Device")) == 2
    assert len(resources(merged, "Provenance")) == 2
    assert len(resources(merged, "Observation")) == 26
    urls = [entry["request"]["url"] for entry in merged["entry"]]
    assert len(set(urls)) == len(urls)


def test_merging_what_contradicts_is_an_error() -> None:
    with pytest.raises(ValueError, match="different content"):
        merge_bundles([bundle_of(result()), bundle_of(result(), imaging_study_version="4")])


def test_an_instant_needs_a_time_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        bundle_of(result(), issued=datetime(2026, 1, 5))  # noqa: DTZ001  that is the point


def test_what_we_have_no_code_for_is_an_error_of_conclusions_only() -> None:
    made = result()
    with pytest.raises(KeyError):
        bundle_of(replace(made, risks=(replace(made.risks[0], outcome="unheard-of"),)))
    assert resources(bundle_of(replace(made, service="unheard-of", issues=(), risks=())), "Task")


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        ("incomplete-study", "incomplete-study", "incomplete-study"),
        ("not-in-archive", "incomplete-study", "not-in-archive"),
        ("upstream-unavailable", "stuck-work", "upstream-unavailable"),
        ("a-code-of-tomorrow", "stuck-work", "other"),
    ],
)
def test_parked_task_says_why_and_how_to_go_on(code: str, kind: str, reason: str) -> None:
    task = parked_task(
        "study-1",
        patient_reference="Patient/example",
        step="publish",
        code=code,
        text="a series has 3 of 4 instances",
        authored=context(result()).issued,
    )
    assert task["id"] == parked_task_id("study-1")
    assert (task["status"], task["intent"]) == ("requested", "order")
    assert task["focus"] == {"reference": "ImagingStudy/study-1"}
    assert task["for"] == {"reference": "Patient/example"}
    assert task["code"]["coding"][0]["code"] == kind
    assert task["reasonCode"]["coding"][0]["code"] == reason
    assert task["reasonCode"]["text"] == code
    assert task["input"][0]["valueString"] == "fhir-ext analyze study-1"
    assert "publish" in task["description"]


def test_parked_task_without_a_patient() -> None:
    task = parked_task(
        "study-1",
        patient_reference=None,
        step="prepare",
        code="parked",
        text="",
        authored=context(result()).issued,
    )
    assert "for" not in task
    assert task["description"] == "Step prepare: parked"
