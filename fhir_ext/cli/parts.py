"""What several commands need: settings, clients, prepared stores."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.settings import Settings
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.models import ModelStore
from fhir_ext.store.repository import Repository
from models.registry import Registry
from subscriptions.queue import WorkQueue, migrate_queue

if TYPE_CHECKING:
    from operations.model_registry.service import ModelRegistryService

#: Folder in which `fhir-ext up` and `fhir-ext demo` leave their state.
RUN_DIRECTORY = Path(".run")


def is_configured() -> bool:
    """Whether the environment says anything of an installation."""
    return "FHIR_EXT_CONFIG" in os.environ or any(
        name.startswith("FHIR_EXT_INTAKE__") for name in os.environ
    )


def load_settings() -> Settings:
    """Settings from the environment and `FHIR_EXT_CONFIG`.

    Where neither says anything and `fhir-ext up` runs in this folder, its settings are
    taken, so that `fhir-ext doctor` and the others speak to the running tree.
    """
    state = RUN_DIRECTORY / "state.json"
    if not is_configured() and state.is_file():
        os.environ.update(json.loads(state.read_text())["environment"])
    return Settings()


def prepare_stores(settings: Settings) -> None:
    """Migrate both databases, and put what our resources and operations are into HAPI.

    Model versions that this software ships, and those of the site, get their rows.
    """
    from fhir_ext.resources.conformance import load_bundle
    from operations.model_registry.states import recalled_in, seed
    from operations.review.definitions import DEFINITIONS as REVIEW
    from operations.risk_score.definition import DEFINITION as RISK_SCORE

    engine = create_store_engine(settings.database.url)
    migrate(engine)
    migrate_queue(settings.database.url)
    queue = WorkQueue(settings.database.url)
    fhir = FhirClient(settings.fhir)
    seed(ModelStore(engine), Registry(site=settings.models.folder), queue, recalled_in(fhir))
    queue.close()
    engine.dispose()
    fhir.transaction(load_bundle(*REVIEW, RISK_SCORE))


@dataclass
class Parts:
    """Clients of one installation, built when first used."""

    settings: Settings

    @cached_property
    def fhir(self) -> FhirClient:
        return FhirClient(self.settings.fhir)

    @cached_property
    def repository(self) -> Repository:
        return Repository(create_store_engine(self.settings.database.url))

    @cached_property
    def queue(self) -> WorkQueue:
        return WorkQueue(self.settings.database.url)

    @cached_property
    def models(self) -> ModelRegistryService:
        """Commands about model versions; imports torch when a network is first run."""
        from models.runtime.host import Host
        from operations.model_registry.build import with_networks

        host = Host.from_settings(self.settings)
        registry = Registry(site=self.settings.models.folder, host=host)
        return with_networks(self.settings, self.repository, self.queue, registry, host)
