"""DocumentReference: the card of a model version, for people who decide whether to use it."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from fhir_ext.resources import codes
from fhir_ext.resources.codes import concept
from fhir_ext.resources.device import version_identifier
from fhir_ext.resources.ids import device_id, model_card_id
from fhir_ext.results import ModelIdentity

Json = dict[str, Any]


def model_card(model: ModelIdentity, markdown: str) -> Json:
    """The card of one model version; R4, without a subject.

    The same arguments give the same bytes. It speaks of the version and not of its state, so
    it stays `current` for a version that is recalled.
    """
    data = markdown.encode()
    return {
        "resourceType": "DocumentReference",
        "id": model_card_id(model),
        "identifier": [version_identifier(model)],
        "status": "current",
        "type": concept(codes.MODEL_CARD),
        "category": [concept(codes.MODEL_CARD_MARKDOWN)],
        "description": f"Model card of {model.title}, version {model.version}",
        "content": [
            {
                "attachment": {
                    "contentType": "text/markdown",
                    "language": "en",
                    "data": base64.b64encode(data).decode(),
                    "size": len(data),
                    # R4 Attachment.hash is the SHA-1 of the content.
                    "hash": base64.b64encode(
                        hashlib.sha1(data, usedforsecurity=False).digest()
                    ).decode(),
                    "title": f"{model.id} {model.version}",
                }
            }
        ],
        "context": {"related": [{"reference": f"Device/{device_id(model)}"}]},
    }
