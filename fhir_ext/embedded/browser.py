"""Chromium for tests and pictures of our pages; nothing that runs in production needs it."""

from __future__ import annotations

import shutil
from pathlib import Path

from fhir_ext.embedded.cache import Progress
from fhir_ext.embedded.debian import ensure_programs

PACKAGES = ("chromium",)
#: The program itself; `usr/bin/chromium` is a script that looks for it in fixed places.
PROGRAM_FILE = "usr/lib/chromium/chromium"


def ensure_chromium(progress: Progress) -> Path:
    """A Chromium that can be started by its path alone, installed now or earlier.

    As root, start it with `--no-sandbox`, as Chromium itself asks.

    Raises:
        SettingsError: it cannot be had on this machine; says what to do.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    installation = ensure_programs(PACKAGES, (PROGRAM_FILE,), progress)
    return installation.launcher(PROGRAM_FILE)
