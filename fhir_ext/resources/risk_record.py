"""A risk score that is kept: its RiskAssessment and Provenance, as one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import fhir_ext
from fhir_ext.resources import codes
from fhir_ext.resources.bundle import create_entry, put_entry, transaction
from fhir_ext.resources.codes import CANONICAL, RISK_INPUT_EXTENSION, RISK_MODEL, concept
from fhir_ext.resources.context import instant
from fhir_ext.resources.device import software_device
from fhir_ext.resources.ids import risk_provenance_id, risk_score_id, software_device_id
from fhir_ext.resources.review import Reviewer
from fhir_ext.resources.risk_score import risk_score_assessment
from fhir_ext.results import RiskScore

Json = dict[str, Any]

#: Identifier system of kept scores; the value is the id.
RISK_SCORE: Final = f"{CANONICAL}/identifier/risk-score"

#: Identifier system of OAuth clients.
CLIENT: Final = f"{CANONICAL}/identifier/oauth-client"


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked for a score, as the token says.

    Attributes:
        client_id: OAuth client.
        subject: `sub`.
        fhir_user: relative reference of the user.
    """

    client_id: str
    subject: str
    fhir_user: str | None = None

    def agent(self) -> Json:
        """Provenance.agent: the user, on behalf of the client's program."""
        who = Reviewer(self.subject, self.fhir_user).reference
        client = {"identifier": {"system": CLIENT, "value": self.client_id}}
        return {"type": concept(codes.AUTHOR), "who": who, "onBehalfOf": client}


def kept_assessment(score: RiskScore, patient_id: str) -> Json:
    """The RiskAssessment of a score that is kept; the same score gives the same bytes."""
    resource_id = risk_score_id(patient_id, score)
    return risk_score_assessment(
        score,
        {"reference": f"Patient/{patient_id}"},
        resource_id=resource_id,
        identifier={"system": RISK_SCORE, "value": resource_id},
        performer={"reference": f"Device/{software_device_id(fhir_ext.__version__)}"},
    )


def record_bundle(
    assessments: list[Json],
    recorded: datetime,
    *,
    asker: Asker | None = None,
    revised: Mapping[str, str] | None = None,
) -> Json:
    """One transaction that writes scores which do not exist yet.

    Args:
        assessments: of `kept_assessment`.
        recorded: when they are written; aware.
        asker: None when a new imaging finding asked.
        revised: id of an assessment to the reference of the one that it follows.
    """
    version = fhir_ext.__version__
    entries = [put_entry(software_device(version))]
    for assessment in assessments:
        earlier = (revised or {}).get(assessment["id"])
        entries.append(create_entry(assessment))
        entries.append(create_entry(_provenance(assessment, recorded, version, asker, earlier)))
    return transaction(entries)


def _provenance(
    assessment: Json, recorded: datetime, version: str, asker: Asker | None, earlier: str | None
) -> Json:
    entities = [{"role": "source", "what": item} for item in assessment.get("basis", ())]
    if earlier is not None:
        entities.append({"role": "revision", "what": {"reference": earlier}})
    agents = [
        {
            "type": concept(codes.ASSEMBLER),
            "who": {"reference": f"Device/{software_device_id(version)}"},
        }
    ]
    if asker is not None:
        agents.append(asker.agent())
    provenance: Json = {
        "resourceType": "Provenance",
        "id": risk_provenance_id(assessment["id"]),
        "target": [{"reference": f"RiskAssessment/{assessment['id']}"}],
        "occurredDateTime": instant(recorded),
        "recorded": instant(recorded),
        "agent": agents,
    }
    if entities:
        provenance["entity"] = entities
    return provenance


@dataclass(frozen=True, slots=True)
class KeptInput:
    """One input of a kept score, as its extension says.

    Attributes:
        key: name of the value element (`valueQuantity`).
        value: its content.
        source: code in the CodeSystem `risk-input-source`.
        reference: what it was read from.
    """

    name: str
    key: str
    value: Any
    source: str
    reference: str | None = None

    @property
    def plain(self) -> float | bool | str:
        """Number, truth or code, as in `fhir_ext.results.InputValue.value`."""
        found = self.value["value"] if self.key == "valueQuantity" else self.value
        return found if isinstance(found, bool | str) else float(found)


def inputs_of(assessment: Json) -> list[KeptInput]:
    """The inputs that a kept score was computed from."""
    found = []
    for extension in assessment.get("extension", ()):
        if extension.get("url") != RISK_INPUT_EXTENSION:
            continue
        parts = {part.get("url"): part for part in extension.get("extension", ())}
        value = parts.get("value", {})
        key = next((key for key in value if key.startswith("value")), None)
        name, source = (parts.get(part, {}).get("valueCode") for part in ("name", "source"))
        if name and source and key:
            reference = parts.get("reference", {}).get("valueReference", {}).get("reference")
            found.append(KeptInput(name, key, value[key], source, reference))
    return found


def model_of(assessment: Json) -> str | None:
    """Code of the risk model of a kept score; None when it is none of ours."""
    for coding in assessment.get("method", {}).get("coding", ()):
        if coding.get("system") == RISK_MODEL.url:
            return str(coding.get("code"))
    return None


def is_kept_score(assessment: Json) -> bool:
    """Whether a RiskAssessment was written by `record_bundle` and still stands."""
    ours = any(item.get("system") == RISK_SCORE for item in assessment.get("identifier", ()))
    return ours and assessment.get("status") not in ("entered-in-error", "cancelled")
