"""The cases of a manifest are really run: networks, phantoms, DICOM files, both engines."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_cr as cr
import synthetic_mg as mg
import tiny_networks as tiny
import torch
import yaml
from registry_samples import LUNG, lung_manifest, write_model
from safetensors.numpy import save_file
from seg_samples import encoded, segment

from fhir_ext.phantom import PhantomSpec, build, write_series
from fhir_ext.settings import LimitSettings
from models.manifest.evidence import DicomInput
from models.manifest.runtimes import NetworkRuntime
from models.registry import MANIFEST, Registry
from models.runtime.host import Host
from models.runtime.options import Options
from operations.model_registry.case_images import images_of
from operations.model_registry.cases import run_cases
from operations.model_registry.folder import sha256_of
from operations.model_registry.report import CasesReport

Json = dict[str, Any]

SEGMENTS: Json = {
    "kind": "segmentation",
    "name": "tumour",
    "region": "lungs",
    "tensor": "pred",
    "encoding": "probabilities",
    "labels": [{"value": 1, "name": "tumour"}],
}


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


def file(folder: Path, name: str) -> Json:
    return {"file": name, "sha256": sha256_of(folder / name)}


def run(site: Path, host: Host, service: str, version: str) -> CasesReport:
    registry = Registry(site=site, host=host)
    installed = registry.find(service, version)
    return run_cases(installed, registry, host, LimitSettings(), Options())


def tiny_model(
    site: Path,
    write: Callable[..., NetworkRuntime],
    off: float = 0.0,
    limit: float = 1e-3,
    **changes: Any,
) -> Path:
    """A site's network with one case of tensors, whose truth is off by so much."""
    folder = site / "tiny-net" / "1.0.0"
    folder.mkdir(parents=True)
    runtime = write(folder, **changes).model_dump(mode="json")
    batch = tiny.images(2)
    save_file({"image": batch}, folder / "in.safetensors")
    save_file({"pred": tiny.eager(batch) + np.float32(off)}, folder / "out.safetensors")
    case = {
        "name": "drawn",
        "input": {"kind": "tensors", **file(folder, "in.safetensors")},
        "expect": [
            {"output": "pred", "tensors": file(folder, "out.safetensors"), "absolute": limit}
        ],
    }
    base = lung_manifest("1.0.0", id="tiny-net", thresholds={}, settings={}, gates=[])
    return write_model(folder, {**base, "runtime": runtime, "outputs": [SEGMENTS], "cases": [case]})


def lung_model(site: Path, *expect: Json, **given: Any) -> CasesReport:
    """Lung density of the site, with one case of a phantom."""
    case = {"name": "drawn", "input": {"kind": "phantom", **given}, "expect": list(expect)}
    write_model(site / LUNG / "1.1.0", lung_manifest("1.1.0", cases=[case]))
    return run(site, Host(), LUNG, "1.1.0")


def test_a_network_that_gives_what_it_must(tmp_path: Path, host: Host) -> None:
    tiny_model(tmp_path, tiny.write_torchscript)
    report = run(tmp_path, host, "tiny-net", "1.0.0")
    (check,) = report.cases[0].checks
    assert report.passed
    assert report.engine is None, "TorchScript has one engine"
    assert check.output == "pred"


def test_a_network_that_gives_something_else(tmp_path: Path, host: Host) -> None:
    tiny_model(tmp_path, tiny.write_torchscript, off=0.1)
    report = run(tmp_path, host, "tiny-net", "1.0.0")
    (check,) = report.cases[0].checks
    assert not report.passed
    assert check.seen.startswith("off by at most 0.1")
    assert report.as_json()["passed"] is False


def test_both_engines_are_compared_where_there_are_two(tmp_path: Path, host: Host) -> None:
    tiny_model(tmp_path, tiny.write_pt2)
    report = run(tmp_path, host, "tiny-net", "1.0.0")
    assert report.passed
    assert report.engine is not None
    assert (report.engine.holds, report.engine.batches) == (True, 1)


