"""Orthanc with its DICOMweb plugin on this machine, run as a child process."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from fhir_ext.embedded.cache import Progress
from fhir_ext.embedded.debian import Installation, ensure_programs
from fhir_ext.embedded.process import free_port
from fhir_ext.embedded.server import EmbeddedServer, answers

PACKAGES = ("orthanc", "orthanc-dicomweb")
SERVER_FILE = "usr/sbin/Orthanc"
PLUGIN_FILE = "usr/share/orthanc/plugins/libOrthancDicomWeb.so"

USERNAME = "fhir-ext"
DICOMWEB_ROOT = "/dicom-web/"


def ensure_orthanc(progress: Progress) -> Installation:
    """Orthanc and its DICOMweb plugin, installed now or earlier.

    Raises:
        SettingsError: they cannot be had on this machine; says what to do.
    """
    return ensure_programs(PACKAGES, (SERVER_FILE, PLUGIN_FILE), progress)


class OrthancServer(EmbeddedServer):
    """One Orthanc for this machine: REST and DICOMweb with a password, DIMSE off unless asked.

    Orthanc refuses requests from other machines; it binds all interfaces all the same,
    because this version cannot be told an address. A wait for `stop` is needed before the
    next `start`, which `stop` does.

    Args:
        installation: of `ensure_orthanc`.
        data_dir: index, pixels and configuration; kept between runs.
        port: HTTP port; a free one without it.
        dicom_port: port of the DIMSE listener (C-ECHO, C-STORE from the named modalities);
            None leaves DIMSE off.
        dicom_modalities: name to (AE title, host, port) of who may speak DIMSE with it.
        stable_age: seconds after which Orthanc calls a study stable.
    """

    name = "archive"
    title = "the archive"
    start_limit = 30.0
    poll = 0.02

    def __init__(
        self,
        installation: Installation,
        data_dir: Path,
        *,
        port: int | None = None,
        dicom_port: int | None = None,
        dicom_modalities: Mapping[str, tuple[str, str, int]] | None = None,
        stable_age: int = 2,
    ) -> None:
        super().__init__(data_dir)
        self.installation = installation
        self.port = port or free_port()
        self.dicom_port, self.stable_age = dicom_port, stable_age
        self.dicom_modalities = dict(dicom_modalities or {})
        self.username, self.password = USERNAME, secrets.token_urlsafe(24)
        self.rest_url = f"http://127.0.0.1:{self.port}/"
        self.dicomweb_url = f"http://127.0.0.1:{self.port}{DICOMWEB_ROOT.rstrip('/')}"

    @classmethod
    def ensure(cls, data_dir: Path, progress: Progress) -> Self:
        """Install what is missing; a server on a free port, DIMSE off."""
        return cls(ensure_orthanc(progress), data_dir)

    def configuration(self) -> dict[str, Any]:
        """Orthanc's configuration; holds the password."""
        store = str(self.data_dir / "store")
        return {
            "Name": "fhir-ext",
            "StorageDirectory": store,
            "IndexDirectory": store,
            "HttpPort": self.port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {self.username: self.password},
            "WebDavEnabled": False,
            "DicomServerEnabled": self.dicom_port is not None,
            "DicomPort": self.dicom_port or 0,
            "DicomAlwaysAllowEcho": False,
            "DicomAlwaysAllowStore": False,
            "DicomCheckModalityHost": True,
            "DicomModalities": {name: list(peer) for name, peer in self.dicom_modalities.items()},
            "StableAge": self.stable_age,
            "OverwriteInstances": True,
            "Plugins": [str(self.installation.file(PLUGIN_FILE))],
            "DicomWeb": {"Enable": True, "Root": DICOMWEB_ROOT, "EnableWado": False},
        }

    def command(self) -> list[str]:
        """Program and arguments; `start` writes the configuration that it names."""
        return [str(self.installation.file(SERVER_FILE)), str(self._configuration_file)]

    def environment(self) -> dict[str, str]:
        """Variables that `command` needs besides the usual ones."""
        tuned = {
            # Without it each DIMSE instance waits 50 ms for an acknowledgement.
            "TCP_NODELAY": "1",
            # Without it the heap keeps several times what large STOW requests needed.
            "MALLOC_ARENA_MAX": "5",
        }
        return {**self.installation.environment, **tuned, **self._dictionaries()}

    def write_configuration(self) -> Path:
        """Write the configuration, readable by us alone; returns its file."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        file = self._configuration_file
        # The mode counts from the first byte on, and whatever was there is replaced.
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
            json.dump(self.configuration(), output, indent=2)
        return file

    def prepare(self) -> None:
        self.write_configuration()

    def works(self) -> bool:
        """Whether its DICOMweb plugin searches, with our password."""
        url = f"{self.dicomweb_url}/studies?limit=1"
        return answers(url, (self.username, self.password), patience=5)

    @property
    def _configuration_file(self) -> Path:
        return self.data_dir / "orthanc.json"

    def _dictionaries(self) -> dict[str, str]:
        """DCMTK looks for its dictionary in `/usr/share`, where an unpacked one is not."""
        if self.installation.on_system:
            return {}
        names = ("dicom", "private")
        files = [self.installation.find(f"usr/share/libdcmtk*/{name}.dic") for name in names]
        found = ":".join(str(file) for file in files if file)
        # Empty where the library itself is the system's.
        return {"DCMDICTPATH": found} if found else {}
