"""The nodule inputs: one nodule of one study."""

from __future__ import annotations

from datetime import date

import pytest
from charts import RADELEMENT, SCT, concept, nodule, quantity

from operations.risk_score.chart import read_chart
from operations.risk_score.chart_codes import NODULE_INPUTS

AS_OF = date(2026, 3, 1)


def read(*resources, allow_preliminary=False):
    return read_chart(resources, NODULE_INPUTS, AS_OF, allow_preliminary=allow_preliminary)


def test_everything_is_read_from_one_nodule() -> None:
    found = read(nodule(8.4, resource_id="n")).inputs
    assert {name: item.value for name, item in found.items()} == {
        "nodule-diameter": 8.4,
        "nodule-type": "solid",
        "upper-lobe": True,
        "nodule-count": 1,
        "spiculated": True,
    }
    assert {item.reference for item in found.values()} == {"Observation/n"}
    assert {item.source for item in found.values()} == {"imaging"}


def test_the_longest_diameter_of_the_newest_study_decides() -> None:
    found = read(
        nodule(30.0, "2025-12-01", study="ImagingStudy/old", resource_id="a"),
        nodule(6.0, resource_id="b", composition="RDE1301.1", margin="RDE1305.0"),
        nodule(0.9, resource_id="c", location="RDE1304.4"),
        nodule(7.5, resource_id="d", location="RDE1304.8", margin="RDE1305.1"),
    ).inputs
    assert found["nodule-diameter"].value == 7.5
    assert found["nodule-count"].value == 3
    assert (found["upper-lobe"].value, found["spiculated"].value) == (False, False)


def test_sizes_are_compared_in_one_unit() -> None:
    small = nodule(9.0, resource_id="a")
    large = nodule(None, resource_id="b")
    long_axis = {"code": concept(SCT, "103339001"), "valueQuantity": quantity(1.2, "cm")}
    large["component"].append(long_axis)
    found = read(small, large).inputs["nodule-diameter"]
    assert (found.value, found.unit, found.reference) == (12.0, "mm", "Observation/b")


def test_the_average_diameter_is_not_the_longest() -> None:
    item = nodule(None)
    average = {"code": concept(RADELEMENT, "RDE1302"), "valueQuantity": quantity(9, "mm")}
    item["component"].append(average)
    assert "nodule-diameter" not in read(item).inputs


def test_a_long_axis_goes_before_a_diameter() -> None:
    item = nodule(9.0)
    item["component"].insert(
        0, {"code": concept(SCT, "81827009"), "valueQuantity": quantity(7, "mm")}
    )
    assert read(item).inputs["nodule-diameter"].value == 9.0


@pytest.mark.parametrize(
    ("site", "upper"),
    [("45653009", True), ("44714003", True), ("42400003", True), ("90572001", False),
     ("41224006", False), ("266005", False), ("72481006", False), ("39607008", None)],
)  # fmt: skip
def test_the_lobe_may_be_the_body_site(site, upper) -> None:
    found = read(nodule(8.0, location=None, bodySite=concept(SCT, site))).inputs
    assert (found["upper-lobe"].value if "upper-lobe" in found else None) is upper


def test_a_side_without_a_lobe_and_a_contradiction_say_nothing() -> None:
    assert "upper-lobe" not in read(nodule(8.0, location="RDE1304.5")).inputs
    found = read(nodule(8.0, location="RDE1304.6", bodySite=concept(SCT, "266005")))
    assert "upper-lobe" not in found.inputs
    assert [note.name for note in found.notes] == ["upper-lobe"]


def test_without_a_study_there_is_no_count() -> None:
    found = read(
        nodule(8.0, study=None, resource_id="a"), nodule(9.0, study=None, resource_id="b")
    ).inputs
    assert "nodule-count" not in found
    assert found["nodule-diameter"].reference == "Observation/b", "the newest stands for itself"


def test_one_nodule_in_two_observations_is_one() -> None:
    tracking = {
        "code": concept("http://dicom.nema.org/resources/ontology/DCM", "112040"),
        "valueString": "2.25.1",
    }
    twice = [nodule(8.0, resource_id="a"), nodule(8.1, resource_id="b")]
    for item in twice:
        item["component"].append(tracking)
    found = read(*twice, nodule(4.0, resource_id="c")).inputs
    assert found["nodule-count"].value == 2


def test_several_nodules_without_sizes_leave_the_nodule_open() -> None:
    found = read(nodule(None, resource_id="a"), nodule(None, resource_id="b"))
    assert set(found.inputs) == {"nodule-count"}
    assert [note.name for note in found.notes] == ["nodule-diameter"]


def test_old_wrong_and_preliminary_nodules_do_not_count() -> None:
    assert not read(nodule(8.0, "2025-02-28")).inputs
    assert not read(nodule(8.0, "2026-03-02")).inputs
    assert not read(nodule(8.0, status="entered-in-error")).inputs
    waiting = nodule(8.0, status="preliminary")
    assert not read(waiting).inputs
    assert all(item.preliminary for item in read(waiting, allow_preliminary=True).inputs.values())
