"""HAPI's Java client: our small program around it, compiled once against HAPI's own jars."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from fhir_ext.embedded.cache import cache_root, content_key, install
from fhir_ext.embedded.hapi import HapiBuild
from fhir_ext.embedded.java import fetch_with_wheels, find_toolchain, run_tool
from fhir_ext.embedded.versions import ECJ, HAPI, JAVA_RELEASE

SOURCES = Path(__file__).resolve().parents[1] / "clients" / "java"
PROGRAM = SOURCES / "GatewayClient.java"


class JavaClient:
    """The compiled program.

    Args:
        build: of hapi-local, whose libraries hold the client, and the Java that runs it.
    """

    def __init__(self, build: HapiBuild) -> None:
        self._build = build
        self._libraries = str(build.directory / "lib" / "*")
        key = content_key((HAPI, build.way, ECJ), [PROGRAM], SOURCES)
        self._classes = install("java-client", key, self._compile, print)

    def run(self, base: str, prefix: str, tokens: Sequence[str]) -> dict[str, str]:
        """What the program saw of the gateway at `base`, by name."""
        done = subprocess.run(
            [
                self._build.java,
                "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC",
                "-Dstdout.encoding=UTF-8",
                "-Dfile.encoding=UTF-8",
                f"-Dlogback.configurationFile={SOURCES / 'logback.xml'}",
                "-cp",
                os.pathsep.join((str(self._classes), self._libraries)),
                PROGRAM.stem,
                base,
                prefix,
            ],
            input="".join(f"{token}\n" for token in tokens),
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return dict(line.split("\t", 1) for line in done.stdout.splitlines())

    def _compile(self, target: Path) -> None:
        log_file = cache_root() / "logs" / "java-client.log"
        tools = target / "tools"
        options = ["-encoding", "UTF-8", "-nowarn", "-cp", self._libraries, "-d", str(target)]
        toolchain = find_toolchain()
        if self._build.way == "maven" and toolchain is not None:
            compiler = [str(toolchain.java_home / "bin" / "javac"), "--release", str(JAVA_RELEASE)]
        else:
            # Java's own compiler is not part of the runtime that comes as a wheel.
            tools.mkdir()
            fetch_with_wheels(f"org.eclipse.jdt:ecj:{ECJ}:jar", tools, log_file, print)
            level = str(JAVA_RELEASE)
            jar = str(tools / f"ecj-{ECJ}.jar")
            compiler = [str(self._build.java), "-jar", jar, "-source", level, "-target", level]
            jars = sorted((self._build.directory / "lib").glob("*.jar"))
            options[options.index("-cp") + 1] = os.pathsep.join(map(str, jars))
        run_tool("the Java compiler", [*compiler, *options, str(PROGRAM)], log_file, print)
        shutil.rmtree(tools, ignore_errors=True)
