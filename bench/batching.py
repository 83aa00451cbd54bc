"""How busy is the device, and who waits, with the batcher and without?

Simulated studies go through what a worker does with them: a phantom chest of 512 x 512 slices is
read from DICOM instances in memory (in place of the archive), resampled and cut into patches by
the generic network service, and shown to the reference nodule detector, or to the same network
untrained where its weights are not installed; which one is said. Two studies are under way at
once, as in a worker with its default settings, so that one is read while the device works on
the other.

    one        one study after another, each calls the network by itself
    alone      two at once, each calls the network by itself
    batcher    two at once, through the batcher

The three take turns. The device counts as busy while at least one call is in the network; the
share is that between the first call and the last. `decode_share` and `prepare_share` are the
processor time of reading, and of everything else besides the network, over the wall time;
`read_while_busy` is the part of reading that the device did not wait for, but for the first two
studies, which find it idle. `cpu_s` is the processor time of a patch, all included: others on
the machine disturb it least.

Then a small study of 8 patches comes while a large one has 64 patches in the queue; and single
patches are compared with full batches, which is where a GPU gains: on CUDA `batch_gain` must be
at least 2. On the CPU it is only reported.

    python bench/batching.py [--device cpu] [--studies 5] [--rounds 2] [--slices 120]

The last line is one line of JSON. Goals: `busy_share` at least 0.9, `decode_share` and
`prepare_share` together at most 0.3.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmwrite

from fhir_ext.dicom.assemble import VolumeAssembler
from fhir_ext.dicom.volume import CTVolume
from fhir_ext.errors import FhirExtError
from fhir_ext.phantom import PhantomSpec, build, write_series
from fhir_ext.settings import LimitSettings
from models.manifest import Manifest
from models.manifest.runtimes import Batching
from models.network.service import create
from models.registry import Registry
from models.runtime.cache import SessionCache
from models.runtime.device import Device, devices
from models.runtime.host import Host, HostOptions
from models.runtime.lane import BatchRan
from models.runtime.opening import open_session
from models.runtime.options import Options
from models.service import ModelInput

LIMITS = LimitSettings()
SERVICE = "nodule-detection"
AT_ONCE = 2
SMALL, LARGE = 8, 64
FULL = 8

Interval = tuple[float, float]


def untrained(folder: Path) -> Manifest:
    """The reference detector without its training: the same cost, no use."""
    import torch

    from models.nodule_detection.network import PATCH, PEAKS, SPACING_MM, WINDOW_HU, NoduleNet
    from models.nodule_detection.train.export import export

    torch.manual_seed(1)
    export(NoduleNet().eval(), folder / "net.pt2")
    digest = hashlib.sha256((folder / "net.pt2").read_bytes()).hexdigest()
    return Manifest.model_validate(
        {
            "id": "untrained",
            "version": "1.0.0",
            "title": "Untrained detector",
            "licence": "Apache-2.0",
            "intended_use": "To be timed.",
            "not_for": "Anything else.",
            "inputs": {"modality": ["CT"]},
            "preprocessing": {
                "orientation": "SPL",
                "spacing_mm": SPACING_MM,
                "window": {"input": WINDOW_HU, "output": [0, 1]},
                "patches": {"size": PATCH, "overlap": 0.25},
            },
            "runtime": {
                "kind": "torch-export",
                "weights": {"file": "net.pt2", "sha256": digest, "licence": "Apache-2.0"},
                "inputs": [{"name": "image", "shape": ["n", 1, *PATCH]}],
                "outputs": [
                    {"name": "boxes", "shape": ["n", PEAKS, 6]},
                    {"name": "scores", "shape": ["n", PEAKS]},
                    {"name": "labels", "shape": ["n", PEAKS], "dtype": "int64"},
                ],
            },
            "outputs": [
                {
                    "name": "place",
                    "kind": "detections",
                    "region": "lungs",
                    "tensor": "boxes",
                    "scores": "scores",
                    "labels": "labels",
                    "box": "ccc-sizes",
                    "score": 0.5,
                    "classes": [{"name": "place"}],
                }
            ],
            "batching": {"max_size": FULL, "max_wait_ms": 5},
        }
    )


def network(folder: Path) -> tuple[Manifest, Path, str]:
    """What is timed, where it lies, and its name for people."""
    try:
        found = Registry().find(SERVICE)
        open_session(found.manifest.runtime, found.folder, Options()).close()
    except FhirExtError:
        return untrained(folder), folder, "reference detector, untrained"
    return found.manifest, found.folder, "reference detector"


@dataclass
class Recorder:
    """When calls were in the network."""

    calls: list[Interval] = field(default_factory=list)
    items: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, begin: float, end: float, items: int) -> None:
        with self.lock:
            self.calls.append((begin, end))
            self.items += items

    def ran(self, batch: BatchRan) -> None:
        end = time.perf_counter()
        self.add(end - batch.busy_seconds, end, batch.items)


class Answer:
    """Outputs that are there."""

    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found

    def result(self) -> dict[str, Any]:
        return self._found


class Alone:
    """In place of the host: every call goes to the network at once, in the caller's thread."""

    def __init__(self, device: Device, recorder: Recorder) -> None:
        self._device, self._recorder = device, recorder
        self._cache = SessionCache({device: 10**10})

    def submit(self, manifest: Manifest, folder: Path, batch: Any, **_: Any) -> Answer:
        options = Options(device=self._device, max_batch=manifest.batching.max_size)

        def load() -> Any:
            return open_session(manifest.runtime, folder, options)

        with self._cache.use(manifest.version, self._device, 0, load) as session:
            begin = time.perf_counter()
            found = session.run(batch)
            self._recorder.add(begin, time.perf_counter(), len(next(iter(batch.values()))))
        return Answer(found)

    def run(self, *given: Any, **named: Any) -> dict[str, Any]:
        return self.submit(*given, **named).result()

    def close(self) -> None:
        self._cache.close()


