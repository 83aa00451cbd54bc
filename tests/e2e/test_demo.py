"""`fhir-ext demo` as a newcomer runs it, without a terminal: it verifies and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def run_demo(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    """Run the demo in a folder of its own; the process and its `demo.json`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FHIR_EXT_")}
    done = subprocess.run(
        [sys.executable, "-m", "fhir_ext", "demo", "--dir", str(folder / "run"), *arguments],
        env={**environment, "DEMO_ONCE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return done, json.loads((folder / "run" / "demo.json").read_text())


def test_demo_ends_with_results_beside_the_truth(tmp_path: Path) -> None:
    done, summary = run_demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo: ok" in done.stdout
    assert summary["ok"] is True
    assert summary["seconds"] > 0
    assert set(summary["urls"]) >= {"status page", "FHIR server", "DICOMweb"}
    assert len(summary["studies"]) == 4
    for entry in summary["studies"]:
        assert entry["study_instance_uid"]
        assert entry["series_instance_uid"]
        (service,) = entry["services"]
        assert service["service"] == "lung-density"
        assert service["status"] == "done"
        assert service["measurements"]["lung-volume"]["unit"] == "mL"
    sharp = [
        e["services"][0] for e in summary["studies"] if "laa-950" in e["services"][0]["withheld"]
    ]
    assert len(sharp) == 2
    assert all(service["reason"].startswith("kernel") for service in sharp)
