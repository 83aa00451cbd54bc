"""The manifest of a model that a site brings."""

from __future__ import annotations

from typing import Any

from models.manifest import Manifest


def site_manifest(**fields: Any) -> Manifest:
    """A manifest with all that has to be said; `fields` go before it."""
    return Manifest.model_validate(
        {
            "id": "site-model",
            "version": "1.0.0",
            "title": "A model of a site",
            "licence": "Apache-2.0",
            "intended_use": "Tests.",
            "not_for": "Anything else.",
            "inputs": {"modality": ["CT"]},
            **fields,
        }
    )
