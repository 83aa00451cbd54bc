"""What HAPI knows of model versions: a Device and a model card for each.

A loop of the leading worker calls `publish_versions`, so a change of state arrives also when
HAPI was down, or was restored, when it was made. Who wants it at once calls `publish_version`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fhir_ext.clients.fhir import CONFLICT_WAITS, FhirClient
from fhir_ext.errors import ConflictError, NotFoundError, SettingsError, UpstreamError
from fhir_ext.logs import event, get_logger
from fhir_ext.resources.bundle import create_entry, transaction, update_entry
from fhir_ext.resources.device import VersionFacts, is_recalled, published_device
from fhir_ext.resources.document_reference import model_card
from models.lifecycle import State, VersionState
from models.manifest import Manifest
from models.registry import Registry
from operations.model_registry.card import card_markdown

log = get_logger(__name__)

Json = dict[str, Any]


def publish_version(
    fhir: FhirClient,
    manifest: Manifest,
    state: State,
    *,
    folder: Path | None = None,
    shipped: bool = True,
) -> bool:
    """Bring Device and model card of one version in line with its manifest and state.

    Call it after a version was installed and after every change of its state. It costs two
    reads where nothing has changed. A recalled version stays recalled, whatever `state` says:
    a caller that read the state before the recall changes nothing.

    Args:
        folder: of the version, for the card's own page.
        shipped: comes with this software.

    Returns:
        Whether something was written.

    Raises:
        UpstreamError: HAPI is down, or others keep writing the same resources.
        UnprocessableError: HAPI refuses a resource.
    """
    model = manifest.identity()
    device = published_device(model, _facts(manifest, shipped=shipped), state.value)
    card = model_card(model, card_markdown(manifest, folder))
    for wait in CONFLICT_WAITS:
        entries = [_entry(fhir, device), _entry(fhir, card)]
        changed = [entry for entry in entries if entry is not None]
        if not changed:
            return False
        try:
            fhir.transaction_once(transaction(changed))
        except ConflictError:
            time.sleep(wait)
            continue
        event(log, "model-published", service=model.id, version=model.version, state=state.value)
        return True
    raise UpstreamError("others keep writing the same resources", code="write-conflict")


def publish_versions(fhir: FhirClient, registry: Registry, states: Iterable[VersionState]) -> int:
    """Publish every version that is installed and has a state.

    Returns:
        How many were written.

    Raises:
        UpstreamError: HAPI is down.
    """
    count = 0
    for item in states:
        try:
            installed = registry.find(item.service, item.version)
        except (NotFoundError, SettingsError):
            # Its files are gone or damaged; what HAPI says of it stays.
            continue
        count += publish_version(
            fhir,
            installed.manifest,
            item.state,
            folder=installed.folder,
            shipped=installed.shipped,
        )
    return count


def _facts(manifest: Manifest, *, shipped: bool) -> VersionFacts:
    return VersionFacts(
        intended_use=" ".join(manifest.intended_use.split()),
        not_for=" ".join(manifest.not_for.split()),
        properties={
            "licence": manifest.licence,
            "citation": " ".join(manifest.citation.split()),
            "review": manifest.review,
            "runtime": manifest.runtime.kind,
        },
        shipped=shipped,
    )


def _entry(fhir: FhirClient, wanted: Json) -> Json | None:
    """PUT of a resource over the version that was read; None where it says the same already."""
    found = fhir.find(wanted["resourceType"], wanted["id"])
    if found is None:
        return create_entry(wanted)
    if is_recalled(found):
        # `statusReason` of the recall says why; the rest may follow the manifest.
        wanted = {**wanted, "status": found["status"], "statusReason": found["statusReason"]}
    if {**found, "meta": None} == {**wanted, "meta": None}:
        return None
    return update_entry({**wanted, "meta": {**found.get("meta", {}), **wanted.get("meta", {})}})
