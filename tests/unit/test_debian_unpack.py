"""Debian packages installed and unpacked by the real apt and dpkg, from a repository on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from fhir_ext.embedded import debian
from fhir_ext.embedded.debian import Installation, ensure_programs, services_stay_down, unpack
from fhir_ext.errors import SettingsError

pytestmark = pytest.mark.skipif(
    not shutil.which("apt-get") or not shutil.which("dpkg-deb"), reason="this system has no apt"
)

PROGRAM = "usr/sbin/fhirxtest"


def silent(line: str) -> None:
    """No progress wanted."""


@dataclass(frozen=True)
class Repository:
    """A tiny Debian repository, and an apt that knows no other."""

    folder: Path
    root: Path

    def add(
        self,
        name: str,
        files: Mapping[str, str],
        depends: Sequence[str] = (),
        version: str = "1.0",
    ) -> None:
        tree = self.folder / f"{name}.tree"
        for path, content in files.items():
            file = tree / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
            file.chmod(0o755)
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
            "Maintainer: Nobody <nobody@localhost>\nDescription: made by a test\n"
        )
        if depends:
            control += f"Depends: {', '.join(depends)}\n"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN" / "control").write_text(control)
        archive = self.folder / f"{name}_{version}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-b", tree, archive], check=True, capture_output=True
        )
        data = archive.read_bytes()
        entry = control + (
            f"Filename: ./{archive.name}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\n\n"
        )
        with (self.folder / "Packages").open("a") as index:
            index.write(entry)

    def installed(self, name: str, version: str = "1.0") -> None:
        """Make apt believe that a package is installed."""
        with (self.root / "var/lib/dpkg/status").open("a") as status:
            status.write(
                f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n"
                "Architecture: all\nMaintainer: Nobody <nobody@localhost>\n"
                "Description: made by a test\n\n"
            )

    def update(self) -> None:
        subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    folder, root = tmp_path / "repository", tmp_path / "root"
    folder.mkdir()
    for name in ("var/lib/dpkg/info", "var/lib/dpkg/updates", "lists/partial", "cache/archives"):
        (root / name).mkdir(parents=True)
    (root / "cache/archives/partial").mkdir()
    (root / "var/lib/dpkg/status").touch()
    (root / "sources.list").write_text(f"deb [trusted=yes] copy:{folder} ./\n")
    configuration = root / "apt.conf"
    configuration.write_text(
        f'Dir::Etc "{root}/etc";\nDir::Etc::sourcelist "{root}/sources.list";\n'
        f'Dir::State "{root}";\nDir::State::lists "{root}/lists";\nDir::Cache "{root}/cache";\n'
        f'Dir::State::status "{root}/var/lib/dpkg/status";\nDir::Log "{root}";\n'
        'APT::Sandbox::User "root";\nDir::Bin::apt-key "/bin/true";\n'
        f'DPkg::Options {{ "--root={root}"; "--force-not-root"; "--force-script-chrootless"; '
        '"--force-bad-path"; }\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(configuration))
    monkeypatch.setenv("DPKG_ADMINDIR", str(root / "var/lib/dpkg"))
    monkeypatch.setenv("FHIR_EXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(debian, "SYSTEM", root)
    monkeypatch.setattr(debian, "POLICY", root / "policy-rc.d")
    made = Repository(folder, root)
    (folder / "Packages").touch()
    return made


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    """We are not root, as far as the code can see."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def add_program(repository: Repository) -> None:
    """A program with two dependencies, one of which is installed."""
    # A word that only the unpacked library folder makes reachable.
    script = '#!/bin/sh\ncat "${LD_LIBRARY_PATH%%:*}/libfhirxtest.so.1" && echo " $1"\n'
    repository.add("fhirxtest", {PROGRAM: script}, ["libfhirxtest", "fhirxthere", "libc6"])
    library = f"usr/lib/{os.uname().machine}-linux-gnu/libfhirxtest.so.1"
    repository.add("libfhirxtest", {library: "found"})
    repository.add("fhirxthere", {"usr/share/fhirxthere": "x"})
    repository.add("libc6", {"lib/libc.so.6": "not an ELF file"}, version="9")
    repository.installed("fhirxthere")


