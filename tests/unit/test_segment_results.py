"""Measurements on segmentations as FHIR and SR, and read back."""

from __future__ import annotations

from io import BytesIO

import pydicom
from result_samples import ISSUED, context, panel_of, resources
from seg_samples import ct_header
from segment_samples import GRID, SHAPE, measured

from fhir_ext.dicom.sr import build_sr
from fhir_ext.resources import codes
from fhir_ext.resources.bundle import result_bundle
from fhir_ext.resources.reading import read_member

RESULT = measured()


def test_members_are_read_back_with_their_regions() -> None:
    bundle = result_bundle(RESULT, context(RESULT))
    panel = panel_of(bundle)
    assert panel["code"]["coding"][0]["code"] == "segment-measurements-panel"
    assert "bodySite" not in panel
    by_id = {item["id"]: item for item in resources(bundle, "Observation")}
    members = [by_id[ref["reference"].split("/")[1]] for ref in panel["hasMember"]]
    for item, member in zip(RESULT.measurements, members, strict=True):
        found = read_member(member)
        assert found is not None
        assert (found.name, found.region, found.value) == (item.name, item.region, item.value)
        assert found.reason == (item.refusal.rule if item.refusal else "")
        assert all(c["code"] for c in member["code"]["coding"])
    standing = [item for item in RESULT.measurements if item.value is not None]
    assert {(m.name, str(m.region)) for m in standing} >= {
        ("organ-volume", "left-kidney"), ("organ-volume", "right-kidney"),
        ("agatston-score", "coronary-arteries"), ("calcium-volume", "coronary-arteries"),
    }  # fmt: skip


def test_sides_are_said_of_pairs_only() -> None:
    bundle = result_bundle(RESULT, context(RESULT))
    sides = {}
    for item in resources(bundle, "Observation"):
        text = item.get("bodySite", {}).get("text")
        found = [
            c["valueCodeableConcept"]["coding"][0]["code"]
            for c in item.get("component", [])
            if c["code"]["coding"][0]["code"] == codes.LATERALITY.code
        ]
        sides[text] = found
    assert sides["Left kidney"] == ["7771000"]
    assert sides["Right kidney"] == ["24028007"]
    assert sides["Coronary arteries"] == sides["Liver"] == sides["L1"] == []


def test_the_issue_rests_on_the_scores() -> None:
    (issue,) = resources(result_bundle(RESULT, context(RESULT)), "DetectedIssue")
    assert issue["code"]["coding"][0]["code"] == "coronary-calcium"
    assert issue["detail"].startswith("Agatston score 1024.0, CAC-DRS A3")
    assert len(issue["evidence"][0]["detail"]) == 1


def test_an_sr_of_them() -> None:
    evidence = [ct_header(GRID, SHAPE, index) for index in range(2)]
    written = build_sr(RESULT, evidence, ISSUED)
    output = BytesIO()
    pydicom.dcmwrite(output, written, enforce_file_format=True)
    read_back = pydicom.dcmread(BytesIO(output.getvalue()))
    text = str(read_back)
    assert "Coronary artery calcium score" in text
    assert "cubic millimeter" in text
    # The code of the score does not say whose score it is.
    assert "Agatston scoring method" in text
    assert build_sr(RESULT, evidence, ISSUED) == written
