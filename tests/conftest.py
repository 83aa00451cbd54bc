"""Fixtures that every kind of test may ask for. Slow servers start once per run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real data; skips without `FHIR_EXT_REAL_DATA`, fails when it is unreadable."""
    name = os.environ.get("FHIR_EXT_REAL_DATA")
    if not name:
        pytest.skip("FHIR_EXT_REAL_DATA is not set")
    folder = Path(name)
    if not (folder / "README.md").is_file():
        pytest.fail("FHIR_EXT_REAL_DATA is set, but holds no README.md")
    return folder
