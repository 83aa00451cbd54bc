"""Names that the demo and the tree it runs in share."""

from __future__ import annotations

import json
from typing import Final

#: System of the identifiers of invented patients.
DEMO_SYSTEM: Final = "https://w3id.org/fhir-ext/demo/patients"

#: Who gives them: issuer in DICOM, system in FHIR; value of `FHIR_EXT_BRIDGE__ISSUERS`.
DEMO_ISSUERS: Final = json.dumps({"FHIR-EXT-DEMO": DEMO_SYSTEM})

#: What the demo leaves behind; a folder with data and without it is somebody's own.
SUMMARY: Final = "demo.json"
