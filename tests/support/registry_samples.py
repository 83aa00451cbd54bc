"""Folders of models as a site brings them, and the service that takes them in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import models
from fhir_ext.settings import ModelSettings
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.models import ModelStore
from fhir_ext.store.repository import Repository
from models.lifecycle import State, VersionState
from models.registry import Installed, Registry
from operations.model_registry.actor import Actor
from operations.model_registry.report import CaseResult, CasesReport, Check
from operations.model_registry.service import ModelRegistryService

Json = dict[str, Any]

LUNG = "lung-density"
OPERATOR = Actor("ann", "cli")

#: A case that draws a phantom: what a site can ship without any images.
PHANTOM_CASE: Json = {
    "name": "phantom",
    "input": {"kind": "phantom", "emphysema_fraction": 0.12},
    "expect": [
        {"output": "laa-950", "region": "lungs", "value": 12.0, "tolerance": 1.5},
    ],
}


def lung_manifest(version: str, **changes: Any) -> Json:
    """The manifest of the shipped lung density, under another version."""
    path = Path(models.__file__).parent / "lung_density" / "manifest.yaml"
    data: Json = yaml.safe_load(path.read_text("utf-8"))
    return {**data, "version": version, "cases": [PHANTOM_CASE], **changes}


def write_model(folder: Path, manifest: Json) -> Path:
    """A folder that may be installed; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    (folder / "manifest.yaml").write_text(text, "utf-8")
    return folder


def lung_folder(tmp_path: Path, version: str, **changes: Any) -> Path:
    return write_model(tmp_path / f"lung-{version}", lung_manifest(version, **changes))


def shipped_copy(root: Path, **manifests: Json) -> Path:
    """A folder of shipped services: `lung_density=manifest` and so on."""
    for name, manifest in manifests.items():
        shutil.rmtree(root / name, ignore_errors=True)
        write_model(root / name, manifest)
    return root


def shipped_states(registry: Registry) -> tuple[VersionState, ...]:
    """What holds where nobody has decided anything: every shipped version is active."""
    return tuple(
        VersionState(service, registry.versions(service)[-1], State.ACTIVE)
        for service in registry.services()
    )


def verdict(passed: bool) -> Callable[[Installed], CasesReport]:
    """Stands in for networks where a test is about states only."""
    check = Check("laa-950 lungs", passed, "12 within 1.5", "12.1" if passed else "20")
    return lambda _installed: CasesReport((CaseResult("phantom", 0.1, (check,)),))


@dataclass
class NotedQueue:
    """Keeps what is enqueued; a known key changes nothing, as in the real one."""

    chores: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)

    def enqueue_chore(self, name: str, key: str, payload: Mapping[str, object]) -> str:
        self.chores.setdefault((name, key), payload)
        return f"{name}/{key}"

    def named(self, name: str) -> list[Mapping[str, Any]]:
        return [payload for (kind, _), payload in self.chores.items() if kind == name]


@dataclass
class Desk:
    """A registry over a fresh database and empty folders."""

    tmp_path: Path
    passed: bool = True
    root: Path | None = None

    def __post_init__(self) -> None:
        engine = create_store_engine(f"sqlite:///{self.tmp_path}/models.sqlite")
        migrate(engine)
        self.repository, self.store = Repository(engine), ModelStore(engine)
        self.queue = NotedQueue()
        self.settings = ModelSettings(folder=self.tmp_path / "site", inbox=self.tmp_path / "inbox")

    @property
    def registry(self) -> Registry:
        return Registry(self.root, self.settings.folder)

    @property
    def service(self) -> ModelRegistryService:
        return ModelRegistryService(
            self.store, self.registry, self.queue, self.settings, verdict(self.passed)
        )

    def tested(self, version: str, **changes: Any) -> str:
        """Install and test a version of lung density; returns it."""
        self.service.install(lung_folder(self.tmp_path, version, **changes), OPERATOR)
        self.service.test(LUNG, version, OPERATOR)
        return version

    def close(self) -> None:
        self.store.engine.dispose()
