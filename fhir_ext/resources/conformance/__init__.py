"""Our CodeSystems, ValueSets and profiles: JSON files beside this module.

The files are generated from `fhir_ext.resources.codes` by
`python -m fhir_ext.resources.conformance`; a test checks that they are up to date.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from fhir_ext.resources.bundle import put_entry, transaction

Json = dict[str, Any]


def conformance_resources() -> tuple[Json, ...]:
    """All conformance resources, as the files hold them, sorted by file name."""
    files = sorted(resources.files(__name__).iterdir(), key=lambda entry: entry.name)
    return tuple(json.loads(f.read_text("utf-8")) for f in files if f.name.endswith(".json"))


def load_bundle(*further: Json) -> Json:
    """A transaction of PUTs that makes a FHIR server know our codes and profiles.

    The ids are fixed: loading again changes nothing.

    Args:
        further: other resources that are to be there.
    """
    return transaction([put_entry(item) for item in (*conformance_resources(), *further)])