def test_what_is_on_the_system_is_used(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("9", "10"):
        file = repository.root / f"usr/lib/fhirxtest/{version}/bin/server"
        file.parent.mkdir(parents=True)
        file.touch()
    monkeypatch.setenv("PATH", "/nowhere")
    found = ensure_programs(["fhirxtest"], ["usr/lib/fhirxtest/*/bin/server"], silent)
    assert found == Installation(repository.root)
    assert found.on_system
    assert found.file("usr/lib/fhirxtest/*/bin/server").parts[-3] == "10"
    assert found.launcher("usr/lib/fhirxtest/*/bin/server") == found.file(
        "usr/lib/fhirxtest/*/bin/server"
    )


def test_without_apt_the_error_says_what_to_do(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SettingsError, match=r"fhirxtest.*docker/compose\.yaml") as raised:
        ensure_programs(["fhirxtest"], [PROGRAM], silent)
    assert raised.value.code == "program-missing"


@pytest.mark.usefixtures("ordinary")
def test_unpacked_with_missing_dependencies_alone(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_program(repository)
    repository.update()
    lines: list[str] = []
    made = ensure_programs(["fhirxtest"], [PROGRAM], lines.append)
    assert lines == ["unpacking fhirxtest (2 Debian packages) into the cache"]
    assert not made.on_system
    files = {
        path.relative_to(made.root).as_posix() for path in made.root.rglob("*") if path.is_file()
    }
    assert files == {PROGRAM, f"usr/lib/{os.uname().machine}-linux-gnu/libfhirxtest.so.1"}
    # Nothing of the system changed.
    assert not (repository.root / "usr").exists()

    program = [str(made.file(PROGRAM)), "by environment"]
    environment = {**os.environ, **made.environment}
    assert subprocess.check_output(program, env=environment, text=True) == "found by environment\n"
    script = [str(made.launcher(PROGRAM)), "by script"]
    assert subprocess.check_output(script, text=True) == "found by script\n"

    # The second time neither apt nor the repository is needed.
    shutil.rmtree(repository.folder)
    lines.clear()
    again = ensure_programs(["fhirxtest"], [PROGRAM], lines.append)
    assert again.root == made.root
    assert not lines


@pytest.mark.usefixtures("ordinary")
@pytest.mark.parametrize("lists", ["none", "old"])
def test_own_package_lists_where_those_of_the_system_do_not_help(
    repository: Repository, lists: str
) -> None:
    add_program(repository)
    if lists == "old":
        repository.update()
        # The version of the lists is gone from the repository.
        (repository.folder / "Packages").write_text("")
        for archive in repository.folder.glob("*.deb"):
            archive.unlink()
        shutil.rmtree(repository.folder / "fhirxtest.tree")
        repository.add("fhirxtest", {PROGRAM: "#!/bin/sh\n"}, version="2.0")
    before = sorted(path.name for path in (repository.root / "lists").iterdir())
    lines: list[str] = []
    made = ensure_programs(["fhirxtest"], [PROGRAM], lines.append)
    assert "fetching package lists of our own" in lines
    assert made.has([PROGRAM])
    assert not list(made.root.glob("downloads"))
    assert sorted(path.name for path in (repository.root / "lists").iterdir()) == before


@pytest.mark.usefixtures("ordinary")
@pytest.mark.parametrize(
    ("package", "wanted"), [("fhirxtest", "usr/bin/other"), ("fhirxnothing", PROGRAM)]
)
def test_failure_leaves_nothing_in_the_cache(
    repository: Repository, package: str, wanted: str
) -> None:
    add_program(repository)
    repository.update()
    with pytest.raises(SettingsError, match=r"docker/compose\.yaml"):
        ensure_programs([package], [wanted], silent)
    cache = Path(os.environ["FHIR_EXT_CACHE"]) / "debian"
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.usefixtures("ordinary")
def test_package_that_apt_takes_for_installed_is_unpacked_all_the_same(
    repository: Repository,
) -> None:
    add_program(repository)
    repository.installed("fhirxtest")
    repository.installed("libfhirxtest")
    repository.installed("libc6", "9")
    repository.update()
    assert unpack(["fhirxtest"], [PROGRAM], silent).has([PROGRAM])


def test_root_installs_renews_lists_and_switches_services_off(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """apt and dpkg are real; only what would change this system's boot is recorded."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    add_program(repository)
    services = {
        "lib/systemd/system/fhirxtest.service": "[Unit]\n",
        "lib/systemd/system/fhirxtest@.service": "[Unit]\n",
        "etc/init.d/fhirxtest": "#!/bin/sh\n",
    }
    shutil.rmtree(repository.folder / "libfhirxtest.tree")
    repository.add("libfhirxtest", services, version="1.1")
    record = tmp_path / "record"
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("systemctl", "update-rc.d"):
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {record}\n')
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    lines: list[str] = []

    def progress(line: str) -> None:
        lines.append(line)
        assert os.access(debian.POLICY, os.X_OK)

    found = ensure_programs(["fhirxtest"], [PROGRAM], progress)
    assert found == Installation(repository.root)
    # Of three dependencies one is installed.
    assert lines == ["renewing the package lists", "installing fhirxtest (3 Debian packages)"]
    assert (
        "Package: fhirxtest\nStatus: install ok installed"
        in (repository.root / "var/lib/dpkg/status").read_text()
    )
    assert sorted(record.read_text().splitlines()) == [
        "systemctl disable --quiet fhirxtest.service",
        "update-rc.d fhirxtest disable",
    ]
    assert not debian.POLICY.exists()


def policy_answer(policy: Path) -> int:
    return subprocess.run([policy, "fhirxtest", "start"], check=False).returncode


def test_policy_forbids_and_is_restored(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with services_stay_down(policy):
        assert policy_answer(policy) == 101
    assert list(tmp_path.iterdir()) == []

    policy.write_text("#!/bin/sh\nexit 104\n")
    policy.chmod(0o751)
    with contextlib.suppress(KeyboardInterrupt), services_stay_down(policy):
        assert policy_answer(policy) == 101
        raise KeyboardInterrupt
    assert policy.read_text() == "#!/bin/sh\nexit 104\n"
    assert policy.stat().st_mode & 0o777 == 0o751
    assert list(tmp_path.iterdir()) == [policy]


def test_policy_of_a_killed_process_forbids_nothing_and_is_undone(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 104\n")
    policy.chmod(0o755)
    killed = (
        "import os, sys; from pathlib import Path\n"
        "from fhir_ext.embedded.debian import services_stay_down\n"
        "with services_stay_down(Path(sys.argv[1])): os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", killed, str(policy)], check=False)
    assert "fhir-ext" in policy.read_text()
    assert policy_answer(policy) == 104
    with services_stay_down(policy):
        assert policy_answer(policy) == 101
    assert policy.read_text() == "#!/bin/sh\nexit 104\n"
    assert list(tmp_path.iterdir()) == [policy]
