"""How much quicker is OpenVINO than eager torch, and what does a cold model cost?

Both engines run the shipped network of the reference nodule detector (`engine: auto` is OpenVINO
on the CPU, the file's own runtime is torch) on the same patches of a phantom chest with synthetic
nodules, in turns, with the same number of threads; what counts is the ratio of medians, for all
share the machine. Their outputs are compared within the manifest's `agreement`.

The manifest asks for float32, which every processor gives alike. What OpenVINO would do in
bfloat16 (`autocast: bfloat16`) is measured beside it, and how far its scores are off. The
product of two large matrices by OpenVINO, in the same turns, says what the cores can do at all:
`most_times_quicker` is what an engine at that rate would gain over torch.

A cold model is one that the process has not loaded: its first result on a whole volume is
compared with twice a warm one plus the time to load, each in fresh processes.

    python bench/engines.py [--rounds 15] [--patches 8] [--processes 3]

The last line is one line of JSON. Goals: `times_quicker` at least 4, `cold_ratio` at most 1.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fhir_ext.dicom.volume import Acquisition, CTVolume
from fhir_ext.phantom import PhantomSpec, build, orient
from models.manifest.runtimes import TorchExportRuntime
from models.registry import Installed, Registry
from models.runtime.agreement import agreement
from models.runtime.opening import open_session
from models.runtime.options import Options
from models.service import ModelInput

SERVICE = "nodule-detection"

#: Rows and columns of the matrices.
SIDE = 2048


def installed() -> Installed:
    return Registry().find(SERVICE)


def patches(count: int) -> npt.NDArray[np.float32]:
    """Patches around synthetic nodules in a phantom, and of its air and walls."""
    from models.nodule_detection.train.backgrounds import phantom
    from models.nodule_detection.train.scenes import training_batch

    found = training_batch(phantom(7, "soft"), (7, 7, 7)).image.numpy()
    return np.ascontiguousarray(found[:count])


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def operations() -> float:
    """Floating-point operations of the network for one patch; a multiply-add counts as two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from models.nodule_detection.network import PATCH, NoduleNet

    network = NoduleNet().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 1, *PATCH))
    return float(counter.get_total_flops())


def matrix_product(threads: int) -> Callable[[npt.NDArray[np.float32]], object]:
    """A matrix (SIDE, SIDE) times a constant one, in float32."""
    import openvino  # type: ignore[import-untyped]
    from openvino import opset13 as op

    given = op.parameter([SIDE, SIDE], np.float32)
    other = op.constant(np.random.default_rng(8).random((SIDE, SIDE), np.float32))
    model = openvino.Model([op.matmul(given, other, False, False)], [given])
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled: Callable[[npt.NDArray[np.float32]], object] = openvino.Core().compile_model(
        model, "CPU", properties
    )
    return compiled


def side_by_side(count: int, rounds: int) -> dict[str, float]:
    """Seconds of both engines for one patch, what the cores can do, and whether they agree."""
    import torch

    found = installed()
    runtime = found.manifest.runtime
    assert isinstance(runtime, TorchExportRuntime)
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    options = Options(threads=threads, max_batch=found.manifest.batching.max_size)
    quick = open_session(runtime, found.folder, options)
    half = open_session(runtime.model_copy(update={"autocast": "bfloat16"}), found.folder, options)
    eager = open_session(runtime, found.folder, replace(options, reference=True))
    given = patches(count)
    scores = eager.run({"image": given})["scores"]
    together = agreement(eager, quick, [{"image": given}], runtime.agreement)
    print(
        f"{count} patches of {given.shape[1:]}, {threads} threads: the outputs "
        f"differ by at most {together.largest:.2g}, {together.excess:.2g} of what is allowed"
    )
    square = np.random.default_rng(7).random((SIDE, SIDE), np.float32)
    product = matrix_product(threads)
    calls: dict[str, Callable[[], object]] = {
        "openvino": lambda: quick.run({"image": given}),
        "openvino in bfloat16": lambda: half.run({"image": given}),
        "torch": lambda: eager.run({"image": given}),
        "matrix product": lambda: product(square),
    }
    lost = float(np.abs(half.run({"image": given})["scores"] - scores).max())
    for call in calls.values():
        call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in sorted(calls, reverse=bool(number % 2)):
            taken[name].append(timed(calls[name]) / count)
    best = 2 * SIDE**3 / (count * statistics.median(taken.pop("matrix product")))
    for name, values in taken.items():
        print(
            f"  {name:20} median {1000 * statistics.median(values):.1f} ms for a patch, "
            f"{1000 * min(values):.1f} to {1000 * max(values):.1f}"
        )
    medians = {name: statistics.median(values) for name, values in taken.items()}
    rates = {name: operations() / value for name, value in medians.items()}
    print(
        f"  operations in a second: matrix product {best / 1e9:.0f} G, "
        f"openvino {rates['openvino'] / 1e9:.0f} G, torch {rates['torch'] / 1e9:.0f} G"
    )
    return {
        "openvino_ms": 1000 * medians["openvino"],
        "torch_ms": 1000 * medians["torch"],
        "times_quicker": medians["torch"] / medians["openvino"],
        "times_quicker_at_best": min(taken["torch"]) / min(taken["openvino"]),
        "times_quicker_bfloat16": medians["torch"] / medians["openvino in bfloat16"],
        "score_difference_bfloat16": lost,
        "openvino_of_matrix_product": rates["openvino"] / best,
        "most_times_quicker": best / rates["torch"],
        "largest_difference": together.largest,
        "agree": float(together.holds),
    }


def volume() -> CTVolume:
    spec = PhantomSpec()
    voxels, geometry = orient(build(spec).render("soft"), spec.spacing_mm, "HFS")
    acquisition = Acquisition("CT", "SIEMENS", "B30f", 2.5, 120.0, patient_age_years=61.0)
    return CTVolume(voxels, geometry, acquisition, "1.2", "1.3", ("1.4",) * len(voxels))


def child(what: str) -> None:
    """Runs in a fresh process; one line of JSON."""
    if what == "load":
        found = installed()
        runtime = found.manifest.runtime
        assert isinstance(runtime, TorchExportRuntime)
        print(json.dumps({"load": timed(lambda: open_session(runtime, found.folder, Options()))}))
        return
    given = ModelInput(volume())
    registry = Registry()
    cold = timed(lambda: registry.load(SERVICE).run(given))
    warm = [timed(lambda: registry.load(SERVICE).run(given)) for _ in range(3)]
    print(json.dumps({"cold": cold, "warm": statistics.median(warm)}))


def fresh(what: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", what], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def cold_start(processes: int) -> dict[str, float]:
    """Medians over fresh processes: first result, warm result, time to load."""
    rows = [{**fresh("load"), **fresh("cold")} for _ in range(processes)]
    found = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    print(
        f"whole phantom: first result {found['cold']:.2f} s, warm {found['warm']:.2f} s, "
        f"load {found['load']:.2f} s"
    )
    return {
        "cold_s": found["cold"],
        "warm_s": found["warm"],
        "load_s": found["load"],
        "cold_ratio": found["cold"] / (2 * found["warm"] + found["load"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--patches", type=int, default=8)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--child", choices=("load", "cold"))
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    result = side_by_side(arguments.patches, arguments.rounds)
    result |= cold_start(arguments.processes)
    print(json.dumps({name: round(value, 6) for name, value in result.items()}))


if __name__ == "__main__":
    main()