def test_engines_that_do_not_agree_fail_the_test(tmp_path: Path, host: Host) -> None:
    # ONNX Runtime in float32 against OpenVINO in bfloat16, where the processor has it.
    strict = {"absolute": 1e-12, "relative": 0.0}
    tiny_model(tmp_path, tiny.write_onnx, limit=1.0, agreement=strict, autocast="bfloat16")
    report = run(tmp_path, host, "tiny-net", "1.0.0")
    assert all(case.passed for case in report.cases)
    assert report.engine is not None
    assert not report.passed


def test_two_engines_and_nothing_to_compare_them_by(tmp_path: Path, host: Host) -> None:
    folder = tiny_model(tmp_path, tiny.write_pt2)
    data = yaml.safe_load((folder / MANIFEST).read_text("utf-8"))
    expect = [{"output": "tumour", "value": 0.0, "tolerance": 1e9}]
    data["cases"] = [{"name": "drawn", "input": {"kind": "phantom"}, "expect": expect}]
    write_model(folder, data)
    report = run(tmp_path, host, "tiny-net", "1.0.0")
    assert report.engine is not None
    assert "a case with tensors is needed" in report.engine.detail
    assert not report.passed


@pytest.mark.parametrize("name", ["in.safetensors", "out.safetensors", "net.ts"])
def test_a_file_that_was_exchanged(tmp_path: Path, host: Host, name: str) -> None:
    folder = tiny_model(tmp_path, tiny.write_torchscript)
    (folder / name).write_bytes(b"something else")
    (case,) = run(tmp_path, host, "tiny-net", "1.0.0").cases
    assert case.failure is not None
    assert case.failure[0] == "weights-hash"


def test_a_network_that_answers_nan(tmp_path: Path, host: Host) -> None:
    def write(folder: Path, **fields: Any) -> NetworkRuntime:
        return tiny.write_torchscript(folder, tiny.NotANumber(), **fields)

    folder = tiny_model(tmp_path, write)
    save_file({"image": np.zeros((1, 1, 6, 8, 10), np.float32)}, folder / "in.safetensors")
    data = yaml.safe_load((folder / MANIFEST).read_text("utf-8"))
    data["cases"][0]["input"] |= file(folder, "in.safetensors")
    write_model(folder, data)
    (case,) = run(tmp_path, host, "tiny-net", "1.0.0").cases
    assert case.failure is not None
    assert case.failure[0] == "model-not-finite"


