"""Installed model versions: found by their manifests, loaded when first used.

Listing and reading manifests imports no torch; `load` does.
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fhir_ext.errors import NotFoundError
from fhir_ext.results import Measurement, ModelIdentity
from models.manifest import Manifest, ManifestError, read_manifest
from models.service import Conclusions, Service

if TYPE_CHECKING:
    from models.runtime.host import Host

NOT_INSTALLED = "model-not-installed"
MANIFEST = "manifest.yaml"


class NotInstalledError(NotFoundError):
    """There is no such model version here, or what runs it is missing."""

    default_code = NOT_INSTALLED


@dataclass(frozen=True, slots=True)
class Installed:
    """One installed version.

    Attributes:
        manifest: what it is.
        folder: where its manifest, weights and cases are.
        shipped: comes with this software, rather than from the site.
    """

    manifest: Manifest
    folder: Path
    shipped: bool


class Registry:
    """Model versions that are shipped as folders of the package `models`, and the site's.

    A shipped folder is a service when it holds `manifest.yaml`. A site keeps further versions
    of them, and services of its own, as `<site>/<id>/<version>/manifest.yaml`.

    What runs a version is the module `models.<id>.service` where there is one, else
    `models.network.service`, which does what the manifest says. Either has
    `create(manifest: Manifest, folder: Path, host: Host) -> Service`. A service whose numbers
    lead to risks or issues may have a module `conclusions` too, which imports no torch, with
    a pydantic model `Thresholds` of the manifest's `thresholds`, and
    `conclude(measurements, thresholds) -> (risks, issues)`.

    Args:
        root: folder of the shipped services; the package itself by default.
        site: folder of the site's versions; none by default.
        host: what runs networks; one of its own by default.
        expected: hash of the settings of a site's version as it was installed and tested; None
            where nothing is known of it. By default nothing is.
    """

    def __init__(
        self,
        root: Path | None = None,
        site: Path | None = None,
        host: Host | None = None,
        expected: Callable[[str, str], str | None] = lambda _service, _version: None,
    ) -> None:
        self._site, self._host, self._expected = site, host, expected
        self._shipped: dict[str, Installed] = {}
        self._read: dict[tuple[str, str], Installed] = {}
        self._loaded: dict[tuple[str, str], Service] = {}
        self._lock = threading.Lock()
        for path in sorted((root or Path(__file__).parent).glob(f"*/{MANIFEST}")):
            manifest = read_manifest(path)
            if path.parent.name != _folder(manifest.id):
                raise ManifestError(f"{path}: id {manifest.id} does not match its folder")
            self._shipped[manifest.id] = Installed(manifest, path.parent, shipped=True)

    def shipped(self) -> tuple[Installed, ...]:
        """What comes with this software, sorted by name."""
        return tuple(self._shipped[name] for name in sorted(self._shipped))

    def site_versions(self) -> frozenset[tuple[str, str]]:
        """(service, version) of each folder of the site that holds a manifest, readable or not."""
        if self._site is None:
            return frozenset()
        found = (path.parent for path in self._site.glob(f"*/*/{MANIFEST}"))
        # What is being copied has a name with a leading dot.
        return frozenset(
            (folder.parent.name, folder.name) for folder in found if folder.name[0] != "."
        )

    def services(self) -> tuple[str, ...]:
        """Names of all installed services, sorted."""
        own = {name for name, _ in self.site_versions()}
        return tuple(sorted(own | self._shipped.keys()))

    def versions(self, service: str) -> tuple[str, ...]:
        """Installed versions of a service; the shipped one last."""
        own = sorted(version for name, version in self.site_versions() if name == service)
        shipped = self._shipped.get(service)
        return (*own, *([shipped.manifest.version] if shipped else []))

    def find(self, service: str, version: str | None = None) -> Installed:
        """One installed version; without a version the shipped one, or the site's only one.

        Raises:
            NotInstalledError: there is none.
            ManifestError: it was changed on the disk and cannot be read any more.
        """
        if version is None:
            known = self.versions(service)
            if service not in self._shipped and len(known) != 1:
                raise _not_installed()
            version = known[-1]
        shipped = self._shipped.get(service)
        if shipped is not None and shipped.manifest.version == version:
            return shipped
        if not self._on_site(service, version):
            raise _not_installed()
        key = (service, version)
        with self._lock:
            if key not in self._read:
                self._read[key] = self._read_site(service, version)
            return self._read[key]

    def manifest(self, service: str, version: str | None = None) -> Manifest:
        """The manifest of one version; see `find`."""
        return self.find(service, version).manifest

    def load(self, service: str, version: str | None = None) -> Service:
        """What runs a version, imported and built at the first call and kept.

        Raises:
            NotInstalledError: unknown, or what runs it is missing; `model-files-changed`: its
                manifest, which names the hashes of its weights, is not the installed one.
        """
        installed = self.find(service, version)
        key = (service, installed.manifest.version)
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = self._create(installed)
            return self._loaded[key]

    def derive(
        self, model: ModelIdentity, measurements: tuple[Measurement, ...]
    ) -> Conclusions | None:
        """What a model version's own rule says of numbers that a human gave or confirmed.

        Returns:
            None when that version, with its settings, is not installed any more or cannot be
            read, or the service has no rule: then nobody here can say what follows.
        """
        try:
            manifest = self.manifest(model.id, model.version)
        except (NotInstalledError, ManifestError):
            return None
        if manifest.identity().settings_hash != model.settings_hash:
            return None
        name = f"models.{_folder(model.id)}.conclusions"
        if not _exists(name):
            return None
        module = importlib.import_module(name)
        thresholds = module.Thresholds.model_validate(dict(manifest.thresholds))
        found: Conclusions = module.conclude(measurements, thresholds)
        return found

    def _on_site(self, service: str, version: str) -> bool:
        """Whether the site has this one version; looked up by each study, so without a listing."""
        names = (service, version)
        plain = all(name and Path(name).name == name and not name.startswith(".") for name in names)
        return plain and self._site is not None and (self._site.joinpath(*names, MANIFEST)).exists()

    def _read_site(self, service: str, version: str) -> Installed:
        assert self._site is not None
        folder = self._site / service / version
        manifest = read_manifest(folder / MANIFEST)
        if (manifest.id, manifest.version) != (service, version):
            raise ManifestError(f"{folder}: {manifest.id} {manifest.version} is not its folder")
        return Installed(manifest, folder, shipped=False)

    def _create(self, installed: Installed) -> Service:
        manifest = installed.manifest
        if not installed.shipped:
            wanted = self._expected(manifest.id, manifest.version)
            if wanted not in (None, manifest.identity().settings_hash):
                raise NotInstalledError(
                    "the manifest of this version is not the one that was installed",
                    code="model-files-changed",
                )
        name = _module_of(manifest.id) or "models.network.service"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name or "a module"
            raise NotInstalledError(
                f"service {manifest.id} cannot run here: {missing} is not installed"
            ) from error
        if self._host is None:
            from models.runtime.host import Host

            self._host = Host()
        service: Service = module.create(manifest, installed.folder, self._host)
        return service


def needs_no_code(service: str) -> bool:
    """Whether `models.network` runs a service from its manifest alone."""
    return _module_of(service) is None


def _module_of(service: str) -> str | None:
    """The module of a service that is code."""
    name = f"models.{_folder(service)}.service"
    return name if _exists(name) else None


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _not_installed() -> NotInstalledError:
    return NotInstalledError("no such model version is installed")


def _folder(service: str) -> str:
    return service.replace("-", "_")
