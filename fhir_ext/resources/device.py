"""Device: the exact model version, and this software."""

from __future__ import annotations

from typing import Any

from fhir_ext.resources import codes
from fhir_ext.resources.codes import concept
from fhir_ext.resources.ids import device_id, software_device_id
from fhir_ext.results import ModelIdentity

Json = dict[str, Any]


def model_device(model: ModelIdentity) -> Json:
    """One model version with the settings that change its numbers."""
    return {
        "resourceType": "Device",
        "id": device_id(model),
        "identifier": [
            {
                "system": codes.MODEL_VERSION,
                "value": f"{model.id}/{model.version}/{model.settings_hash}",
            }
        ],
        "status": "active",
        "manufacturer": codes.MANUFACTURER,
        "modelNumber": model.id,
        "deviceName": [{"name": model.title, "type": "model-name"}],
        "type": concept(codes.AI_DEVICE),
        "version": [
            {"value": model.version},
            {"type": {"text": "sha256 of the settings"}, "value": model.settings_hash},
        ],
        "note": [{"text": "Not a medical device. Results are preliminary until a human accepts."}],
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
