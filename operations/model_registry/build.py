"""The service of one installation: where networks may be loaded, and where they may not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fhir_ext.settings import Settings
from fhir_ext.store.models import ModelStore
from fhir_ext.store.repository import Repository
from models.registry import Installed, Registry
from operations.model_registry.recall import ChoreQueue
from operations.model_registry.report import CasesReport
from operations.model_registry.service import ModelRegistryService

if TYPE_CHECKING:
    from models.runtime.host import Host


def without_networks(
    settings: Settings, repository: Repository, queue: ChoreQueue, registry: Registry
) -> ModelRegistryService:
    """The service of the HTTP side, which imports no torch and has tests run by a worker."""
    return ModelRegistryService(ModelStore(repository.engine), registry, queue, settings.models)


def with_networks(
    settings: Settings,
    repository: Repository,
    queue: ChoreQueue,
    registry: Registry,
    host: Host,
) -> ModelRegistryService:
    """The service of workers and commands.

    Args:
        registry: made with `host`, so that a tested network is loaded once.
    """

    def try_cases(installed: Installed) -> CasesReport:
        from models.runtime.options import Options
        from operations.model_registry.cases import run_cases

        options = replace(
            Options.from_settings(settings), max_batch=installed.manifest.batching.max_size
        )
        return run_cases(installed, registry, host, settings.limits, options)

    return ModelRegistryService(
        ModelStore(repository.engine), registry, queue, settings.models, try_cases
    )
