"""Programs from Debian's packages, without starting the services that come with them.

Four ways, the first that fits: what is on the system already; `apt-get install` for root;
the packages and their missing dependencies unpacked into the cache folder for everybody
else; and without apt an error that says what to do. apt checks signatures and hashes in
each of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fhir_ext.embedded.cache import Progress, cached, content_key, install
from fhir_ext.errors import SettingsError

#: `-s install` prints one such line per package: name, installed version, candidate.
_PLANNED = re.compile(r"^Inst (?P<name>\S+) (?:\[\S+\] )?\((?P<version>\S+) ", re.MULTILINE)

#: The C library belongs to the system's dynamic linker; another one beside it crashes.
_NEVER_UNPACKED = frozenset({"libc6", "libc-bin", "libc-l10n", "locales"})

#: Root of the system whose packages apt manages.
SYSTEM = Path("/")

#: Asked by Debian's maintainer scripts before they start a service; 101 forbids it.
POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_MARK = "# written by fhir-ext"

_WHAT_TO_DO = (
    "use the containers of docker/compose.yaml instead, or install these Debian packages "
    "(or what your system calls them) yourself"
)


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the files of some packages are, and what their programs need to run.

    Attributes:
        root: `/`, or the tree that the packages were unpacked into.
        environment: to be added to ours when a program of it is started; empty for `/`.
    """

    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def on_system(self) -> bool:
        return self.root == SYSTEM

    def find(self, pattern: str) -> Path | None:
        """The file that matches a glob relative to `root`; the highest version of several."""
        matches = sorted(self.root.glob(pattern), key=lambda path: (len(str(path)), str(path)))
        return matches[-1] if matches else None

    def file(self, pattern: str) -> Path:
        """Like `find`, but must exist.

        Raises:
            SettingsError: no such file.
        """
        path = self.find(pattern)
        if path is None:
            raise SettingsError(
                f"{Path(pattern).name} is not installed; {_WHAT_TO_DO}", code="program-missing"
            )
        return path

    def launcher(self, pattern: str) -> Path:
        """The file, startable by its path alone: a script that finds its libraries if needed."""
        program = self.file(pattern)
        if self.on_system:
            return program
        folders = shlex.quote(_joined(_library_folders(self.root)))
        script = self.root / f"start-{program.name}"
        fresh = script.with_name(f"{script.name}.{os.getpid()}")
        fresh.write_text(
            "#!/bin/sh\n"
            f"export LD_LIBRARY_PATH={folders}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}\n"
            f'exec {shlex.quote(str(program))} "$@"\n'
        )
        fresh.chmod(0o755)
        # At once, since another process may be starting it.
        return fresh.replace(script)

    def has(self, patterns: Sequence[str]) -> bool:
        return all(self.find(pattern) for pattern in patterns)


def ensure_programs(
    packages: Sequence[str], wanted_files: Sequence[str], progress: Progress
) -> Installation:
    """Make the files of some Debian packages available.

    Args:
        packages: names of Debian packages.
        wanted_files: globs relative to `/` that must match afterwards, for example
            `usr/sbin/Orthanc`; when all match on the system nothing is installed.
        progress: takes one line per event, for people.

    Raises:
        SettingsError: there is no apt, or it could not deliver; says what to do.
    """
    system = Installation(SYSTEM)
    if system.has(wanted_files):
        return system
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise SettingsError(
            f"{', '.join(packages)}: not installed, and there is no apt-get to install them; "
            f"{_WHAT_TO_DO}",
            code="program-missing",
        )
    tree = cached("debian", _key(packages))
    if tree and _unpacked(tree).has(wanted_files):
        return _unpacked(tree)
    if os.geteuid() == 0:
        install_on_system(packages, progress)
        if system.has(wanted_files):
            return system
    return unpack(packages, wanted_files, progress)


@dataclass(frozen=True, slots=True)
class _Apt:
    """apt-get with some options of its own."""

    options: Sequence[str] = ()

    @classmethod
    def with_private_lists(cls, folder: Path) -> _Apt:
        """Package lists of our own: who is not root cannot renew those of the system."""
        lists, archives = folder / "lists" / "partial", folder / "archives" / "partial"
        for directory in (lists, archives):
            directory.mkdir(parents=True, exist_ok=True)
        return cls(["-o", f"Dir::State::lists={lists.parent}", "-o", f"Dir::Cache={folder}"])

    def run(self, *arguments: str, cwd: Path | None = None) -> str:
        return _run(
            ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", *self.options, *arguments],
            cwd=cwd,
        )

    def plan(self, packages: Sequence[str], *options: str) -> dict[str, str]:
        """Name to version of everything that installing the packages would bring."""
        simulated = self.run("-s", "install", "--no-install-recommends", *options, *packages)
        return {found["name"]: found["version"] for found in _PLANNED.finditer(simulated)}


def install_on_system(packages: Sequence[str], progress: Progress) -> None:
    """`apt-get install`, as root; services that come with the packages stay down and off.

    Raises:
        SettingsError: apt could not do it; the message quotes the end of its output.
    """
    apt = _Apt()
    with services_stay_down(POLICY):
        try:
            planned = _install(apt, packages, progress)
        except SettingsError:
            # No lists yet, or lists so old that their versions are gone.
            progress("renewing the package lists")
            apt.run("update")
            planned = _install(apt, packages, progress)
        _leave_out_of_boot(planned)


