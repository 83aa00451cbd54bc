"""Gates that refuse everything, or look at what is not there, are errors of the manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from models.manifest import ManifestError, read_manifest


def manifest(gates: list[dict[str, Any]], **inputs: Any) -> str:
    """One gate a line, the first on line 2."""
    whole = {
        "id": "an-example",
        "version": "1.0.0",
        "title": "Example",
        "licence": "MIT",
        "intended_use": "None.",
        "not_for": "Anything.",
        "inputs": {"modality": ["CT"], **inputs},
        "outputs": [
            {"name": "lung-volume", "region": "lungs", "unit": "mL", "valid": [1, 2]},
            {"name": "laa-950", "region": "lungs", "unit": "%", "valid": [1, 2]},
        ],
    }
    lines = [yaml.safe_dump(gate, default_flow_style=True, width=1000).strip() for gate in gates]
    listed = "gates:\n" + "".join(f"  - {line}\n" for line in lines) if lines else ""
    return listed + yaml.safe_dump(whole)


def problem(tmp_path: Path, text: str) -> tuple[int, str, str]:
    path = tmp_path / "manifest.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    (found,) = caught.value.problems
    return found.line, found.field, found.reason


def rule(name: str, **parameters: Any) -> dict[str, Any]:
    return {"rule": name, **parameters}


MAMMOGRAMS = {"images": "mammograms", "modality": ["MG"]}
RADIOGRAPHS = {"images": "radiographs", "modality": ["DX"]}


@pytest.mark.parametrize(
    ("gates", "inputs", "line", "field", "part"),
    [
        ([rule("modality", allow=["MG"])], {}, 2, "gates.0.allow", "allows CT elsewhere"),
        (
            [rule("kvp", min=120), rule("gap"), rule("kvp", max=100, unknown="accept")],
            {}, 4, "gates.2.max", "at least 120 and at most 100",
        ),
        (
            [
                rule("slice-thickness", max=1),
                rule("slice-thickness", min=2, applies_to=["laa-950"]),
            ],
            {}, 3, "gates.1.min", "everything is refused",
        ),
        ([rule("slice-count", min=1, max=40)], {"min_slices": 50}, 2, "gates.0.max", "at least 50"),
        (
            [rule("spacing", max_between_slices=1), rule("spacing", min_between_slices=2)],
            {}, 3, "gates.1.min_between_slices", "at least 2 and at most 1",
        ),
        (
            [rule("contrast-agent"), rule("contrast-agent", wanted="present")],
            {}, 3, "gates.1.rule", "wanted and not",
        ),
        (
            [rule("image-type", forbid=["MIP"]), rule("image-type", require=["MIP"])],
            {}, 3, "gates.1.require", "MIP is required and forbidden",
        ),
        (
            [rule("patient-position", allow=["HFS"]), rule("patient-position", allow=["HFP"])],
            {}, 3, "gates.1.allow", "allows HFS elsewhere",
        ),
        (
            [
                rule("blood-pool", structures=["aorta"], max_hu=100),
                rule("blood-pool", structures=["aorta"], min_hu=150),
            ],
            {"images": "segmented-volume"}, 3, "gates.1.min_hu", "at least 150 and at most 100",
        ),
        ([], {"images": "mammograms"}, 1, "inputs.modality", "none of these modalities"),
        ([], {"images": "radiographs"}, 1, "inputs.modality", "none of these modalities"),
        ([rule("gap")], MAMMOGRAMS, 2, "gates.0.rule", "looks at a stack of slices"),
        ([rule("breast-implant")], RADIOGRAPHS, 2, "gates.0.rule", "looks at a mammogram"),
        ([rule("view-position", allow=["PA"])], {}, 2, "gates.0.rule", "looks at a radiograph"),
        (
            [rule("blood-pool", structures=["aorta"], max_hu=100)],
            {}, 2, "gates.0.rule", "segments of a stack",
        ),
        ([rule("kvp", min=1, set_aside=True)], {}, 2, "gates.0.set_aside", "nothing that could"),
        (
            [rule("image-type", forbid=["X"], set_aside=True, applies_to=["laa-950"])],
            RADIOGRAPHS, 2, "gates.0.set_aside", "for all outputs or for none",
        ),
        (
            [rule("required-views", views=["L-CC"])],
            MAMMOGRAMS, 2, "gates.0.rule", "needs a gate of rule laterality before it",
        ),
        (
            [
                rule("laterality", allow=["R"]),
                rule("mammography-view"),
                rule("required-views", views=["L-CC"]),
            ],
            MAMMOGRAMS, 4, "gates.2.views", "L-CC is refused before",
        ),
        (
            [
                rule("laterality", allow=["L"]),
                rule("mammography-view"),
                rule("required-views", views=["L-CC"]),
                rule("special-view"),
            ],
            MAMMOGRAMS, 5, "gates.3.rule", "must come before required-views",
        ),
    ],
)  # fmt: skip
def test_refused_with_its_line(
    gates: list[dict[str, Any]],
    inputs: dict[str, Any],
    line: int,
    field: str,
    part: str,
    tmp_path: Path,
) -> None:
    text = manifest(gates, **inputs)
    found = problem(tmp_path, text)
    if gates:
        assert found[0] == line
    else:
        assert text.splitlines()[found[0] - 1].strip().startswith("modality")
    assert found[1] == field
    assert part in found[2]


@pytest.mark.parametrize(
    ("gates", "part"),
    [
        ([rule("kernel", allow={})], "at least 1 item"),
        ([rule("kernel", allow={"ge": []})], "at least 1 item"),
        ([rule("kernel", allow={"ge": ["SOFT"]}, deny={"ge": [".*"]})], "everything is refused"),
        ([rule("kvp", min=140, max=100)], "min is above max"),
        ([rule("modality", allow=[])], "at least 1 item"),
    ],
)
def test_a_gate_that_accepts_nothing_by_itself(
    gates: list[dict[str, Any]], part: str, tmp_path: Path
) -> None:
    line, _, reason = problem(tmp_path, manifest(gates))
    assert (line, part in reason) == (2, True)


def test_slices_of_single_images_are_an_error(tmp_path: Path) -> None:
    text = manifest([], images="radiographs", modality=["DX"], min_slices=5)
    assert "min_slices is not for images: radiographs" in problem(tmp_path, text)[2]


@pytest.mark.parametrize(
    ("gates", "inputs"),
    [
        # Different outputs may ask for what excludes itself.
        (
            [
                rule("kvp", min=120, applies_to=["laa-950"]),
                rule("kvp", max=100, applies_to=["lung-volume"]),
            ],
            {},
        ),
        ([rule("kvp", min=100), rule("kvp", max=140)], {}),
        ([rule("modality", allow=["CT", "PT"])], {"modality": ["CT", "MR"]}),
        ([rule("view-position", allow=["PA"], set_aside=True)], RADIOGRAPHS),
        ([rule("laterality", allow=["L"])], RADIOGRAPHS),
    ],
)
def test_what_leaves_something_is_accepted(
    gates: list[dict[str, Any]], inputs: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "manifest.yaml"
    path.write_text(manifest(gates, **inputs), "utf-8")
    assert len(read_manifest(path).gates) == len(gates)
