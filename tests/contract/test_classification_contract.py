"""A classification is valid in a real HAPI, and its SR for pydicom, highdicom and dciodvfy."""

from __future__ import annotations

import copy
import io
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests
from classification_samples import DENSITY, WITHHELD, evidence, work
from pydicom import Dataset
from result_samples import ISSUED, context

from fhir_ext.resources.classification import classification
from fhir_ext.resources.conformance import load_bundle
from fhir_ext.resources.ids import dicom_uid
from fhir_ext.results import Classification

Json = dict[str, Any]
HEADERS = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}


@pytest.fixture(scope="module")
def validate(hapi_base_url: str) -> Callable[[Json], list[str]]:
    """Errors of `$validate`."""
    session = requests.Session()
    session.headers.update(HEADERS)
    answer = session.post(hapi_base_url, json=load_bundle(), timeout=60)
    assert answer.status_code == 200, answer.text

    def errors(resource: Json) -> list[str]:
        url = f"{hapi_base_url}/{resource['resourceType']}/$validate"
        issues = session.post(url, json=resource, timeout=60).json()["issue"]
        return [i["diagnostics"] for i in issues if i["severity"] in ("error", "fatal")]

    return errors


def made(item: Classification, **changes: Any) -> Json:
    of = work(status="done" if item.chosen else "refused")
    return classification(of, item, context(of, **changes))


@pytest.mark.parametrize("item", [DENSITY, WITHHELD], ids=["done", "refused"])
@pytest.mark.parametrize("stated", ["all", "least"])
def test_no_error_of_validate(
    validate: Callable[[Json], list[str]], item: Classification, stated: str
) -> None:
    least = {"started": None, "sr_instance_uid": None} if stated == "least" else {}
    assert validate(made(item, **least)) == []


def _no_such_category(resource: Json) -> None:
    resource["code"]["coding"][0]["code"] = "no-such-code"


def _number(resource: Json) -> None:
    del resource["valueCodeableConcept"]
    resource["valueQuantity"] = {"value": 2}


def _unknown_component(resource: Json) -> None:
    resource["component"][0]["code"]["coding"][0]["code"] = "no-such-code"


@pytest.mark.parametrize(
    "change",
    [
        _no_such_category,
        _number,
        _unknown_component,
        lambda r: r.pop("bodySite"),
        lambda r: r.pop("device"),
        lambda r: r["component"][1].pop("valueQuantity"),
        lambda r: r["meta"].pop("security"),
    ],
)
def test_the_profile_holds(
    validate: Callable[[Json], list[str]], change: Callable[[Json], object]
) -> None:
    resource = copy.deepcopy(made(DENSITY))
    change(resource)
    assert validate(resource) != []


@pytest.fixture(autouse=True)
def strict_pydicom(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A misspelt keyword or an invalid value is an error."""
    monkeypatch.setattr(pydicom.config, "INVALID_KEYWORD_BEHAVIOR", "RAISE")
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    yield


def build(item: Classification, issued: datetime = ISSUED) -> bytes:
    from fhir_ext.dicom.sr import build_sr

    sr = build_sr(work(classifications=(item,)), evidence(), issued)
    buffer = io.BytesIO()
    sr.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _group(sr: Dataset) -> dict[str, Dataset]:
    """Concept code to item of the one measurement group."""
    (measurements,) = (i for i in sr.ContentSequence if _code(i) == "126010")
    (group,) = measurements.ContentSequence
    return {_code(item): item for item in group.ContentSequence}


def _code(item: Dataset) -> str:
    """A code of more than 16 characters is in Long Code Value (0008,0119)."""
    sequence = item.get("ConceptNameCodeSequence")
    if not sequence:
        return ""
    return str(sequence[0].get("CodeValue") or sequence[0].LongCodeValue)


def test_category_and_probabilities_are_read_back() -> None:
    from highdicom.sr import Comprehensive3DSR

    sr = pydicom.dcmread(io.BytesIO(build(DENSITY)))
    assert sr.SOPInstanceUID == dicom_uid(work().inference_key, "sr")
    assert sr.PatientName == "Doe^Jane"
    (procedure,) = (i for i in sr.ContentSequence if _code(i) == "121058")
    assert procedure.ConceptCodeSequence[0].CodeValue == "71651007"
    items = _group(sr)
    assert items["129715009"].ConceptCodeSequence[0].CodeValue == "129717001"
    values = [
        float(items[f"breast-density-{letter}-probability"].MeasuredValueSequence[0].NumericValue)
        for letter in "abcd"
    ]
    assert values == pytest.approx([0.081944, 0.78304, 0.133503, 0.001513])
    (group,) = Comprehensive3DSR.from_dataset(sr).content.get_image_measurement_groups()
    (found,) = group.get_qualitative_evaluations()
    assert (found.name.value, found.value.value) == ("129715009", "129717001")
    assert len(group.source_images) == 4


def test_a_refusal_is_the_value_of_the_evaluation() -> None:
    items = _group(pydicom.dcmread(io.BytesIO(build(WITHHELD))))
    value = items["129715009"].ConceptCodeSequence[0]
    assert (value.CodeValue, value.CodingSchemeDesignator) == ("missing-view", "99FHIREXT")
    assert not [code for code in items if code.endswith("probability")]


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert build(DENSITY) == build(DENSITY)


@pytest.mark.parametrize("item", [DENSITY, WITHHELD], ids=["done", "refused"])
def test_dciodvfy_finds_no_error(tmp_path: Path, dciodvfy: Path, item: Classification) -> None:
    path = tmp_path / "sr.dcm"
    path.write_bytes(build(item))
    answer = subprocess.run(
        [str(dciodvfy), str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    lines = (answer.stdout + answer.stderr).splitlines()
    assert "Comprehensive3DSR" in lines
    assert [line for line in lines if line.startswith("Error")] == []
