"""The real Orthanc: embedded part, DICOMweb, and its change feed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pydicom
import pytest
import requests
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.clients.orthanc import OrthancChanges
from fhir_ext.embedded.archive import PACKAGES, OrthancServer, ensure_orthanc
from fhir_ext.embedded.process import free_port
from fhir_ext.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable
from fhir_ext.settings import ArchiveSettings, LimitSettings

DOCKER_CONFIGURATION = Path(__file__).parents[2] / "docker" / "orthanc" / "orthanc.json"


def started(server: OrthancServer) -> OrthancServer:
    server.start(server.data_dir.with_suffix(".log"))
    server.wait_ready()
    return server


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    """One archive for the tests that leave it running."""
    folder = tmp_path_factory.mktemp("archive") / "orthanc"
    server = OrthancServer(ensure_orthanc(print), folder, stable_age=1)
    try:
        yield started(server)
    finally:
        server.stop()


@pytest.fixture
def changes(archive: OrthancServer) -> OrthancChanges:
    return OrthancChanges(settings_of(archive))


def settings_of(server: OrthancServer, password: str | None = None) -> ArchiveSettings:
    return ArchiveSettings.model_validate(
        {
            "qido_url": server.dicomweb_url,
            "wado_url": server.dicomweb_url,
            "stow_url": server.dicomweb_url,
            "orthanc_url": server.rest_url,
            "auth": {
                "kind": "basic",
                "username": server.username,
                "password": password or server.password,
            },
            "timeout": 10,
        }
    )


def rest(server: OrthancServer, method: str, path: str, **arguments: object) -> requests.Response:
    return requests.request(
        method,
        f"{server.rest_url}{path}",
        auth=(server.username, server.password),
        timeout=30,
        **arguments,
    )


def instance(study: str, series: str, number: int) -> pydicom.Dataset:
    """A CT image of four pixels."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.PatientID, dataset.PatientName = "TEST-1", "Test^Archive"
    dataset.StudyDate, dataset.StudyTime = "20260102", "101112"
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 1, number
    dataset.Rows = dataset.Columns = 2
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = bytes([number, 0] * 4)
    return dataset


def store(server: OrthancServer, study: str, series: str, count: int, first: int = 1) -> None:
    client = DicomWebClient(settings_of(server), LimitSettings())
    report = client.store([instance(study, series, first + i) for i in range(count)])
    assert not report.failed


def wait_for(check: Callable[[], bool], seconds: float = 15) -> None:
    limit = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < limit, "did not happen in time"
        time.sleep(0.05)


def test_stow_is_seen_by_qido_and_by_the_change_feed(
    archive: OrthancServer, changes: OrthancChanges
) -> None:
    study, series = generate_uid(), generate_uid()
    cursor = changes.last_seq()
    store(archive, study, series, 2)

    rows = requests.get(
        f"{archive.dicomweb_url}/studies",
        params={"StudyInstanceUID": study},
        headers={"Accept": "application/dicom+json"},
        auth=(archive.username, archive.password),
        timeout=10,
    ).json()
    assert [row["00201208"]["Value"] for row in rows] == [[2]]

    page = changes.changes(cursor)
    assert [change.seq for change in page.entries] == sorted({c.seq for c in page.entries})
    assert page.last == page.entries[-1].seq == changes.last_seq()
    assert page.done
    assert not page.reset
    kinds = sorted(change.kind for change in page.entries if not change.kind.startswith("Stable"))
    # The patient is new only to the first test that runs.
    assert [kind for kind in kinds if kind != "NewPatient"] == [
        "NewInstance",
        "NewInstance",
        "NewSeries",
        "NewStudy",
    ]
    for change in page.entries:
        assert change.study_instance_uid == (None if change.level == "Patient" else study)
        below = change.level in ("Series", "Instance")
        assert change.series_instance_uid == (series if below else None)

    wait_for(lambda: any(c.kind == "StableStudy" for c in changes.changes(page.last).entries))


