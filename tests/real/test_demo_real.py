"""The demo on a real chest CT of two kernels, straight from its zip file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_soft_kernel_gives_numbers_and_the_sharp_one_is_refused(
    real_data: Path, tmp_path: Path
) -> None:
    folder = real_data / "ct_lung_pet_ct_dx"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "fhir_ext",
            "demo",
            "--dir",
            str(tmp_path),
            "--studies",
            str(folder),
        ],
        env={**os.environ, "DEMO_ONCE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    studies = json.loads((tmp_path / "demo.json").read_text())["studies"]
    services = [entry["services"][0] for entry in studies]
    (soft,) = [s for s in services if "laa-950" in s["measurements"]]
    (sharp,) = [s for s in services if "laa-950" in s["withheld"]]
    assert soft["measurements"]["lung-volume"]["value"] > 4000
    assert 0 <= soft["measurements"]["laa-950"]["value"] < 2
    assert sharp["withheld"]["laa-950"] == sharp["withheld"]["perc15"] == "kernel"
    assert sharp["measurements"]["lung-volume"]["value"] > 4000
