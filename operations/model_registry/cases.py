"""The cases of a manifest are run, and what comes out is compared with what must."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from fhir_ext.errors import FhirExtError, RefusedInput
from fhir_ext.results import Classification, Measurement, Refusal
from fhir_ext.settings import LimitSettings
from models.manifest.evidence import Case, Expected, TensorsInput
from models.manifest.model import Manifest
from models.manifest.outputs import Segmentation
from models.manifest.runtimes import NetworkRuntime, OnnxRuntime, TorchExportRuntime
from models.registry import Installed, Registry
from models.runtime.agreement import check_engine
from models.runtime.base import LIBRARY_ERRORS, Array, Arrays, ModelFailure
from models.runtime.host import Host
from models.runtime.options import Options
from models.service import ModelInput, ServiceOutput
from operations.model_registry.case_images import images_of, read_tensors
from operations.model_registry.report import CaseResult, CasesReport, Check, EngineResult

#: Most characters that are shown of a library's own words.
_LONGEST_WORDS: Final = 200


def run_cases(
    installed: Installed, registry: Registry, host: Host, limits: LimitSettings, options: Options
) -> CasesReport:
    """Run every case of a version.

    Tensors go through the network alone; images through the whole service with its gates.

    Args:
        registry: where `installed` was found.
        host: runs the networks.
        limits: what DICOM files may hold.
        options: for the comparison of a network's engines.
    """
    cases = tuple(
        _run_case(case, installed, registry, host, limits) for case in installed.manifest.cases
    )
    return CasesReport(cases, _compare_engines(installed, options))


def _run_case(
    case: Case, installed: Installed, registry: Registry, host: Host, limits: LimitSettings
) -> CaseResult:
    begin = time.perf_counter()
    try:
        checks = tuple(_checks(case, installed, registry, host, limits))
    except FhirExtError as error:
        failure = (error.code, error.message + _said(error))
        return CaseResult(case.name, time.perf_counter() - begin, failure=failure)
    except LIBRARY_ERRORS as error:
        failure = ("model-failed", f"the model raised {type(error).__name__}")
        return CaseResult(case.name, time.perf_counter() - begin, failure=failure)
    return CaseResult(case.name, time.perf_counter() - begin, checks)


def _said(error: FhirExtError) -> str:
    """The last line of what torch and others said of a network, for its author.

    Only here: what is shown comes with the model. Of a study nothing a library says is kept.
    """
    cause = error.__cause__ if isinstance(error, ModelFailure) else None
    lines = str(cause or "").strip().splitlines()
    said = "".join(filter(str.isprintable, lines[-1]))[:_LONGEST_WORDS] if lines else ""
    return f" ({said})" if said else ""


def _checks(
    case: Case, installed: Installed, registry: Registry, host: Host, limits: LimitSettings
) -> Iterator[Check]:
    manifest, folder = installed.manifest, installed.folder
    if isinstance(case.input, TensorsInput):
        found = host.run(manifest, folder, read_tensors(folder, case.input), study="case")
        for expected in case.expect:
            yield _tensor_check(expected, found, folder)
        return
    try:
        given = images_of(case.input, manifest.inputs.images, folder, limits)
    except RefusedInput as refused:
        for expected in case.expect:
            yield _refused_check(expected, refused.code)
        return
    output = registry.load(manifest.id, manifest.version).run(given)
    for expected in case.expect:
        yield _image_check(expected, output, manifest, given)


def _tensor_check(expected: Expected, found: Arrays, folder: Path) -> Check:
    assert expected.tensors is not None
    limit = f"within {expected.absolute:g} + {expected.relative:g} x |expected|"
    wanted = read_tensors(folder, expected.tensors).get(expected.output)
    seen = found.get(expected.output)
    if wanted is None:
        return Check(expected.output, False, limit, "the file holds no tensor of this name")
    if seen is None or seen.shape != wanted.shape:
        shape = "none" if seen is None else str(seen.shape)
        return Check(expected.output, False, f"shape {wanted.shape}", f"shape {shape}")
    return _close(expected, wanted, seen, limit)


def _close(expected: Expected, wanted: Array, seen: Array, limit: str) -> Check:
    wide = wanted.astype(np.float64)
    difference = np.abs(seen.astype(np.float64) - wide)
    # What is NaN or infinite in one of them is no agreement, but where both are the same.
    difference = np.where(_same(wide, seen), 0.0, np.nan_to_num(difference, nan=np.inf))
    allowed = expected.absolute + expected.relative * np.abs(np.nan_to_num(wide))
    passed = bool(np.all(difference <= allowed))
    largest = float(difference.max()) if difference.size else 0.0
    return Check(expected.output, passed, limit, f"off by at most {largest:.3g}")


def _same(wanted: Array, seen: Array) -> Array:
    same: Array = (wanted == seen) | (np.isnan(wanted) & np.isnan(seen.astype(np.float64)))
    return same


def _image_check(
    expected: Expected, output: ServiceOutput, manifest: Manifest, given: ModelInput
) -> Check:
    """Compare one output of a service with what is expected of it."""
    name = _name(expected)
    if expected.category is not None:
        return _category_check(expected, output, name)
    if expected.count is not None:
        count = sum(item.name == expected.output for item in output.detections)
        seen = str(count) if output.searched else "nothing was searched"
        passed = output.searched and count == expected.count
        return Check(name, passed, f"{expected.count} places", seen)
    if expected.refused is not None:
        return _refused_check(expected, *_refusals(expected, output))
    assert expected.value is not None
    assert expected.tolerance is not None
    wanted = f"{expected.value:g} within {expected.tolerance:g}"
    numbers = list(_numbers(expected, output, manifest, given))
    if len(numbers) != 1:
        seen = f"{len(numbers)} outputs of this name; name the region" if numbers else "none"
        return Check(name, False, wanted, seen)
    (number,) = numbers
    if isinstance(number, Refusal):
        return Check(name, False, wanted, f"withheld: {number.rule}")
    passed = abs(number - expected.value) <= expected.tolerance
    return Check(name, passed, wanted, f"{number:.6g}")


def _numbers(
    expected: Expected, output: ServiceOutput, manifest: Manifest, given: ModelInput
) -> Iterator[float | Refusal]:
    """Numbers of one output: measured ones, or the volumes of segments in mL."""
    for item in output.measurements:
        if _is_meant(expected, item):
            value = item.refusal if item.value is None else item.value
            assert value is not None
            yield value
    segments = [
        item.name
        for item in manifest.outputs
        if isinstance(item, Segmentation) and item.name == expected.output
    ]
    for mask in output.masks:
        if mask.name in segments and given.volume is not None:
            voxel_mm3 = float(np.prod(given.volume.geometry.spacing_mm))
            yield float(np.count_nonzero(mask.labels)) * voxel_mm3 / 1000.0


def _is_meant(expected: Expected, item: Measurement) -> bool:
    return item.name == expected.output and expected.region in (None, item.region)


def _category_check(expected: Expected, output: ServiceOutput, name: str) -> Check:
    found = [
        item
        for item in output.classifications
        if item.name == expected.output and expected.region in (None, item.region)
    ]
    chosen = {item.chosen or (item.refusal.rule if item.refusal else "") for item in found}
    passed = len(found) == 1 and found[0].chosen == expected.category
    return Check(name, passed, str(expected.category), ", ".join(sorted(chosen)) or "none")


def _refusals(expected: Expected, output: ServiceOutput) -> list[str]:
    """Rules that refuse an output, in all places that it speaks of."""
    items: list[Measurement | Classification] = [*output.measurements, *output.classifications]
    named = [
        item.refusal.rule if item.refusal else "a result"
        for item in items
        if item.name == expected.output and expected.region in (None, item.region)
    ]
    return named + [
        why.rule for output_name, why in output.withheld if output_name == expected.output
    ]


def _refused_check(expected: Expected, *rules: str) -> Check:
    """Whether everything of an output is refused by the expected rule."""
    passed = bool(rules) and set(rules) == {expected.refused}
    seen = ", ".join(sorted(set(rules))) or "none"
    return Check(_name(expected), passed, f"refused: {expected.refused}", seen)


def _name(expected: Expected) -> str:
    return f"{expected.output} {expected.region}" if expected.region else expected.output


def _compare_engines(installed: Installed, options: Options) -> EngineResult | None:
    """Show the batches of the cases to both engines of a network that has two."""
    runtime = installed.manifest.runtime
    if not isinstance(runtime, TorchExportRuntime | OnnxRuntime) or runtime.engine != "auto":
        return None
    try:
        batches = list(_batches(installed))
        found = check_engine(runtime, installed.folder, options, batches)
    except FhirExtError as error:
        return EngineResult(False, 0, f"{error.code}: {error.message}")
    except LIBRARY_ERRORS as error:
        return EngineResult(False, 0, f"model-failed: {type(error).__name__}")
    if found is None:
        return None
    if not found.batches:
        text = "a case with tensors is needed to compare the two engines of this network"
        return EngineResult(False, 0, text)
    detail = f"largest difference {found.largest:.3g}, {found.excess:.3g} times what it may be"
    return EngineResult(found.holds, found.batches, detail)


def _batches(installed: Installed) -> Iterator[Arrays]:
    assert isinstance(installed.manifest.runtime, NetworkRuntime)
    for case in installed.manifest.cases:
        if isinstance(case.input, TensorsInput):
            yield read_tensors(installed.folder, case.input)
