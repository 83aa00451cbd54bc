"""Every Subscription of ours in HAPI."""

from __future__ import annotations

from typing import Final

from subscriptions.intake.subscription import STUDIES, Hook
from subscriptions.rescore import finding_params

FINDINGS: Final = Hook(
    "fhir-ext-imaging-finding",
    "Observation?" + "&".join(f"{name}={value}" for name, value in finding_params().items()),
    "fhir-ext computes risk scores again when an imaging finding becomes final",
)

#: By the name under which `doctor` and the status page show them.
HOOKS: Final = {"subscription": STUDIES, "finding subscription": FINDINGS}
