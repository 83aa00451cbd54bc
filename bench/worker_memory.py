"""How much memory does a running worker take on for a 300 x 512 x 512 study?

Starts the whole tree, lets the worker become idle, resets the kernel's high-water mark,
sends a phantom study of 300 slices through the archive, and reads the mark again when the
results stand. The goal is the volume itself plus 100 MiB.

The last line is one line of JSON.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from fhir_ext.cli.parts import Parts
from fhir_ext.cli.tree import Tree
from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.phantom import PhantomPatient, PhantomSpec, build, write_series

SHAPE = (300, 512, 512)
MIB = 2**20


def memory_mib(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"the kernel does not tell {key}")


def main() -> None:
    print("drawing the phantom")
    phantom = build(PhantomSpec(shape=SHAPE, spacing_mm=(1.0, 0.75, 0.75)))
    series = write_series(phantom, "soft", PhantomPatient(patient_id="BENCH-1"))
    system = "https://w3id.org/fhir-ext/bench"
    environment = {
        "FHIR_EXT_BRIDGE__QUIET_PERIOD": "PT1S",
        "FHIR_EXT_BRIDGE__ISSUERS": json.dumps({"FHIR-EXT-DEMO": system}),
        "FHIR_EXT_BRIDGE__CREATE_PATIENTS": "true",
    }
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder), print, environment=environment)
        try:
            tree.start()
            print(json.dumps(measure(tree, series)))
        finally:
            tree.stop()


def measure(tree: Tree, series) -> dict[str, object]:
    parts = Parts(tree.settings)
    archive = DicomWebClient(tree.settings.archive, tree.settings.limits)
    time.sleep(5)
    pid = tree.pid("worker")
    idle = memory_mib(pid, "VmRSS")
    # 5 resets the high-water mark (proc(5), clear_refs).
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    archive.store(series)
    print(f"stored; the idle worker has {idle:.0f} MiB")
    deadline = time.monotonic() + 120
    while not (done := parts.repository.runs("done")):
        if time.monotonic() > deadline:
            raise SystemExit("no result within 120 s")
        time.sleep(0.2)
    peak = memory_mib(pid, "VmHWM")
    volume = SHAPE[0] * SHAPE[1] * SHAPE[2] * 2 / MIB
    return {
        "bench": "worker_memory",
        "volume_mib": round(volume, 1),
        "idle_mib": round(idle, 1),
        "peak_mib_above_idle": round(peak - idle, 1),
        "above_volume_mib": round(peak - idle - volume, 1),
        "step_seconds": done[0].step_seconds,
    }


if __name__ == "__main__":
    main()
