"""The page for app developers, run as it stands."""

from __future__ import annotations

import re

import pytest
from docs_page import DOCS, Page

from fhir_ext.cli.tree import Tree

PAGE = Page(DOCS / "apps.md")


def test_every_call_of_the_page_says_what_to_expect() -> None:
    assert len(PAGE.blocks) == PAGE.calls >= 8


@pytest.fixture(scope="module")
def outputs(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return PAGE.run(tree, tmp_path_factory.mktemp("apps"), timeout=240)


@pytest.mark.parametrize("number", range(len(PAGE.blocks)))
def test_a_call_answers_what_the_page_says(outputs: list[str], number: int) -> None:
    _, expected = PAGE.blocks[number]
    assert re.search(expected, outputs[number]), outputs[number][-2000:]