def _install(apt: _Apt, packages: Sequence[str], progress: Progress) -> Sequence[str]:
    planned = list(apt.plan(packages))
    progress(f"installing {', '.join(packages)} ({len(planned)} Debian packages)")
    apt.run("install", "--no-install-recommends", *packages)
    return planned


@contextlib.contextmanager
def services_stay_down(policy: Path) -> Iterator[None]:
    """While the block runs, package scripts start no service; then all is as it was.

    The temporary policy forbids only as long as this process lives, so that a kill in
    between does not leave a system whose services never start.
    """
    with _folder_locked(policy.parent), _policy_replaced(policy):
        yield


@contextlib.contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    """One of our processes at a time; a lock on the folder itself leaves no file behind."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _policy_replaced(policy: Path) -> Iterator[None]:
    before = policy.with_name(f"{policy.name}.before-fhir-ext")
    if policy.is_file() and _POLICY_MARK not in policy.read_text(errors="replace"):
        policy.replace(before)
    policy.write_text(
        f"#!/bin/sh\n{_POLICY_MARK}\n"
        f"[ -d /proc/{os.getpid()} ] && exit 101\n"
        f'[ -x "{before}" ] && exec "{before}" "$@"\n'
        "exit 0\n"
    )
    policy.chmod(0o755)
    try:
        yield
    finally:
        if before.exists():
            before.replace(policy)
        else:
            policy.unlink(missing_ok=True)


def _leave_out_of_boot(packages: Sequence[str]) -> None:
    """Switch off what has just been installed for us, else it starts with the next boot.

    Orthanc's service would listen on its well-known ports, where nobody asked for it.
    """
    for package in packages:
        for line in _run(["dpkg-query", "-L", package]).splitlines():
            path = Path(line)
            if path.suffix == ".service" and path.parent.name == "system" and "@" not in path.name:
                if shutil.which("systemctl"):
                    _run(["systemctl", "disable", "--quiet", path.name])
            elif path.parent == Path("/etc/init.d"):
                _run(["update-rc.d", path.name, "disable"])


def unpack(
    packages: Sequence[str], wanted_files: Sequence[str], progress: Progress
) -> Installation:
    """Unpack packages and those of their dependencies that are not installed into the cache.

    Nothing of the system changes and no maintainer script runs. The tree is kept until the
    cache folder is deleted.

    Raises:
        SettingsError: apt could not deliver, or the packages lack a wanted file.
    """

    def build(folder: Path) -> None:
        downloads = folder / "downloads"
        downloads.mkdir()
        _download(packages, downloads, progress)
        for archive in sorted(downloads.glob("*.deb")):
            _run(["dpkg-deb", "-x", str(archive), str(folder)])
        shutil.rmtree(downloads)
        for pattern in wanted_files:
            Installation(folder).file(pattern)

    return _unpacked(install("debian", _key(packages), build, progress))


def _download(packages: Sequence[str], into: Path, progress: Progress) -> None:
    try:
        _download_with(_Apt(), packages, into, progress)
    except SettingsError:
        progress("fetching package lists of our own")
        apt = _Apt.with_private_lists(into / "apt")
        apt.run("update")
        _download_with(apt, packages, into, progress)


def _download_with(apt: _Apt, packages: Sequence[str], into: Path, progress: Progress) -> None:
    # `--reinstall`: also what apt takes for installed although its files are not there.
    planned = apt.plan(packages, "--reinstall")
    wanted = [f"{name}={version}" for name, version in planned.items()]
    wanted = [item for item in wanted if item.partition("=")[0] not in _NEVER_UNPACKED]
    if not wanted:
        raise SettingsError(f"apt offers none of {', '.join(packages)}", code="program-missing")
    progress(f"unpacking {', '.join(packages)} ({len(wanted)} Debian packages) into the cache")
    apt.run("download", *wanted, cwd=into)


def _key(packages: Sequence[str]) -> str:
    """Folder in the cache: one per set of packages, release and architecture."""
    release = platform.freedesktop_os_release()
    facts = [*sorted(packages), release["ID"], release.get("VERSION_ID", ""), platform.machine()]
    return f"{packages[0]}-{content_key(facts)}"


def _unpacked(tree: Path) -> Installation:
    programs = [tree / name for name in ("usr/sbin", "usr/bin", "sbin", "bin")]
    present = [path for path in programs if path.is_dir()]
    return Installation(
        tree,
        {
            "LD_LIBRARY_PATH": _joined(_library_folders(tree), os.environ.get("LD_LIBRARY_PATH")),
            "PATH": _joined(present, os.environ.get("PATH")),
        },
    )


def _library_folders(tree: Path) -> list[Path]:
    """Where the libraries of an unpacked tree are; those of the system are found without."""
    return [
        folder
        for base in (tree / "lib", tree / "usr/lib")
        for folder in (base, *sorted(base.glob("*-linux-gnu*")), *sorted(base.glob("*-linux-*/*")))
        if any(folder.glob("lib*.so*"))
    ]


def _joined(folders: Sequence[Path], inherited: str | None = None) -> str:
    return ":".join([*map(str, folders), *([inherited] if inherited else [])])


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    """Output of a program that must succeed.

    Raises:
        SettingsError: it failed; the message quotes the end of what it said.
    """
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        check=False,
    )
    if done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise SettingsError(
            f"{command[0]} failed; {_WHAT_TO_DO}. It said:\n{said}", code="install-failed"
        )
    return done.stdout
