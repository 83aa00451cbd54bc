"""Codes of monitoring: that a model version is not what it was, and in what."""

from __future__ import annotations

from typing import Final

from fhir_ext.resources.codes.base import LocalSystem, local_codes

MODEL_ALERT: Final = LocalSystem(
    "model-alert",
    "Alerts about models",
    "What monitoring found about one model version, over many results and about no patient.",
    local_codes(
        (
            "model-drift",
            "Model drift",
            "What a model version sees, says or is told differs from its reference.",
        ),
        ("input-drift", "Input mix changed", "Scanners, protocols or people are not as before."),
        ("output-drift", "Output changed", "Numbers or categories are distributed differently."),
        ("refusal-drift", "Refusals changed", "More or fewer results are withheld than before."),
        (
            "agreement-drift",
            "Agreement changed",
            "Reviewers accept, modify or reject more or less often than before.",
        ),
    ),
)