def test_pages_resolve_many_instances_in_three_requests(
    archive: OrthancServer, changes: OrthancChanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, series = generate_uid(), [generate_uid(), generate_uid()]
    cursor = changes.last_seq()
    for number, uid in enumerate(series):
        store(archive, study, uid, 20, first=1 + 20 * number)
    requested: list[str] = []
    request = changes._session.request

    def counting(method: str, url: str, **arguments: object) -> requests.Response:
        requested.append(url)
        return request(method, url, **arguments)

    monkeypatch.setattr(changes._session, "request", counting)
    page = changes.changes(cursor)
    assert len(page.entries) >= 43
    assert len(requested) == 3
    found = {change.series_instance_uid for change in page.entries if change.level == "Instance"}
    assert found == set(series)

    # A grown series says so by its instances alone.
    store(archive, study, series[0], 1, first=50)
    requested.clear()
    grown = [c for c in changes.changes(page.last).entries if c.kind == "NewInstance"]
    assert [change.study_instance_uid for change in grown] == [study]
    # The study is known by now.
    assert len(requested) == 2

    seen, since = [], cursor
    while True:
        part = changes.changes(since, limit=10)
        seen += part.entries
        since = part.last
        if part.done:
            break
        assert len(part.entries) == 10
    assert [c.seq for c in seen][: len(page.entries)] == [c.seq for c in page.entries]


def test_deletion_is_told_by_the_counts_alone(archive: OrthancServer) -> None:
    """The feed has no entry for it, and loses those of what is gone."""
    study, series, gone = generate_uid(), generate_uid(), generate_uid()
    cursor = OrthancChanges(settings_of(archive)).last_seq()
    store(archive, study, series, 1)
    store(archive, study, gone, 1)
    found = rest(
        archive,
        "POST",
        "tools/find",
        json={"Level": "Series", "Query": {"SeriesInstanceUID": gone}},
    ).json()
    rest(archive, "DELETE", f"series/{found[0]}").raise_for_status()
    changes = OrthancChanges(settings_of(archive))
    left = [
        (c.level, c.study_instance_uid, c.series_instance_uid)
        for c in changes.changes(cursor).entries
        if c.kind.startswith("New") and c.level != "Patient"
    ]
    assert sorted(left) == [
        ("Instance", study, series),
        ("Series", study, series),
        ("Study", study, None),
    ]
    listed = {s.study_instance_uid: s for s in changes.study_list(counts=True)}
    assert listed[study].instance_count == 1


def test_study_list_and_statistics(
    archive: OrthancServer, changes: OrthancChanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = changes.statistics()
    sizes = {generate_uid(): size for size in (1, 2, 3)}
    for uid, size in sizes.items():
        store(archive, uid, generate_uid(), size)
    after = changes.statistics()
    assert after.studies == before.studies + 3
    assert after.series == before.series + 3
    assert after.instances == before.instances + 6
    assert after.disk_bytes > before.disk_bytes
    # More than one page.
    monkeypatch.setattr("fhir_ext.clients.orthanc.STUDIES_PAGE", 2)
    listed = {study.study_instance_uid: study for study in changes.study_list(counts=True)}
    assert len(listed) == after.studies
    assert {uid: listed[uid].instance_count for uid in sizes} == sizes
    assert all(len(study.last_update) == len("20260102T101112") for study in listed.values())
    assert all(study.instance_count is None for study in changes.study_list())


def test_cursor_outlives_a_restart_and_a_kill_and_a_wiped_store_is_told(tmp_path: Path) -> None:
    # So late that no entry comes in between.
    server = OrthancServer(ensure_orthanc(print), tmp_path / "orthanc", stable_age=600)
    started(server)
    try:
        changes = OrthancChanges(settings_of(server))
        assert changes.changes(0).entries == ()
        assert changes.last_seq() == 0
        study, series = generate_uid(), generate_uid()
        store(server, study, series, 2)
        cursor = changes.changes(0).last
        assert cursor > 0

        for end in (server.stop, lambda: server.child.kill()):
            end()
            with pytest.raises(UpstreamUnavailable):
                changes.changes(cursor)
            started(server)
            page = changes.changes(cursor)
            assert (page.entries, page.reset, page.done) == ((), False, True)
            store(server, study, series, 1, first=cursor)
            page = changes.changes(cursor)
            assert [c.kind for c in page.entries] == ["NewInstance"]
            assert page.entries[0].study_instance_uid == study
            cursor = page.last

        # Emptying the feed is not wiping the store.
        rest(server, "DELETE", "changes").raise_for_status()
        assert not changes.changes(cursor).reset

        server.stop()
        shutil.rmtree(tmp_path / "orthanc" / "store")
        started(server)
        page = changes.changes(cursor)
        assert page.reset
        assert page.entries == ()
        store(server, study, series, 1)
        assert changes.changes(cursor).reset
        assert changes.changes(0).entries[0].kind == "NewInstance"
    finally:
        server.stop()


def test_errors_are_of_our_tree(archive: OrthancServer) -> None:
    with pytest.raises(UpstreamUnavailable) as raised:
        OrthancChanges(settings_of(archive, password="wrong")).last_seq()
    assert raised.value.code == "archive-refused-us"

    def elsewhere(url: str, seconds: float = 10) -> OrthancChanges:
        changed = {"orthanc_url": url, "timeout": seconds}
        return OrthancChanges(
            ArchiveSettings.model_validate(settings_of(archive).model_dump() | changed)
        )

    # Somewhere below the root, and a list instead of a page of changes.
    for path in ("dicom-web", "app/explorer.html", "nowhere"):
        with pytest.raises(UpstreamError) as not_orthanc:
            elsewhere(archive.rest_url + path).changes(0)
        assert str(archive.port) not in str(not_orthanc.value)
    with pytest.raises(UpstreamUnavailable):
        elsewhere(f"http://127.0.0.1:{free_port()}").statistics()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UpstreamTimeout):
        elsewhere(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.3).last_seq()
    with pytest.raises(ValueError, match="orthanc_url"):
        OrthancChanges(ArchiveSettings())


def test_closed_without_the_password(archive: OrthancServer) -> None:
    for url in (f"{archive.rest_url}system", f"{archive.dicomweb_url}/studies"):
        assert requests.get(url, timeout=10).status_code == 401
        wrong = requests.get(url, auth=(archive.username, ""), timeout=10)
        assert wrong.status_code == 401
    assert rest(archive, "GET", "system").status_code == 200
    file = archive.data_dir / "orthanc.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert archive.password not in " ".join(psutil.Process(archive.pid).cmdline())
    assert archive.password not in archive.child.log_file.read_text()


def test_only_http_listens_and_the_network_is_tuned(archive: OrthancServer) -> None:
    process = psutil.Process(archive.pid)
    listening = {c.laddr.port for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {archive.port}
    environment = process.environ()
    assert environment["TCP_NODELAY"] == "1"
    assert environment["MALLOC_ARENA_MAX"] == "5"


def test_stop_is_clean_and_leaves_nothing(tmp_path: Path) -> None:
    server = started(OrthancServer.ensure(tmp_path / "orthanc", print))
    process = psutil.Process(server.pid)
    family = [process, *process.children(recursive=True)]
    begin = time.monotonic()
    server.stop()
    assert time.monotonic() - begin < 15
    assert server.child.exit_code == 0
    assert "Orthanc has stopped" in server.child.tail()
    assert not [member for member in family if member.is_running()]
    # The next start finds the database free at once, on the same port.
    started(server)
    os.kill(server.pid, signal.SIGTERM)
    wait_for(lambda: not server.child.alive())
    assert server.child.exit_code == 0


def test_dimse_when_asked_for_named_modalities_only(tmp_path: Path) -> None:
    """A second Orthanc sends: refused while it is not named, then accepted."""
    installation = ensure_orthanc(print)
    sender = started(OrthancServer(installation, tmp_path / "sender"))
    port, peer = free_port(), ("ORTHANC", "127.0.0.1", 104)
    receiver = OrthancServer(installation, tmp_path / "receiver", dicom_port=port)
    try:
        store(sender, generate_uid(), generate_uid(), 2)
        studies = rest(sender, "GET", "studies").json()
        remote = {"AET": "ORTHANC", "Host": "127.0.0.1", "Port": port}
        rest(sender, "PUT", "modalities/receiver", json=remote).raise_for_status()
        for modalities, accepted in ({}, False), ({"sender": peer}, True):
            receiver.dicom_modalities = modalities
            started(receiver)
            echo = rest(sender, "POST", "modalities/receiver/echo", json={})
            assert echo.ok is accepted
            sent = rest(sender, "POST", "modalities/receiver/store", json=studies)
            assert sent.ok is accepted
            assert rest(receiver, "GET", "statistics").json()["CountInstances"] == 2 * accepted
            receiver.stop()
    finally:
        receiver.stop()
        sender.stop()


def test_container_configuration_boots_and_agrees(tmp_path: Path, archive: OrthancServer) -> None:
    """The file of the image, as far as Debian's Orthanc can tell."""
    shared = json.loads(DOCKER_CONFIGURATION.read_text())
    ours = archive.configuration()
    # Where it runs, who may reach it, and what the image adds by itself.
    differ = {"RemoteAccessAllowed", "RegisteredUsers"}
    image = {"StorageDirectory", "IndexDirectory", "HttpPort", "DicomPort", "Plugins", "StableAge"}
    assert {k: v for k, v in shared.items() if k not in differ | image} == {
        k: v for k, v in ours.items() if k not in differ | image
    }
    server = OrthancServer(archive.installation, tmp_path / "orthanc")
    local = {name: server.configuration()[name] for name in image - {"StableAge"}}

    class Containers(OrthancServer):
        def configuration(self) -> dict[str, object]:
            return shared | local | {"RemoteAccessAllowed": False}

        def environment(self) -> dict[str, str]:
            return super().environment() | {"FHIR_EXT_ARCHIVE_PASSWORD": self.password}

    server = Containers(archive.installation, tmp_path / "orthanc", port=server.port)
    try:
        started(server)
        assert rest(server, "GET", "plugins").json().count("dicom-web") == 1
        assert requests.get(f"{server.rest_url}system", timeout=10).status_code == 401
    finally:
        server.stop()


UNPACK_AND_RUN = """
import sys
from pathlib import Path
from fhir_ext.embedded.archive import PACKAGES, PLUGIN_FILE, SERVER_FILE, OrthancServer
from fhir_ext.embedded.debian import unpack
installation = unpack(PACKAGES, (SERVER_FILE, PLUGIN_FILE), print)
folder = Path(sys.argv[1])
server = OrthancServer(installation, folder / "orthanc")
server.start(folder / "orthanc.log")
server.wait_ready()
uids = Path(f"/proc/{server.pid}/status").read_text().partition("Uid:")[2].split()[:4]
maps = Path(f"/proc/{server.pid}/maps").read_text()
tree = {line.split()[-1] for line in maps.splitlines() if str(installation.root) in line}
server.stop()
print("uids", *uids)
print("exit", server.child.exit_code)
print("mapped", *sorted(Path(name).name for name in tree))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may write to."""
    path = Path(tempfile.mkdtemp(prefix="fhir-ext-test-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(not shutil.which("apt-get"), reason="this system has no apt")
def test_unpacked_and_run_by_a_user_without_rights(open_folder: Path) -> None:
    """Debian's archive is asked in earnest; what is installed here is hidden from apt."""
    plan = subprocess.run(
        ["apt-get", "-s", "purge", *PACKAGES, "libcivetweb1", "libpugixml1v5", "liblua5.3-0"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    hidden = {line.split()[1] for line in plan.splitlines() if line.startswith(("Purg", "Remv"))}
    paragraphs = Path("/var/lib/dpkg/status").read_text().split("\n\n")
    kept = [p for p in paragraphs if p.partition("\n")[0].removeprefix("Package: ") not in hidden]
    (open_folder / "status").write_text("\n\n".join(kept))
    (open_folder / "apt.conf").write_text(f'Dir::State::status "{open_folder}/status";\n')
    # Other folders may be closed to the other user, so it gets a copy of what it needs.
    shutil.copytree(Path(__file__).parents[2] / "fhir_ext", open_folder / "code" / "fhir_ext")
    packages = next(p for p in sys.path if p.endswith("site-packages") and Path(p).is_dir())
    environment = {
        **os.environ,
        "APT_CONFIG": str(open_folder / "apt.conf"),
        "FHIR_EXT_CACHE": str(open_folder / "cache"),
        "HOME": str(open_folder),
        "PYTHONPATH": f"{open_folder / 'code'}:{packages}",
    }
    become = []
    if os.geteuid() == 0:
        # Through a shell: setpriv itself still has root's rights when it starts a program.
        become = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        become += ["/bin/sh", "-c", 'exec "$@"', "sh"]
    candidates = [sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"]
    usable = [
        python
        for python in candidates
        if subprocess.run(
            [*become, python, "-c", "import fhir_ext, requests"],
            env=environment,
            capture_output=True,
            cwd="/",
            check=False,
        ).returncode
        == 0
    ]
    if not usable:
        pytest.skip("no Python here that user nobody may run with our packages")
    done = subprocess.run(
        [*become, usable[0], "-c", UNPACK_AND_RUN, str(open_folder)],
        env=environment,
        capture_output=True,
        text=True,
        cwd="/",
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert "0" not in said["uids"].split()
    assert said["exit"] == "0"
    mapped = said["mapped"].split()
    assert {"Orthanc", "libOrthancDicomWeb.so.1.7"} <= set(mapped)
    if "libcivetweb1" in hidden:
        assert any(name.startswith("libcivetweb") for name in mapped)
