"""The phantom's instances through a DICOM validator."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pydicom import dcmwrite

from fhir_ext.phantom import ORIENTATIONS, OrientationName, PhantomSpec, build, write_series


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_instances_pass_dciodvfy(
    orientation: OrientationName, dciodvfy: Path, tmp_path: Path
) -> None:
    series = write_series(build(PhantomSpec()), orientation=orientation)
    path = tmp_path / "instance.dcm"
    dcmwrite(path, series[len(series) // 2], enforce_file_format=True)
    done = subprocess.run([dciodvfy, path], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert said, "the validator says at least what it looked at"
    assert not [line for line in said if line.startswith(("Error", "Warning"))]
