"""The page that brings a model, followed word by word."""

from __future__ import annotations

import re
import time

import pytest
from docs_page import DOCS, Page

from fhir_ext.cli.tree import Tree

PAGE = Page(DOCS / "bring-your-model.md")

#: What the page promises its reader (s).
TEN_MINUTES = 600.0


def test_every_call_of_the_page_says_what_to_expect() -> None:
    assert len(PAGE.blocks) == PAGE.calls >= 6


@pytest.fixture(scope="module")
def outputs(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    begin = time.monotonic()
    found = PAGE.run(tree, tmp_path_factory.mktemp("bring"), timeout=TEN_MINUTES)
    assert time.monotonic() - begin < TEN_MINUTES
    return found


@pytest.mark.parametrize("number", range(len(PAGE.blocks)))
def test_a_call_answers_what_the_page_says(outputs: list[str], number: int) -> None:
    _, expected = PAGE.blocks[number]
    assert re.search(expected, outputs[number]), outputs[number][-2000:]