@dataclass
class Work:
    """What the studies of one run did besides waiting."""

    reads: list[Interval] = field(default_factory=list)
    read_cpu: float = 0.0
    other_cpu: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


def instances(slices: int) -> list[bytes]:
    """A series as it would come from the archive."""
    spec = PhantomSpec(shape=(slices, 512, 512), spacing_mm=(345.0 / slices, 0.72, 0.72))
    parts = []
    for dataset in write_series(build(spec), "soft"):
        buffer = io.BytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=True)
        parts.append(buffer.getvalue())
    return parts


def read(parts: Sequence[bytes]) -> CTVolume:
    with VolumeAssembler(len(parts), LIMITS) as assembler:
        for part in parts:
            assembler.add(part)
        (volume,) = assembler.finish().volumes
    return volume


def one_study(service: Any, parts: Sequence[bytes], name: str, work: Work) -> None:
    begin, cpu = time.perf_counter(), time.thread_time()
    volume = read(parts)
    end, read_cpu = time.perf_counter(), time.thread_time()
    service.run(ModelInput(volume, study=name))
    with work.lock:
        work.reads.append((begin, end))
        work.read_cpu += read_cpu - cpu
        work.other_cpu += time.thread_time() - read_cpu


def union(intervals: Sequence[Interval]) -> list[Interval]:
    found: list[Interval] = []
    for begin, end in sorted(intervals):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def length(intervals: Sequence[Interval]) -> float:
    return sum(end - begin for begin, end in intervals)


def overlap(some: Sequence[Interval], others: Sequence[Interval]) -> float:
    """Seconds of some intervals that are in others, too."""
    pairs = [(max(a, c), min(b, d)) for a, b in union(some) for c, d in union(others)]
    return sum(max(0.0, end - begin) for begin, end in pairs)


