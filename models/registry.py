"""Installed services: found by their manifests, loaded when first used.

Listing and reading manifests imports no torch; `load` does.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fhir_ext.dicom.volume import CTVolume
from fhir_ext.errors import NotFoundError
from fhir_ext.results import Issue, Measurement, ModelIdentity, Risk
from models.manifest import Manifest, ManifestError, read_manifest

NOT_INSTALLED = "model-not-installed"

Conclusions = tuple[tuple[Risk, ...], tuple[Issue, ...]]


@dataclass(frozen=True, slots=True)
class ServiceOutput:
    """What one service says about one volume.

    Attributes:
        measurements: a number or a refusal for every output of the manifest, in its order.
        risks, issues: what follows from the numbers that stand.
    """

    measurements: tuple[Measurement, ...]
    risks: tuple[Risk, ...] = ()
    issues: tuple[Issue, ...] = ()


class Service(Protocol):
    """A loaded model. `run` may be called from several threads."""

    def run(self, volume: CTVolume) -> ServiceOutput:
        """Gate, measure, and draw conclusions; the volume is not changed."""


class Registry:
    """The services that are shipped as folders of the package `models`.

    A folder is a service when it holds `manifest.yaml`; its module `service` has
    `create(manifest: Manifest, device: str | None) -> Service`. A service whose numbers lead
    to risks or issues may have a module `conclusions` too, which imports no torch, with
    `derive(manifest: Manifest, measurements) -> (risks, issues)`.

    Args:
        root: folder to look in; the package itself by default.
        device: torch device for all services; `cuda` when there is one, else `cpu`.
    """

    def __init__(self, root: Path | None = None, device: str | None = None) -> None:
        self._device = device
        self._manifests: dict[str, Manifest] = {}
        self._services: dict[str, Service] = {}
        self._lock = threading.Lock()
        for path in sorted((root or Path(__file__).parent).glob("*/manifest.yaml")):
            manifest = read_manifest(path)
            if path.parent.name != _folder(manifest.id):
                raise ManifestError(f"{path}: id {manifest.id} does not match its folder")
            self._manifests[manifest.id] = manifest

    def services(self) -> tuple[str, ...]:
        """Names of all installed services, sorted."""
        return tuple(sorted(self._manifests))

    def manifest(self, name: str) -> Manifest:
        """The manifest of one service.

        Raises:
            NotFoundError: code `model-not-installed`.
        """
        try:
            return self._manifests[name]
        except KeyError:
            raise NotFoundError("no such service is installed", code=NOT_INSTALLED) from None

    def load(self, name: str) -> Service:
        """The service itself, imported and built at the first call and kept.

        Raises:
            NotFoundError: code `model-not-installed`: unknown, or what runs it is missing.
        """
        manifest = self.manifest(name)
        with self._lock:
            if name not in self._services:
                self._services[name] = self._create(manifest)
            return self._services[name]

    def derive(
        self, model: ModelIdentity, measurements: tuple[Measurement, ...]
    ) -> Conclusions | None:
        """What a model version's own rule says of numbers that a human gave or confirmed.

        Returns:
            None when that version, with its settings, is not the one installed, or the
            service has no rule: then nobody here can say what follows.
        """
        manifest = self._manifests.get(model.id)
        if manifest is None:
            return None
        installed = manifest.identity()
        if (installed.version, installed.settings_hash) != (model.version, model.settings_hash):
            return None
        name = f"models.{_folder(model.id)}.conclusions"
        if importlib.util.find_spec(name) is None:
            return None
        found: Conclusions = importlib.import_module(name).derive(manifest, measurements)
        return found

    def _create(self, manifest: Manifest) -> Service:
        try:
            module = importlib.import_module(f"models.{_folder(manifest.id)}.service")
        except ModuleNotFoundError as error:
            missing = error.name or "a module"
            raise NotFoundError(
                f"service {manifest.id} cannot run here: {missing} is not installed",
                code=NOT_INSTALLED,
            ) from error
        service: Service = module.create(manifest, self._device)
        return service


def _folder(service: str) -> str:
    return service.replace("-", "_")
