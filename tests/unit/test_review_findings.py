"""Reviews of categories and of places: what is written, refused, counted and archived."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from classification_samples import DENSITY, WITHHELD, work
from finding_samples import detected, headers, of_a_site
from pydicom import Dataset
from result_samples import ISSUED
from review_samples import (
    ANN,
    MemoryFhir,
    Queue,
    allow,
    chosen,
    modified,
    stored,
    struck,
    task_of,
)

from fhir_ext.clients.stow import StoreReport
from fhir_ext.errors import BadRequestError, NotFoundError, UnprocessableError
from fhir_ext.resources import codes
from fhir_ext.resources.codes.naming import site_system
from fhir_ext.resources.detection import detection_uid
from fhir_ext.resources.ids import dicom_uid, result_id
from fhir_ext.resources.review_reading import Difference, machine_values, read_decided
from fhir_ext.results import Classification, Region, ServiceResult
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from operations.review.parameters import read_request
from operations.review.service import ReviewService
from subscriptions.review import CorrectSr, _difference

Json = dict[str, Any]
REGISTRY = Registry()
SCT = codes.SCT
INSTALLED = REGISTRY.manifest("breast-density").identity()
DENSITY_OF = replace(work(classifications=(DENSITY,)), model=INSTALLED)
FOUND = detected()
SITE = of_a_site()


def density_id(of: ServiceResult = DENSITY_OF) -> str:
    return result_id(of.inference_key, "classification", "breast-density", "breasts")


def place_id(of: ServiceResult, at: int) -> str:
    return result_id(of.inference_key, "detection", str(at))


def decide(fhir: MemoryFhir, of: ServiceResult, *changes: Json) -> Json:
    service = ReviewService(fhir, Queue(), REGISTRY, Metrics())
    asked = read_request(modified(*changes))
    return service.review(task_of(of), ANN, asked, "1", allow)


def trail(fhir: MemoryFhir, task: Json) -> Json:
    (found,) = (o["valueReference"] for o in task["output"] if "valueReference" in o)
    return fhir.read(*found["reference"].split("/"))


@pytest.mark.parametrize(("system", "code"), [(codes.BREAST_DENSITY.url, "c"), (SCT, "129718006")])
def test_a_category_is_replaced_and_the_machine_s_is_kept(system: str, code: str) -> None:
    fhir = stored(DENSITY_OF)
    task = decide(fhir, DENSITY_OF, chosen(density_id(), system, code))
    changed = fhir.read("Observation", density_id())
    assert changed["status"] == "amended"
    codings = {(c["system"], c["code"]) for c in changed["valueCodeableConcept"]["coding"]}
    assert codings == {(codes.BREAST_DENSITY.url, "c"), (SCT, "129718006")}
    assert [label["code"] for label in changed["meta"]["security"]] == ["CLINAST"]
    assert "component" not in changed, "the machine's probabilities are not the human's"
    (kept,) = machine_values(trail(fhir, task)).values()
    assert kept["valueCodeableConcept"]["coding"][0]["code"] == "b"
    assert len(kept["component"]) == 4
    decided = read_decided(fhir, task)
    assert decided is not None
    difference = Difference("breast-density", Region.BREASTS, None, was="b", now="c")
    assert decided.differences == (difference,)
    assert decided.service == "breast-density"
    assert _difference(difference) == {
        "name": "breast-density",
        "region": "breasts",
        "difference": None,
        "from": "b",
        "to": "c",
    }


def test_a_withheld_category_can_be_supplied() -> None:
    other = Classification("other", Region.BREASTS, ("x",), (1.0,), "x")
    of = replace(work(classifications=(WITHHELD, other)), model=INSTALLED)
    fhir = stored(of)
    decide(fhir, of, chosen(density_id(of), codes.BREAST_DENSITY.url, "d"))
    supplied = fhir.read("Observation", density_id(of))
    assert "dataAbsentReason" not in supplied
    assert supplied["valueCodeableConcept"]["coding"][0]["code"] == "d"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ([chosen(density_id(), codes.BREAST_DENSITY.url, "e")], "none of those"),
        ([chosen(density_id(), "https://example.org", "c")], "none of those"),
        ([chosen(density_id(), codes.BREAST_DENSITY.url, "b")], "the one that stands"),
        ([struck(density_id())], "no place"),
        ([chosen("unheard-of", codes.BREAST_DENSITY.url, "c")], "no category"),
    ],
)
def test_what_does_not_fit_is_refused(changes: list[Json], text: str) -> None:
    with pytest.raises(UnprocessableError) as refused:
        decide(stored(DENSITY_OF), DENSITY_OF, *changes)
    (issue,) = refused.value.issues
    assert text in issue.diagnostics


def test_a_place_is_no_number() -> None:
    fhir = stored(FOUND)
    with pytest.raises(UnprocessableError):
        decide(fhir, FOUND, chosen(place_id(FOUND, 0), codes.DETECTION.url, "nodule"))


def test_a_place_that_is_none_is_struck_and_not_counted() -> None:
    fhir = stored(FOUND)
    task = decide(fhir, FOUND, struck(place_id(FOUND, 1)))
    none = fhir.read("Observation", place_id(FOUND, 1))
    assert none["status"] == "entered-in-error"
    assert none["note"][-1]["text"]
    assert fhir.read("Observation", place_id(FOUND, 0))["status"] == "final"
    count_id = result_id(FOUND.inference_key, "measurement", "lung-nodule-count", "lungs")
    count = fhir.read("Observation", count_id)
    assert (count["status"], count["valueQuantity"]["value"]) == ("amended", 1)
    assert fhir.read("Observation", result_id(FOUND.inference_key, "panel"))["status"] == "amended"
    decided = read_decided(fhir, task)
    assert decided is not None
    assert set(decided.differences) == {
        Difference("lung-nodule-count", Region.LUNGS, 1.0),
        Difference("lung-nodule", Region.LUNGS, None, was="nodule", now="entered-in-error"),
    }


def test_a_repeat_is_the_same_and_another_decision_is_not() -> None:
    fhir = stored(FOUND)
    first = decide(fhir, FOUND, struck(place_id(FOUND, 1)))
    assert decide(fhir, FOUND, struck(place_id(FOUND, 1))) == first
    with pytest.raises(Exception, match="decided otherwise"):
        decide(fhir, FOUND, struck(place_id(FOUND, 0)))


def test_a_site_s_categories_are_those_that_the_machine_weighed() -> None:
    fhir = stored(SITE)
    grade = result_id(SITE.inference_key, "classification", "grade", "liver")
    site = site_system("category")
    decide(fhir, SITE, chosen(grade, site, "acme-liver.grade.none"))
    changed = fhir.read("Observation", grade)
    assert changed["valueCodeableConcept"]["coding"][0]["code"] == "acme-liver.grade.none"
    kidney = result_id(SITE.inference_key, "classification", "atrophy", "left-kidney")
    with pytest.raises(UnprocessableError):
        decide(stored(SITE), SITE, chosen(kidney, site, "acme-liver.atrophy.yes"))


def test_a_human_s_number_has_no_uncertainty_of_the_machine() -> None:
    fhir = stored(SITE)
    fat = result_id(SITE.inference_key, "measurement", "liver-fat", "liver")
    value = {"value": 9.0, "system": codes.UCUM, "code": "%"}
    reference = {"name": "target", "valueReference": {"reference": f"Observation/{fat}"}}
    part = [reference, {"name": "value", "valueQuantity": value}]
    decide(fhir, SITE, {"name": "change", "part": part})
    left = [c["code"]["coding"][0]["code"] for c in fhir.read("Observation", fat)["component"]]
    assert left == ["112040"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "status", "valueCode": "final"},
        {"name": "category", "valueCoding": {"code": "c"}},
        {"name": "category", "valueCodeableConcept": {"text": "c"}},
        {"name": "status", "valueString": "entered-in-error"},
        {"name": "other", "valueCode": "entered-in-error"},
    ],
)
def test_malformed_changes_are_named(wrong: Json) -> None:
    reference = {"name": "target", "valueReference": {"reference": "Observation/o-1"}}
    body = modified({"name": "change", "part": [reference, wrong]})
    with pytest.raises(BadRequestError) as refused:
        read_request(body)
    assert refused.value.issues[0].expression.startswith("Parameters.parameter[2].part")


def test_one_of_value_category_and_status() -> None:
    both = struck("o-1")
    both["part"].append({"name": "category", "valueCoding": {"system": "s", "code": "c"}})
    with pytest.raises(BadRequestError) as refused:
        read_request(modified(both))
    assert "one of value" in refused.value.issues[0].diagnostics


@dataclass
class Archive:
    """Holds the images, the first SR, and the SEG of a result."""

    of: ServiceResult
    stored: list[Dataset] = field(default_factory=list)

    def instance_metadata(self, _study: str, series: str, instance: str) -> Dataset:
        from fhir_ext.dicom.sr import build_sr

        if series == dicom_uid(self.of.inference_key, "sr-series"):
            return build_sr(self.of, headers(self.of), ISSUED)
        known = {str(h.SeriesInstanceUID): h for h in headers(self.of)}
        header = known.get(series)
        if header is None and series == dicom_uid(self.of.inference_key, "seg-series"):
            header = headers(self.of)[-1]
            header.SeriesInstanceUID = series
        if header is None:
            raise NotFoundError("no such instance")
        header.SOPInstanceUID = instance
        return header

    def store(self, instances: list[Dataset]) -> StoreReport:
        self.stored += instances
        return StoreReport(frozenset({str(instances[0].SOPInstanceUID)}), {})


def corrected(of: ServiceResult, fhir: MemoryFhir) -> Dataset:
    archive = Archive(of)
    CorrectSr(fhir, archive)({"task_id": task_of(of)})
    (document,) = archive.stored
    return document


def walk(item: Dataset) -> list[Dataset]:
    children = list(item.get("ContentSequence", []))
    return [*children, *(deeper for child in children for deeper in walk(child))]


def test_the_corrected_sr_holds_the_human_s_category_and_says_so() -> None:
    fhir = stored(DENSITY_OF)
    decide(fhir, DENSITY_OF, chosen(density_id(), SCT, "129718006"))
    sr = corrected(DENSITY_OF, fhir)
    (answer,) = (
        item
        for item in walk(sr)
        if item.get("ValueType") == "CODE"
        and item.ConceptNameCodeSequence[0].get("CodeValue") == "129715009"
    )
    assert answer.ConceptCodeSequence[0].CodeValue == "129718006"
    (method,) = answer.ContentSequence
    assert method.ConceptCodeSequence[0].CodeValue == "human-value"
    assert not [item for item in walk(sr) if item.get("ValueType") == "NUM"]


def test_the_corrected_sr_leaves_out_the_struck_place_and_keeps_the_other_s_name() -> None:
    fhir = stored(FOUND)
    decide(fhir, FOUND, struck(place_id(FOUND, 0)))
    sr = corrected(FOUND, fhir)
    surfaces = [item for item in walk(sr) if item.get("ValueType") == "SCOORD3D"]
    assert len(surfaces) == 1
    tracked = {str(item.UID) for item in walk(sr) if item.get("ValueType") == "UIDREF"}
    assert detection_uid(FOUND, 1) in tracked
    assert detection_uid(FOUND, 0) not in tracked


def test_the_corrected_sr_keeps_every_series_and_note() -> None:
    fhir = stored(SITE)
    cyst = result_id(SITE.inference_key, "detection", "0")
    decide(fhir, SITE, struck(cyst))
    sr = corrected(SITE, fhir)
    (study,) = sr.CurrentRequestedProcedureEvidenceSequence
    named = {str(series.SeriesInstanceUID) for series in study.ReferencedSeriesSequence}
    assert named == {SITE.series_instance_uid, SITE.further[0].series_instance_uid}
    texts = {item.TextValue for item in walk(sr) if item.get("ValueType") == "TEXT"}
    assert {"The scan was not calibrated.", "Said of the whole."} <= texts


def test_a_rejection_withdraws_the_masks_too() -> None:
    from review_samples import request

    fhir = stored(SITE, seg_instance_uid="2.25.17")
    service = ReviewService(fhir, Queue(), REGISTRY, Metrics())
    service.review(task_of(SITE), ANN, request("reject"), "1", allow)
    note = corrected(SITE, fhir)
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    named = {
        str(item.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert named == {dicom_uid(SITE.inference_key, "sr"), "2.25.17"}
    kinds = {item.ValueType for item in walk(note) if "ReferencedSOPSequence" in item}
    assert kinds == {"COMPOSITE", "IMAGE"}
