"""Expressions that would hold a worker are refused; those that people write are not."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

import models
from fhir_ext.dicom.volume import Acquisition
from fhir_ext.errors import SettingsError
from models.gates import Gate
from models.gates.expressions import LONGEST_VALUE, checked_expression, matched_part
from models.gates.header import KernelGate
from models.manifest.inputs import SeriesSelection
from operations.analyze.rules import load_rules

SLOW = [
    r"(a+)+$",
    r"(a*)*b",
    r"(a|a)*$",
    r"(?:a?){60}a{60}",
    "a?" * 40 + "a" * 40,
    "(a|ab)" * 40 + "c",
    ".*" * 8 + "x",
    r"(?:(?:\d{1,9}){1,9}){1,9}x",
    r"(?=(a+)+$)a",
    "x" * 2000,
    "(" * 90 + ")" * 90 + "(a+)+",
]
FINE = [
    "scout",
    r"\bMIP\b",
    r"^ge |general electric|ge medical|ge healthcare",
    r"(Br|Qr|Bv|Sa)(2\d|3\d|40)[dfmsu]?(\\\d)?",
    r"FC0[1-9]",
    r"lung.*1\.\d+ ?mm",
    r"(?:thorax|chest) .*(?:lung|soft)",
]


@pytest.mark.parametrize("text", SLOW, ids=range(len(SLOW)))
def test_what_may_take_too_long_is_refused_at_once(text: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ValueError, match="regular expression"):
        checked_expression(text)
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize("text", ["(", "[b-a]", "(?P<n>a)(?P<n>b)", "a{99999999999}"])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="bad regular expression"):
        checked_expression(text)


@pytest.mark.parametrize("text", FINE)
def test_what_people_write_is_taken(text: str) -> None:
    assert checked_expression(text) == text


@pytest.mark.parametrize("text", [".*.*.*x", "a?" * 20 + "a" * 20, "(ab|cd|ef)" * 10 + "x", *FINE])
def test_the_slowest_that_is_taken_ends_in_time(text: str) -> None:
    checked_expression(text)
    value = matched_part("a" * 10_000)
    begin = time.monotonic()
    re.search(text, value, re.IGNORECASE)
    assert time.monotonic() - begin < 2


def test_shipped_manifests_have_none_that_are_refused() -> None:
    for path in Path(models.__file__).parent.glob("*/manifest.yaml"):
        for gate in yaml.safe_load(path.read_text("utf-8")).get("gates", []):
            TypeAdapter(Gate).validate_python(gate)


@pytest.mark.parametrize(
    "gate",
    [
        {"rule": "kernel", "allow": {"(a+)+$": ["B"]}},
        {"rule": "kernel", "deny": {"siemens": ["(a+)+$"]}},
        {"rule": "kernel", "allow": {"ge": ["a" * 40 + "!"]}, "deny": {"ge": ["(a+)+"]}},
    ],
)
def test_gates_have_none(gate: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="may take too long"):
        KernelGate.model_validate(gate)


def test_selections_and_rules_have_none(tmp_path: Path) -> None:
    for field in ("description", "exclude_description"):
        with pytest.raises(ValidationError, match="may take too long"):
            SeriesSelection.model_validate({field: ["(a+)+$"]})
    path = tmp_path / "rules.yaml"
    for text in ("(a+)+$", "("):
        rule = {"service": "s", "modality": ["CT"], "exclude_description": [text]}
        path.write_text(yaml.safe_dump({"services": [rule]}))
        with pytest.raises(SettingsError, match="regular expression"):
            load_rules(path)


def test_a_kernel_that_no_dicom_header_has_is_refused_unmatched() -> None:
    gate = KernelGate.model_validate({"rule": "kernel", "allow": {"siemens": [".*"]}})
    header = Acquisition(
        modality="CT", manufacturer="SIEMENS", convolution_kernel="B" * (LONGEST_VALUE + 1)
    )

    class Shown:
        def __init__(self) -> None:
            self.header = header

    shown: Any = Shown()
    refusal = gate.check(shown)
    assert refusal is not None
    assert len(refusal.seen) <= 64
