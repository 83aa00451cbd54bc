"""DetectedIssue about a model version: that it drifts. It is about no patient (R4: 0..1)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import fhir_ext
from fhir_ext.resources import codes
from fhir_ext.resources.codes import concept, profile
from fhir_ext.resources.context import instant
from fhir_ext.resources.ids import device_id, software_device_id
from fhir_ext.results import ModelIdentity

Json = dict[str, Any]


def drift_issue(
    issue_id: str,
    model: ModelIdentity,
    *,
    kind: str,
    severity: Literal["high", "moderate"],
    findings: Sequence[str],
    spans: str,
    identified: datetime,
) -> Json:
    """A change that was found over many results of one model version.

    It is `final`: it says what was counted, and nobody reviews it. It bears no label of AI,
    since nothing of it comes from a model.

    Args:
        issue_id: `ids.model_alert_id`.
        model: becomes `implicated`, the Device that must be in the server.
        kind: code in `codes.MODEL_ALERT` for what changed.
        findings: sentences without patient data, at least one.
        spans: in words, what was compared.
        identified: when it was found; aware.

    Raises:
        KeyError: the kind has no code.
    """
    return {
        "resourceType": "DetectedIssue",
        "id": issue_id,
        "meta": {"profile": [profile("model-drift-issue")]},
        "identifier": [
            {
                "system": codes.MODEL_VERSION,
                "value": f"{model.id}/{model.version}/{model.settings_hash}",
            }
        ],
        "status": "final",
        "code": concept(codes.MODEL_ALERT.coding("model-drift")),
        "severity": severity,
        "identifiedDateTime": instant(identified),
        "author": {"reference": f"Device/{software_device_id(fhir_ext.__version__)}"},
        "implicated": [{"reference": f"Device/{device_id(model)}"}],
        "evidence": [
            {"code": [concept(codes.MODEL_ALERT.coding(kind), text=text)]} for text in findings
        ],
        "detail": f"{model.title} {model.version}, {spans}: {'; '.join(findings)}.",
    }
