"""The model card: all that a manifest says to people, under an id that follows from it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
import yaml
from result_samples import MODEL

from fhir_ext.resources.document_reference import model_card
from fhir_ext.resources.ids import device_id
from models.manifest import read_manifest
from models.registry import Registry
from operations.model_registry.card import LARGEST_PAGE, card_markdown

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "manifest.example.yaml"
REGISTRY = Registry()


def test_the_card_holds_its_markdown_and_names_the_device() -> None:
    card = model_card(MODEL, "# Ünïcode\n")
    attachment = card["content"][0]["attachment"]
    data = base64.b64decode(attachment["data"])
    assert data.decode() == "# Ünïcode\n"
    assert attachment["size"] == len(data)
    assert base64.b64decode(attachment["hash"]) == hashlib.sha1(data).digest()
    assert attachment["contentType"] == "text/markdown"
    assert card["context"]["related"] == [{"reference": f"Device/{device_id(MODEL)}"}]
    assert card["type"]["coding"][0]["code"] == "AIModelCard"
    assert "subject" not in card
    assert model_card(MODEL, "# Ünïcode\n") == card


def test_the_card_says_all_that_the_example_manifest_says() -> None:
    manifest = read_manifest(EXAMPLE)
    text = card_markdown(manifest)
    said = yaml.safe_load(EXAMPLE.read_text("utf-8"))
    wanted = [said["title"], said["licence"], said["card"]["contact"], *said["card"]["limitations"]]
    wanted += [said["intended_use"], said["not_for"], said["card"]["training_data"]]
    wanted += [output["name"] for output in said["outputs"]]
    wanted += [item["data"] for item in said["evaluation"]]
    flat = " ".join(text.split())
    for part in wanted:
        assert " ".join(part.split()) in flat
    for metric in manifest.evaluation[0].metrics:
        assert f"{metric.value:g}" in text
    assert manifest.identity().settings_hash in text


@pytest.mark.parametrize("service", REGISTRY.services())
def test_tables_have_as_many_cells_as_their_head(service: str) -> None:
    installed = REGISTRY.find(service)
    text = card_markdown(installed.manifest, installed.folder)
    assert text == card_markdown(installed.manifest, installed.folder)
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_the_page_of_the_folder_is_taken_over(tmp_path: Path) -> None:
    manifest = REGISTRY.manifest("lung-density")
    card = manifest.card.model_copy(update={"file": "card.md"})
    paged = manifest.model_copy(update={"card": card})
    without = card_markdown(manifest)
    assert card_markdown(paged, tmp_path) == without
    (tmp_path / "card.md").write_text("More of it.\n", "utf-8")
    assert card_markdown(paged, tmp_path) == f"{without}\n---\n\nMore of it.\n"
    (tmp_path / "card.md").write_bytes(b"x" * (LARGEST_PAGE + 1))
    assert card_markdown(paged, tmp_path) == without
