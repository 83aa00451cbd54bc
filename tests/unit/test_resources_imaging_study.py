"""ImagingStudy: what the archive says, and what is kept of what others said."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydicom import Dataset

from fhir_ext.resources.ids import imaging_study_id
from fhir_ext.resources.imaging_study import (
    ArchiveSeries,
    ArchiveStudy,
    build_imaging_study,
    study_from_header,
    study_instance_uid_of,
)

SERIES = (
    ArchiveSeries("1.2.3.2", "CT", 3, "Lung B70f", 120, "CHEST"),
    ArchiveSeries("1.2.3.1", "CT", 2, "Lung B30f", 120, "CHEST"),
    ArchiveSeries("1.2.3.9", "SR", None, None, 1),
)
STUDY = ArchiveStudy("1.2.3", SERIES, "2026-01-05", "Chest CT", "A-17")


def build(study: ArchiveStudy = STUDY, **arguments: Any) -> dict[str, Any]:
    return build_imaging_study(study, **{"patient_reference": "Patient/1", **arguments})


def header(**elements: str) -> Dataset:
    found = Dataset()
    for keyword, value in elements.items():
        setattr(found, keyword, value)
    return found


def test_says_what_the_archive_holds() -> None:
    study = build(endpoint_reference="Endpoint/archive")
    assert study["id"] == imaging_study_id("1.2.3")
    assert study["status"] == "available"
    assert study["subject"] == {"reference": "Patient/1"}
    assert study["identifier"][0] == {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}
    assert study["identifier"][1]["value"] == "A-17"
    assert study["endpoint"] == [{"reference": "Endpoint/archive"}]
    assert study["started"] == "2026-01-05"
    assert (study["numberOfSeries"], study["numberOfInstances"]) == (3, 241)
    assert [m["code"] for m in study["modality"]] == ["CT", "SR"]
    assert [s["uid"] for s in study["series"]] == ["1.2.3.1", "1.2.3.2", "1.2.3.9"]


def test_series_carry_modality_and_body_site() -> None:
    first, _, report = build()["series"]
    assert first["modality"] == {
        "system": "http://dicom.nema.org/resources/ontology/DCM",
        "code": "CT",
    }
    assert first["bodySite"]["code"] == "816094009"
    assert first["numberOfInstances"] == 120
    assert "bodySite" not in report
    assert "number" not in report


@pytest.mark.parametrize(
    ("term", "code"),
    [("chest ", "816094009"), ("NECKCHESTABDPELV", "416319003"), ("Thorax free text", None)],
)
def test_body_part_only_by_the_dictionary(term: str, code: str | None) -> None:
    study = ArchiveStudy("1.2.3", (ArchiveSeries("1.2.3.1", "CT", body_part=term),))
    assert build(study)["series"][0].get("bodySite", {}).get("code") == code


def test_an_odd_modality_becomes_other() -> None:
    study = ArchiveStudy("1.2.3", (ArchiveSeries("1.2.3.1", "weird value"),))
    assert build(study)["series"][0]["modality"]["code"] == "OT"
    assert "modality" not in build(study)


def test_an_unchanged_study_is_equal_to_the_existing_one() -> None:
    existing = build()
    existing["meta"] = {"versionId": "1", "lastUpdated": "2026-01-05T10:00:00Z", "source": "#x"}
    assert build(existing=existing) == existing
    assert build(existing=existing, patient_reference=None) == existing


def test_what_others_said_is_kept() -> None:
    existing = build()
    existing["subject"]["display"] = "as the site writes it"
    existing["basedOn"] = [{"reference": "ServiceRequest/7"}]
    existing["note"] = [{"text": "said by a radiographer"}]
    existing["identifier"].append({"system": "urn:site", "value": "x"})
    existing["endpoint"] = [{"reference": "Endpoint/other"}]
    existing["series"][0]["performer"] = [{"actor": {"reference": "Practitioner/2"}}]
    before = copy.deepcopy(existing)
    grown = ArchiveStudy(
        "1.2.3", (*SERIES, ArchiveSeries("1.2.3.4", "CT", 4)), "2026-01-05", None, "A-17"
    )
    study = build(grown, existing=existing, endpoint_reference="Endpoint/archive")
    assert existing == before
    for name in ("subject", "basedOn", "note", "description"):
        assert study[name] == existing[name]
    assert {"system": "urn:site", "value": "x"} in study["identifier"]
    assert [e["reference"] for e in study["endpoint"]] == ["Endpoint/other", "Endpoint/archive"]
    assert study["series"][0]["performer"] == existing["series"][0]["performer"]
    assert study["numberOfSeries"] == 4


def test_a_link_that_a_human_changed_replaces_the_subject() -> None:
    study = build(existing=build(), patient_reference="Patient/2")
    assert study["subject"] == {"reference": "Patient/2"}


def test_no_subject_is_an_error() -> None:
    with pytest.raises(ValueError, match="subject"):
        build(patient_reference=None)


@pytest.mark.parametrize("status", ["cancelled", "entered-in-error"])
def test_a_withdrawn_study_stays_withdrawn(status: str) -> None:
    assert build(existing={**build(), "status": status})["status"] == status


def test_a_changed_accession_number_replaces_the_old_one() -> None:
    study = build(ArchiveStudy("1.2.3", SERIES, accession="A-18"), existing=build())
    assert [i["value"] for i in study["identifier"]] == ["urn:oid:1.2.3", "A-18"]


@pytest.mark.parametrize(
    ("identifiers", "uid"),
    [
        ([{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}], "1.2.3"),
        ([{"system": "urn:dicom:uid", "value": "1.2.3"}], "1.2.3"),
        ([{"system": "urn:other", "value": "1.2.3"}], None),
        ([{"system": "urn:dicom:uid"}], None),
        ([], None),
    ],
)
def test_study_uid_of_any_imaging_study(identifiers: list[dict[str, str]], uid: str | None) -> None:
    assert study_instance_uid_of({"identifier": identifiers}) == uid


@pytest.mark.parametrize(
    ("elements", "started"),
    [
        ({"StudyDate": "20260105", "StudyTime": "101500"}, "2026-01-05"),
        (
            {
                "StudyDate": "20260105",
                "StudyTime": "101500.123",
                "TimezoneOffsetFromUTC": "-0330",
            },
            "2026-01-05T10:15:00-03:30",
        ),
        (
            {"StudyDate": "20260105", "StudyTime": "10", "TimezoneOffsetFromUTC": "+0100"},
            "2026-01-05",
        ),
        (
            {"StudyDate": "20260105", "StudyTime": "235960", "TimezoneOffsetFromUTC": "+0100"},
            "2026-01-05",
        ),
        ({"StudyDate": ""}, None),
        ({}, None),
    ],
)
def test_started_invents_no_time_zone(elements: dict[str, str], started: str | None) -> None:
    assert study_from_header("1.2.3", header(**elements), SERIES).started == started


def test_header_texts_are_cleaned() -> None:
    study = study_from_header(
        "1.2.3", header(StudyDescription=" Chest\tCT ", AccessionNumber=""), SERIES
    )
    assert study.description == "Chest CT"
    assert study.accession is None
    assert study.series == SERIES
