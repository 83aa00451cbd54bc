"""Everything a manifest can say, its published JSON Schema, and errors with their lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

import models
from models.manifest import Manifest, ManifestError, read_manifest
from models.manifest.runtimes import RUNTIME_KINDS

ROOT = Path(__file__).parents[2]
FOLDER = Path(models.__file__).parent
SHIPPED = sorted(FOLDER.glob("*/manifest.yaml"))

#: Says everything that can be said; docs/manifest.md shows it.
FULL = (ROOT / "docs" / "manifest.example.yaml").read_text("utf-8")


def schema() -> Any:
    return json.loads((ROOT / "docs" / "manifest.schema.json").read_text("utf-8"))


def problems(tmp_path: Path, text: str) -> list[str]:
    """`line: field: reason` of each problem."""
    path = tmp_path / "manifest.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    lines = caught.value.message.splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    found = [line.removeprefix(f"{path}:") for line in lines]
    if caught.value.problems:
        assert found == [f"{p.line}: {p.field}: {p.reason}" for p in caught.value.problems]
    return found


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def test_the_published_schema_is_current() -> None:
    command = [sys.executable, str(ROOT / "tools" / "gen_manifest_schema.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_schema_accepts_what_we_ship_and_the_example() -> None:
    validator = Draft202012Validator(schema())
    Draft202012Validator.check_schema(schema())
    assert len(SHIPPED) >= 1
    for text in (FULL, *(path.read_text("utf-8") for path in SHIPPED)):
        assert list(validator.iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kind: torch-export", "kind: pickle"),
        ("version: 2.1.0", "version: two"),
        ("kind: segmentation", "kind: sketch"),
        ("    modality: [CT]", "    modality: CT"),
        ("title:", "titel:"),
    ],
)
def test_the_schema_refuses_what_the_program_refuses(old: str, new: str, tmp_path: Path) -> None:
    text = FULL.replace(old.strip(), new.strip(), 1)
    assert text != FULL
    assert list(Draft202012Validator(schema()).iter_errors(yaml.safe_load(text)))
    assert problems(tmp_path, text)


def test_the_example_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(FULL, "utf-8")
    manifest = read_manifest(path)
    assert {output.kind for output in manifest.outputs} == {
        "measurement",
        "classification",
        "segmentation",
        "detections",
    }
    assert [output.name for output in manifest.measurements] == ["lung-volume"]
    unused = [name for name in Manifest.model_fields if name not in manifest.model_fields_set]
    assert unused == []


def test_the_hash_of_lung_density_is_that_of_its_first_day() -> None:
    """Ids and UIDs of everything it ever wrote derive from it."""
    manifest = read_manifest(FOLDER / "lung_density" / "manifest.yaml")
    digest = "20465f915eb85950eac15f2044f795b92a8470185e61b2f49f3a93e36487ff8d"
    assert (manifest.version, manifest.identity().settings_hash) == ("1.0.0", digest)


def hash_of(text: str) -> str:
    return Manifest.model_validate(yaml.safe_load(text)).identity().settings_hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("isolate: true", "isolate: false"),
        ("deadline_s: 60", "deadline_s: 90"),
        ("memory_mb: 900", "memory_mb: 800"),
        ("max_size: 8", "max_size: 4"),
        ("source: Trained", "source: Made"),
        ("contact: radiology", "contact: physics"),
        ("value: 0.91", "value: 0.92"),
        ("count: 412", "count: 413"),
    ],
)
def test_what_changes_no_number(old: str, new: str) -> None:
    assert old in FULL
    assert hash_of(FULL.replace(old, new, 1)) == hash_of(FULL)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sha256: 11", "sha256: 12"),
        ("autocast: bfloat16", "autocast: float16"),
        ("spacing_mm: [1.0,", "spacing_mm: [2.0,"),
        ("input: [-1000, 400]", "input: [-1000, 300]"),
        ("score: 0.3", "score: 0.4"),
        ("threshold: 0.6", "threshold: 0.7"),
        ("engine: auto", "engine: torch"),
        ("prefer: [thinnest", "prefer: [thickest"),
    ],
)
def test_what_changes_numbers(old: str, new: str) -> None:
    assert old in FULL
    assert hash_of(FULL.replace(old, new, 1)) != hash_of(FULL)


#: (what is replaced, by what, field, part of the reason); the new text is where to look.
WRONG = [
    ("sha256: 11", "sha256: 1g", "runtime.weights.sha256", "64 hex digits"),
    ("file: network.pt2", "file: ../network.pt2", "runtime.weights.file", "inside"),
    ("file: network.pt2", "file: /network.pt2", "runtime.weights.file", "inside"),
    ("shape: [n, 1, d", "shape: [n, 0, d", "runtime.inputs.0.shape.1", "at least 1"),
    ("dtype: int64", "dtype: int128", "runtime.outputs.3.dtype", "Input should be"),
    ("orientation: SPL", "orientation: SPS", "preprocessing.orientation", "one letter each"),
    ("  window:", "  windows:", "preprocessing.windows", "is no field here"),
    ("tensor: mask", "tensor: maks", "outputs.2.tensor", "no output of the runtime"),
    ("output: nodules", "output: nodes", "review_rules.0.output", "no output of the model"),
    ("output: emphysema", "output: fibrosis", "evaluation.0.metrics.0.output", "no output"),
    ("output: lung-volume, refused", "output: lung, refused", "cases.1.expect.0.output", "no"),
    ("count: 190", "count: 999", "evaluation.0.subgroups.0.count", "more than"),
    ("tolerance: 25", "tolerance: -1", "cases.0.expect.0.tolerance", "greater"),
    ("low: 0.88", "low: 0.98", "evaluation.0.metrics.0", "outside its interval"),
    ("large_ml: 8000", "large_ml: many", "thresholds.large_ml", "valid number"),
    ("exclude_description: [scout", "exclude_description: ['(']  #", "", "bad regular"),
]


@pytest.mark.parametrize(("old", "new", "field", "reason"), WRONG)
def test_errors_name_their_line(
    old: str, new: str, field: str, reason: str, tmp_path: Path
) -> None:
    assert old in FULL
    text = FULL.replace(old, new, 1)
    number, named, said = problems(tmp_path, text)[0].split(": ", 2)
    assert int(number) == line_of(text, new)
    assert named == (field or "inputs.series.exclude_description.0")
    assert reason in said


def test_what_is_missing_is_named_with_the_line_of_its_owner(tmp_path: Path) -> None:
    text = FULL.replace("unit: mL", "units: mL")
    first, second = problems(tmp_path, text)
    assert first == f"{line_of(text, '- name: lung-volume')}: outputs.0.unit: is missing"
    assert second.startswith(f"{line_of(text, 'units: mL')}: outputs.0.units: is no field")


def test_rules_of_review_are_for_one_policy(tmp_path: Path) -> None:
    text = FULL.replace("review: rule", "review: always")
    (problem,) = problems(tmp_path, text)
    assert problem == f"{line_of(text, 'review_rules')}: review_rules: are only for review: rule"


def test_all_errors_are_named_at_once(tmp_path: Path) -> None:
    text = FULL.replace("version: 2.1.0", "version: two").replace("unit: mL", "unit: ''")
    found = problems(tmp_path, text.replace("score: 0.3", "score: 3"))
    assert [line.split(": ")[1] for line in found] == [
        "version",
        "outputs.0.unit",
        "outputs.3.score",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id: a\nid: b\n", "2: the key `id` appears twice"),
        ("a: &x [1]\nb: *x\n", "1: aliases are not read"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: !!python/object/apply:os.getcwd []\n", "1: "),
        ("a: 1\n  b: 2\n", "2: mapping values"),
        ("#" * 1_100_000, "longer than"),
    ],
)
def test_files_that_are_no_manifest(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ManifestError, match=reason):
        read_manifest(path)


def test_every_runtime_is_described() -> None:
    page = (ROOT / "docs" / "manifest.md").read_text("utf-8")
    assert {kind for kind in RUNTIME_KINDS if f"`{kind}`" in page} == RUNTIME_KINDS
    for name in Manifest.model_fields:
        assert f"`{name}`" in page


def test_runtimes_that_contradict_themselves(tmp_path: Path) -> None:
    data = yaml.safe_load(FULL)
    data["runtime"] = {
        "kind": "kserve",
        "url": "https://models.example.org",
        "model": "lungs",
        "isolate": True,
        "inputs": data["runtime"]["inputs"],
        "outputs": data["runtime"]["outputs"],
    }
    assert "already runs" in problems(tmp_path, yaml.safe_dump(data, sort_keys=False))[0]
    fixed = FULL.replace("shape: [n, 1, d", "shape: [4, 1, d")
    (problem,) = problems(tmp_path, fixed)
    assert problem.startswith(f"{line_of(fixed, 'max_size')}: batching.max_size: ")
    double = FULL.replace("name: boxes", "name: mask")
    assert "same name" in problems(tmp_path, double)[0]