def loaded_run(
    host: Any, recorder: Recorder, model: tuple[Manifest, Path], studies: int, at_once: int,
    parts: Sequence[bytes],
) -> dict[str, float]:  # fmt: skip
    """Studies one after another in so many threads."""
    service, work = create(*model, host), Work()
    service.run(ModelInput(read(parts[: len(parts) // 4]), study="warm up"))
    recorder.calls.clear()
    recorder.items = 0
    begin, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(at_once) as pool:
        running = [
            pool.submit(one_study, service, parts, f"study {number}", work)
            for number in range(studies)
        ]
        for study in running:
            study.result()
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    busy, later = union(recorder.calls), sorted(work.reads)[at_once:]
    return {
        "busy_share": length(busy) / (busy[-1][1] - busy[0][0]),
        "items_per_s": recorder.items / wall,
        "wall_s": wall,
        "decode_share": work.read_cpu / wall,
        "prepare_share": work.other_cpu / wall,
        "cpu_s": cpu / recorder.items,
        "read_while_busy": overlap(later, busy) / length(union(later)),
    }


def noise(model: tuple[Manifest, Path], count: int) -> dict[str, Any]:
    (tensor,) = model[0].runtime.inputs
    shape = [size if isinstance(size, int) else 96 for size in tensor.shape[1:]]
    values = np.random.default_rng(1).random((count, *shape), dtype=np.float32)
    return {tensor.name: values}


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def beside(host: Any, model: tuple[Manifest, Path]) -> tuple[float, float]:
    """Seconds of a small study by itself, and beside a large one."""
    small, large = noise(model, SMALL), noise(model, LARGE)
    host.run(*model, small, study="warm up")
    single = seconds(lambda: host.run(*model, small, study="single"))
    running = threading.Thread(target=lambda: host.run(*model, large, study="large"))
    running.start()
    time.sleep(single / 4)
    together = seconds(lambda: host.run(*model, small, study="small"))
    running.join()
    return single, together


def batch_gain(host: Host, model: tuple[Manifest, Path]) -> float:
    """Items in a second in full batches, over those one by one."""
    manifest, folder = model
    given, taken = noise(model, 4 * FULL), {}
    for size in (1, FULL):
        sized = manifest.model_copy(
            update={"batching": Batching(max_size=size), "version": f"1.0.{size}"}
        )
        host.run(sized, folder, given)
        taken[size] = min(seconds(lambda m=sized: host.run(m, folder, given)) for _ in range(3))
    return taken[1] / taken[FULL]


def measure(
    device: Device, model: tuple[Manifest, Path], studies: int, rounds: int, slices: int
) -> dict[str, float]:
    print(f"writing a series of {slices} slices", flush=True)
    parts = instances(slices)
    rows: dict[str, list[dict[str, float]]] = {"one": [], "alone": [], "batcher": []}
    fair: dict[str, list[tuple[float, float]]] = {"alone": [], "batcher": []}
    with ExitStack() as ends:
        by, alone = Recorder(), Recorder()
        hosts = {
            "batcher": Host(HostOptions(device=str(device), observe=by.ran)),
            "alone": Alone(device, alone),
        }
        hosts["one"] = hosts["alone"]
        for host in (hosts["batcher"], hosts["alone"]):
            ends.callback(host.close)
        for number in range(rounds):
            for name in sorted(rows, reverse=bool(number % 2)):
                at_once = 1 if name == "one" else AT_ONCE
                recorder = by if name == "batcher" else alone
                row = loaded_run(hosts[name], recorder, model, studies, at_once, parts)
                rows[name].append(row)
                print(
                    f"  {name:8} busy {row['busy_share']:.3f}, {row['items_per_s']:.2f} patches/s, "
                    f"{row['cpu_s']:.3f} s of processor each, "
                    f"{100 * row['read_while_busy']:.0f} % of reading while the device works",
                    flush=True,
                )
            for name in fair:
                fair[name].append(beside(hosts[name], model))
                small, together = fair[name][-1]
                print(
                    f"  {name:8} a small study takes {small:.2f} s by itself, "
                    f"{together:.2f} s beside a large one",
                    flush=True,
                )
        gain = batch_gain(hosts["batcher"], model)
    return {**_medians(rows), **_fairness(fair), "batch_gain": gain}


def _medians(rows: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    def median(name: str, key: str) -> float:
        return statistics.median(row[key] for row in rows[name])

    return {
        **{key: median("batcher", key) for key in rows["batcher"][0]},
        "busy_share_alone": median("alone", "busy_share"),
        "busy_share_one": median("one", "busy_share"),
        "items_per_s_alone": median("alone", "items_per_s"),
        "items_per_s_one": median("one", "items_per_s"),
        "cpu_s_alone": median("alone", "cpu_s"),
        "cpu_s_one": median("one", "cpu_s"),
    }


def _fairness(rows: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    found = {}
    for name, pairs in rows.items():
        found[f"small_s_{name}"] = statistics.median(pair[0] for pair in pairs)
        found[f"small_beside_large_s_{name}"] = statistics.median(pair[1] for pair in pairs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device")
    parser.add_argument("--studies", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--slices", type=int, default=120)
    given = parser.parse_args()
    (device, *_) = devices(given.device)
    with tempfile.TemporaryDirectory(prefix="bench-batching-") as folder:
        manifest, place, name = network(Path(folder))
        print(f"{name} on {device}, batches of {manifest.batching.max_size}", flush=True)
        found = measure(device, (manifest, place), given.studies, given.rounds, given.slices)
    figures = {key: round(value, 3) for key, value in found.items()}
    print(json.dumps({"bench": "batching", "network": name, "device": str(device), **figures}))


if __name__ == "__main__":
    main()
