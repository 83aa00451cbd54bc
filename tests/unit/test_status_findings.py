"""Categories and places on the status page, where numbers are."""

from __future__ import annotations

import re

import pytest
from classification_samples import DENSITY, work
from fastapi.testclient import TestClient
from finding_samples import detected, of_a_site
from status_fixture import Example, filled

from fhir_ext.results import ServiceResult


@pytest.fixture
def example(tmp_path):
    example = filled(tmp_path)
    yield example
    example.repository.engine.dispose()


def shown(example: Example, result: ServiceResult) -> str:
    """Text of the page with a result of a study of its own."""
    uid = f"{result.study_instance_uid}.99"
    example.add_run("found", "done", study_instance_uid=uid, age=1, took=0.5, step="finish")
    example.add_outcome("found", uid, "done", result)
    page = TestClient(example.app()).get("/")
    assert page.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.text))


def test_a_category_is_shown(example: Example) -> None:
    text = shown(example, work(classifications=(DENSITY,)))
    assert "Breast density (BI-RADS) BI-RADS density b" in text
    assert "Both breasts" in text


def test_every_place_is_shown_with_its_score(example: Example) -> None:
    text = shown(example, detected())
    assert "Number of lung nodules found 2.0" in text
    assert "Lung nodule 1 Nodule score 0.91" in text
    assert "Lung nodule 2 Nodule score 0.55" in text


def test_a_site_s_names_are_words_and_regions_are_right(example: Example) -> None:
    text = shown(example, of_a_site())
    assert "Liver fat" in text
    assert "Mild or more" in text
    assert "Cyst 1" in text
    assert "Left kidney" in text
    assert "withheld: Kernel not accepted" in text


def test_categories_are_in_the_json(example: Example) -> None:
    uid = "1.2.3.99"
    example.add_run("found", "done", study_instance_uid=uid, age=1, took=0.5, step="finish")
    example.add_outcome("found", uid, "done", work(classifications=(DENSITY,)))
    studies = TestClient(example.app()).get("/status.json").json()["studies"]
    (study,) = (s for s in studies if s["study_instance_uid"] == uid)
    (row,) = study["services"][0]["measurements"]
    assert row["name"] == "breast-density"
    assert row["regions"]["breasts"]["text"] == "BI-RADS density b"
    assert row["regions"]["breasts"]["value"] is None
