"""Codes: standard ones are in the dictionary, ours cover what the code can say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest
from pydicom.sr import _concepts_dict as dictionary

import fhir_ext.resources.conformance as conformance
from fhir_ext.dicom.volume import REJECTIONS
from fhir_ext.resources import codes
from fhir_ext.resources.codes import naming
from fhir_ext.resources.conformance import conformance_resources, load_bundle
from fhir_ext.resources.conformance.definitions import files
from fhir_ext.results import Region
from models.manifest.outputs import Classification, Detections, MeasurementOutput, Output
from models.registry import Registry
from operations.analyze import plan

ROOT = Path(__file__).resolve().parents[2]
SCHEMES = {codes.SCT: "SCT", codes.DCM: "DCM"}


def _published() -> dict[str, codes.Coding]:
    """Every Coding constant of the module, and those inside its mappings."""
    found = {}
    for name, value in vars(codes).items():
        values = value.values() if isinstance(value, MappingProxyType) else [value]
        for item in values:
            for coding in item if isinstance(item, tuple) else (item,):
                if isinstance(coding, codes.Coding):
                    found[f"{name} {coding.code}"] = coding
    return found


PUBLISHED = _published()


#: SNOMED CT codes that DICOM does not use; docs/conformance.md names their source.
NOT_IN_DICOM = {codes.EMPHYSEMA, codes.NODULE_OF_LUNG}


@pytest.mark.parametrize(
    "name",
    sorted(n for n, c in PUBLISHED.items() if c.system in SCHEMES and c not in NOT_IN_DICOM),
)
def test_standard_codes_are_in_the_dicom_dictionary(name: str) -> None:
    coding = PUBLISHED[name]
    meanings = {
        entry[coding.code][0].lower()
        for entry in dictionary.concepts[SCHEMES[coding.system]].values()
        if coding.code in entry
    }
    shown = coding.display.lower()
    assert shown in meanings or f"{shown} (body structure)" in meanings


def test_codes_that_are_looked_at_are_many() -> None:
    assert len(PUBLISHED) > 50


@pytest.mark.parametrize("system", codes.LOCAL_SYSTEMS, ids=lambda system: system.id)
def test_local_codes_are_complete(system: codes.LocalSystem) -> None:
    listed = [item.code for item in system.codes]
    assert len(set(listed)) == len(listed)
    for item in system.codes:
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", item.code)
        assert item.display
        assert item.definition.endswith(".")
        # Code Meaning (0008,0104) is LO: at most 64 characters.
        assert len(item.display) <= 64


def test_every_refusal_has_a_code() -> None:
    known = {item.code for item in codes.REFUSAL_REASON.codes}
    assert set(REJECTIONS) <= known
    sources = [path.read_text() for path in (ROOT / "models").rglob("*.py")]
    said = {rule for text in sources for rule in re.findall(r'Refusal\(\s*"([a-z-]+)"', text)}
    assert {"wrong-study", "lung-mask-implausible", "patient-orientation"} <= said
    assert said <= known


def test_every_error_that_can_park_a_study_has_a_code() -> None:
    sources = [
        *(ROOT / "fhir_ext" / "clients").glob("*.py"),
        *(ROOT / "operations" / "analyze").glob("*.py"),
        ROOT / "fhir_ext" / "errors.py",
        ROOT / "subscriptions" / "workflow.py",
    ]
    raised = {
        code for path in sources for code in re.findall(r'\bcode="([a-z-]+)"', path.read_text())
    }
    assert "stow-refused" in raised
    known = {c.code for c in (*codes.TASK_REASON.codes, *codes.REFUSAL_REASON.codes)}
    assert raised <= known


def test_every_reason_of_the_planner_has_a_code() -> None:
    said = re.findall(r'return "([a-z-]+)",', Path(plan.__file__).read_text())
    assert len(said) >= 6
    assert set(said) <= {item.code for item in codes.NOT_APPLIED_REASON.codes}


def _names(output: Output) -> Iterator[tuple[str, codes.LocalSystem]]:
    """Every name that results of an output are written under, and where it must be."""
    if isinstance(output, MeasurementOutput):
        assert output.unit in codes.UNIT_TEXT
        yield output.name, codes.MEASUREMENT
    elif isinstance(output, Classification):
        for name, categories in output.results():
            yield name, codes.CLASSIFICATION
            for category in categories:
                yield category, codes.CATEGORIES[name]
                yield f"{name}-{category}-probability", codes.CLASSIFICATION
    else:
        yield f"{output.name}{codes.COUNT_SUFFIX}", codes.MEASUREMENT
        if isinstance(output, Detections):
            yield output.name, codes.DETECTION
            for item in output.classes:
                yield item.name, codes.DETECTION


def test_every_output_of_the_shipped_models_has_a_code() -> None:
    registry = Registry()
    assert registry.services()
    for service in registry.services():
        manifest = registry.manifest(service)
        if service not in codes.PANEL:
            # What a site must bring the network of is named by the site.
            assert not manifest.switched_on, service
            continue
        assert codes.PANEL[service] in codes.MEASUREMENT
        for output in manifest.outputs:
            for name, system in _names(output):
                assert name in system, f"{service}: {name}"


def test_site_names_have_systems_that_we_do_not_define() -> None:
    ours = {system.url for system in codes.LOCAL_SYSTEMS}
    assert not ours & {naming.site_system(kind) for kind in naming.SITE_KINDS}
    text = (ROOT / "docs" / "conformance.md").read_text("utf-8")
    for kind in naming.SITE_KINDS:
        assert f"`site-{kind}`" in text


def test_every_region_has_a_site_and_a_side() -> None:
    for region in Region:
        assert region in codes.REGION_SITE
        assert region in codes.REGION_TEXT
    placed = {(codes.REGION_SITE[r], codes.REGION_LATERALITY.get(r)) for r in Region}
    assert len(placed) == len(Region)


def test_unknown_code_is_an_error_or_other() -> None:
    with pytest.raises(KeyError):
        codes.REFUSAL_REASON.coding("never-heard-of")
    assert codes.REFUSAL_REASON.coding_or_other("never-heard-of").code == "other"
    assert codes.REFUSAL_REASON.coding_or_other("kernel").code == "kernel"


def test_conformance_files_are_up_to_date() -> None:
    folder = Path(conformance.__file__).parent
    written = {path.name: path.read_text("utf-8") for path in folder.glob("*.json")}
    assert written == files(), "run python -m fhir_ext.resources.conformance"


def test_load_bundle_puts_everything_under_fixed_ids() -> None:
    bundle = load_bundle()
    assert bundle["type"] == "transaction"
    urls = [entry["request"]["url"] for entry in bundle["entry"]]
    assert len(set(urls)) == len(urls) == len(conformance_resources())
    assert load_bundle() == bundle
    canonicals = {entry["resource"]["url"] for entry in bundle["entry"]}
    for system in codes.LOCAL_SYSTEMS:
        assert system.url in canonicals
        assert f"{codes.CANONICAL}/ValueSet/{system.id}" in canonicals
    for name in (*codes.PANEL.values(), "imaging-measurement", "review-task"):
        assert codes.profile(name) in canonicals
    assert all(url.startswith(f"{codes.CANONICAL}/") for url in canonicals)


def test_the_conformance_statement_names_every_code() -> None:
    text = (ROOT / "docs" / "conformance.md").read_text("utf-8")
    for system in codes.LOCAL_SYSTEMS:
        assert f"(`{system.id}`)" in text
        for item in system.codes:
            assert f"| `{item.code}` | {item.display} | {item.definition} |" in text
    for coding in PUBLISHED.values():
        assert coding.code in text