class Raises(torch.nn.Module):
    """Wants another number of voxels."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.reshape(7, 13)


def test_what_the_network_says_of_its_error_is_for_its_author(tmp_path: Path, host: Host) -> None:
    def write(folder: Path, **fields: Any) -> NetworkRuntime:
        return tiny.write_torchscript(folder, Raises(), **fields)

    tiny_model(tmp_path, write)
    (case,) = run(tmp_path, host, "tiny-net", "1.0.0").cases
    assert case.failure is not None
    assert case.failure[0] == "model-failed"
    assert "shape '[7, 13]' is invalid" in case.failure[1]


def test_a_phantom_goes_through_the_whole_service(tmp_path: Path) -> None:
    report = lung_model(
        tmp_path,
        {"output": "laa-950", "region": "lungs", "value": 12.0, "tolerance": 1.5},
        {"output": "lung-volume", "region": "lungs", "value": 1000.0, "tolerance": 1.0},
        {"output": "laa-950", "value": 12.0, "tolerance": 1.5},
        emphysema_fraction=0.12,
    )
    right, wrong, vague = report.cases[0].checks
    assert right.passed
    assert not wrong.passed
    assert "name the region" in vague.seen


def test_gates_are_part_of_what_is_tested(tmp_path: Path) -> None:
    report = lung_model(
        tmp_path,
        {"output": "laa-950", "region": "lungs", "refused": "kernel"},
        {"output": "laa-950", "refused": "kernel"},
        {"output": "lung-volume", "region": "lungs", "refused": "kernel"},
        {"output": "perc15", "region": "lungs", "value": -950.0, "tolerance": 100.0},
        kernel="sharp",
    )
    one, everywhere, measured, withheld = report.cases[0].checks
    assert one.passed
    assert everywhere.passed
    assert (measured.passed, measured.seen) == (False, "a result")
    assert (withheld.passed, withheld.seen) == (False, "withheld: kernel")


def test_a_stack_and_its_segments_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "segment-measurements" / "9.0.0"
    folder.mkdir(parents=True)
    spec = PhantomSpec(shape=(50, 170, 232), spacing_mm=(5.0, 1.5, 1.5))
    instances = write_series(build(spec))
    mask = np.zeros(spec.shape, np.uint8)
    mask[10:30, 60:110, 60:108] = 1
    objects = [*instances, seg_of(instances, mask)]
    # In an order that says nothing.
    given = write_files(folder, map(encoded, objects[::-1]))
    expected = {"output": "organ-volume", "region": "liver", "value": 540.0, "tolerance": 1.0}
    case = {"name": "liver", "input": given, "expect": [expected]}
    shipped = Registry().manifest("segment-measurements").model_dump(mode="json")
    write_model(folder, {**shipped, "version": "9.0.0", "cases": [case]})
    report = run(tmp_path, Host(), "segment-measurements", "9.0.0")
    assert report.passed, report


def test_mammograms_are_classified(tmp_path: Path, host: Host) -> None:
    folder = tmp_path / "breast-density" / "9.0.0"
    folder.mkdir(parents=True)
    given = write_files(folder, mg.parts(*mg.study().values()))
    expect = [
        {"output": "breast-density", "refused": "image-size"},
        {"output": "breast-density", "category": "c"},
    ]
    case = {"name": "tiny", "input": given, "expect": expect}
    shipped = Registry().find("breast-density")
    data = shipped.manifest.model_dump(mode="json")
    shutil.copy(shipped.folder / "weights.safetensors", folder)
    write_model(folder, {**data, "version": "9.0.0", "cases": [case]})
    report = run(tmp_path, host, "breast-density", "9.0.0")
    small, chosen = report.cases[0].checks
    assert small.passed
    assert (chosen.passed, chosen.seen) == (False, "image-size")


def test_radiographs_are_read_and_others_left_out(tmp_path: Path) -> None:
    parts = [*cr.parts(cr.radiograph("PA"), cr.computed("LL", number=2)), b"no DICOM"]
    given = DicomInput.model_validate(write_files(tmp_path, parts))
    found = images_of(given, "radiographs", tmp_path, LimitSettings())
    assert len(found.radiographs) == 2
    assert found.volume is None


def seg_of(instances: list[Any], mask: np.ndarray) -> Any:
    """A SEG of the liver on the grid of a CT series."""
    from highdicom.seg import Segmentation

    return Segmentation(
        source_images=instances,
        pixel_array=mask,
        segmentation_type="BINARY",
        segment_descriptions=[segment(1)],
        series_instance_uid="1.2.826.4.3",
        series_number=3,
        sop_instance_uid="1.2.826.4.3.1",
        instance_number=1,
        manufacturer="ACME",
        manufacturer_model_name="net",
        software_versions="1",
        device_serial_number="1",
    )


def write_files(folder: Path, parts: Iterable[bytes]) -> Json:
    """DICOM files below a folder, as the input of a case names them."""
    files = []
    for number, part in enumerate(parts):
        (folder / f"{number}.dcm").write_bytes(part)
        files.append(file(folder, f"{number}.dcm"))
    return {"kind": "dicom", "files": files}


def test_files_that_nobody_can_read_are_refused_as_in_a_study(tmp_path: Path) -> None:
    folder = tmp_path / LUNG / "1.1.0"
    folder.mkdir(parents=True)
    (folder / "a.dcm").write_bytes(b"no DICOM")
    expect = [{"output": "laa-950", "refused": "not-dicom"}]
    given = {"kind": "dicom", "files": [file(folder, "a.dcm")]}
    cases = [{"name": "nonsense", "input": given, "expect": expect}]
    write_model(folder, lung_manifest("1.1.0", cases=cases))
    assert run(tmp_path, Host(), LUNG, "1.1.0").passed


def test_the_shipped_cases_hold(host: Host) -> None:
    registry = Registry(host=host)
    tested = 0
    for installed in registry.shipped():
        if installed.manifest.cases:
            report = run_cases(installed, registry, host, LimitSettings(), Options())
            assert report.passed, report
            tested += 1
    assert tested >= 2
