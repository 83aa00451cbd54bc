"""One model version as a whole: manifest, state, card, test, history; for people and scripts."""

from __future__ import annotations

from typing import Any

from fhir_ext.errors import SettingsError
from fhir_ext.logs import event as log_event
from fhir_ext.logs import get_logger
from models.registry import NotInstalledError
from operations.model_registry.card import card_markdown
from operations.model_registry.rows import event_json
from operations.model_registry.service import ModelRegistryService

log = get_logger(__name__)

Json = dict[str, Any]

#: Most events that are shown with a version.
MOST_EVENTS = 200


def describe(service: ModelRegistryService, name: str, version: str) -> Json:
    """Everything that is known of one version.

    Returns:
        What `VersionRow.as_json` has, with `manifest`, `card` (Markdown), `report` of the last
        test and `events`, newest first. `manifest` and `card` are null when its files are gone
        or cannot be read any more.

    Raises:
        NotInstalledError: there is no such version.
    """
    row = service.version(name, version)
    manifest: Json | None = None
    card: str | None = None
    try:
        found = service.registry.find(name, version)
        manifest = found.manifest.model_dump(mode="json")
        card = card_markdown(found.manifest, found.folder)
    except (NotInstalledError, SettingsError) as error:
        log_event(log, "model-not-readable", service=name, code=error.code)
    return {
        **row.as_json(),
        "manifest": manifest,
        "card": card,
        "report": row.test_report,
        "events": [event_json(item) for item in service.history(name, version, MOST_EVENTS)],
    }
