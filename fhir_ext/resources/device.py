"""Device: the exact model version, and this software."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fhir_ext.resources import codes
from fhir_ext.resources.codes import concept
from fhir_ext.resources.ids import device_id, model_card_id, software_device_id
from fhir_ext.results import ModelIdentity

Json = dict[str, Any]

RECALLED: Final = "recalled"

#: States in which a version writes results: R4 Device.status `active`; else `inactive`.
_WRITING: Final = frozenset({"canary", "active"})

_CAUTION: Final = "Not a medical device. Results are preliminary until a human accepts."


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What is known of a model version beside its identity; from its manifest.

    Attributes:
        intended_use, not_for: for people.
        properties: code in `codes.MODEL_PROPERTY` to text, in the order in which they stand.
        shipped: comes with this software, which is then its manufacturer.
    """

    intended_use: str
    not_for: str
    properties: Mapping[str, str] = field(default_factory=dict)
    shipped: bool = True


def model_device(model: ModelIdentity) -> Json:
    """One model version with the settings that change its numbers, as its results need it.

    `published_device` says more; what stands in the server is never written over by this.
    """
    return {
        "resourceType": "Device",
        "id": device_id(model),
        "meta": {"security": [codes.AI_ASSERTED.as_json()]},
        "extension": [
            {
                "url": codes.AI_KIND_EXTENSION,
                "valueCodeableConcept": concept(codes.AI_FOR_IMAGES),
            }
        ],
        "identifier": [version_identifier(model)],
        "status": "active",
        "manufacturer": codes.MANUFACTURER,
        "modelNumber": model.id,
        "deviceName": [{"name": model.title, "type": "model-name"}],
        "type": concept(codes.AI_DEVICE),
        "version": [
            {"value": model.version},
            {"type": {"text": "sha256 of the settings"}, "value": model.settings_hash},
        ],
        "note": [{"text": _CAUTION}],
    }


def published_device(model: ModelIdentity, facts: VersionFacts, state: str) -> Json:
    """The same Device with all that the manifest says, its card, and where it stands.

    Args:
        state: code in `codes.MODEL_STATE`.

    Raises:
        KeyError: a state or a property has no code.
    """
    device = model_device(model)
    if not facts.shipped:
        # Who made a network that a site brings is not ours to say.
        del device["manufacturer"]
    card = {"reference": f"DocumentReference/{model_card_id(model)}"}
    device["extension"].append({"url": codes.MODEL_CARD_EXTENSION, "valueReference": card})
    device["note"] = [
        {"text": f"Intended use: {facts.intended_use}"},
        {"text": f"Not for: {facts.not_for}"},
        {"text": _CAUTION},
    ]
    device["property"] = [
        {"type": concept(codes.MODEL_PROPERTY.coding(name)), "valueCode": [{"text": text}]}
        for name, text in facts.properties.items()
        if text
    ]
    return in_state(device, state)


def in_state(device: Json, state: str, reason: str | None = None) -> Json:
    """A model version's Device with another state.

    R4 has `active`, `inactive`, `entered-in-error` and `unknown`. A recalled version was
    real, and so its Device is: it is `inactive`, and `statusReason` says why.

    Args:
        state: code in `codes.MODEL_STATE`.
        reason: why, in words.
    """
    changed = copy.deepcopy(device)
    changed["status"] = "active" if state in _WRITING else "inactive"
    changed["statusReason"] = [concept(codes.MODEL_STATE.coding(state), text=reason)]
    return changed


def is_recalled(device: Json) -> bool:
    """Whether a Device is that of a recalled model version."""
    return any(
        coding.get("system") == codes.MODEL_STATE.url and coding.get("code") == RECALLED
        for reason in device.get("statusReason", [])
        for coding in reason.get("coding", [])
    )


def version_identifier(model: ModelIdentity) -> Json:
    """Identifier of a model version with its settings."""
    return {
        "system": codes.MODEL_VERSION,
        "value": f"{model.id}/{model.version}/{model.settings_hash}",
    }


def software_device(version: str) -> Json:
    """This software, which assembles and writes the results."""
    return {
        "resourceType": "Device",
        "id": software_device_id(version),
        "identifier": [{"system": codes.MODEL_VERSION, "value": f"fhir-ext/{version}"}],
        "status": "active",
        "manufacturer": codes.MANUFACTURER,
        "deviceName": [{"name": "fhir-ext", "type": "user-friendly-name"}],
        "type": {"text": "Software that runs imaging models and writes their results"},
        "version": [{"value": version}],
    }
