"""Why an acquisition is refused: codes of `refusal-reason` that gates bring."""

from __future__ import annotations

from typing import Final

from fhir_ext.resources.codes.base import local_codes

GATE_REFUSALS: Final = local_codes(
    ("patient-position", "Position of the patient", "The patient lay otherwise than is accepted."),
    (
        "blood-pool-unenhanced",
        "Blood is not enhanced",
        "The attenuation of blood says that no contrast agent is in it.",
    ),
    (
        "pixel-spacing",
        "Pixel size not usable",
        "The size of a pixel is not stated, not calibrated, or out of range.",
    ),
    (
        "view-position",
        "Projection not accepted",
        "The projection of a radiograph is not stated, or not an accepted one.",
    ),
)
