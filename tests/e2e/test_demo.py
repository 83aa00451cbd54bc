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


def density(entry: dict) -> dict:
    (found,) = [item for item in entry["services"] if item["service"] == "lung-density"]
    return found


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
        service = density(entry)
        assert service["status"] == "done"
        assert service["measurements"]["lung-volume"]["unit"] == "mL"
    densities = [density(entry) for entry in summary["studies"]]
    sharp = [service for service in densities if "laa-950" in service["withheld"]]
    assert len(sharp) == 2
    assert all(service["reason"].startswith("kernel") for service in sharp)
    assert [row[0].split()[0] for row in summary["models"]] == [
        "install",
        "test",
        "shadow",
        "activate",
        "rollback",
        "recall",
    ]
    assert summary["shadow"]["lung-volume/lungs"] < -5
    assert summary["recall"]["withdrawn"] > 10
    assert summary["recall"]["studies"] == 1
