"""The DICOMweb client against Orthanc and against tiny-pacs, real servers both."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.uid import JPEGLSLossless
from scripted_archive import LIMITS, client_of, every_call, scripted
from synthetic_ct import SERIES, STUDY, ct_slice, encoded, enhanced_ct, texture

from fhir_ext.clients.dicomweb import DicomWebClient, StudyInfo
from fhir_ext.clients.volumes import retrieve_volumes
from fhir_ext.embedded.archive import OrthancServer, ensure_orthanc
from fhir_ext.embedded.process import free_port
from fhir_ext.errors import (
    NotFoundError,
    UpstreamUnavailable,
)
from fhir_ext.settings import HttpAuth

TOKEN = "token-of-the-second-archive"
TINY_PACS = Path(__file__).parents[1] / "support" / "tiny_pacs_server.py"


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DicomWebClient]:
    folder = tmp_path_factory.mktemp("dicomweb") / "orthanc"
    server = OrthancServer(ensure_orthanc(print), folder, stable_age=1)
    server.start(folder.with_suffix(".log"))
    try:
        server.wait_ready()
        auth = HttpAuth(kind="basic", username=server.username, password=server.password)
        yield client_of(server.dicomweb_url, auth)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def tiny_pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DicomWebClient]:
    folder, port = tmp_path_factory.mktemp("tiny-pacs"), free_port()
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, str(TINY_PACS), str(port), str(folder), TOKEN],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    client = client_of(f"http://127.0.0.1:{port}/dicomweb", HttpAuth(kind="bearer", token=TOKEN))
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                client.ping()
                break
            except UpstreamUnavailable:
                assert server.poll() is None, (folder / "log").read_text()[-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield client
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="module", params=["orthanc", "tiny_pacs"])
def archive(request: pytest.FixtureRequest) -> DicomWebClient:
    """Each of the two archives, holding one series of 23 slices."""
    client: DicomWebClient = request.getfixturevalue(request.param)
    slices = [ct_slice(index, SeriesDescription="Chest") for index in range(23)]
    report = client.store(slices)
    assert report.failed == {}
    assert report.stored == {str(item.SOPInstanceUID) for item in slices}
    return client


def test_storing_again_is_success(archive: DicomWebClient) -> None:
    """Orthanc overwrites, tiny-pacs refuses with "processing failure" what it has already."""
    report = archive.store([ct_slice(index) for index in range(3)])
    assert report.failed == {}
    assert len(report.stored) == 3


def test_search(archive: DicomWebClient) -> None:
    day = date(2025, 1, 1)
    for first, last, found in (
        (day, day, True),
        (date(2024, 1, 1), date(2026, 1, 1), True),
        (date(2024, 1, 1), date(2024, 12, 31), False),
        (date(2025, 1, 2), date(2030, 1, 1), False),
    ):
        studies = {item.study_instance_uid: item for item in archive.search_studies(first, last)}
        assert (STUDY in studies) is found
    studies = {item.study_instance_uid: item for item in archive.search_studies(day, day)}
    assert studies[STUDY] == archive.find_study(STUDY)
    assert studies[STUDY].modalities == ("CT",)
    assert studies[STUDY].instance_count == 23
    assert studies[STUDY].accession_number == "A1"
    uids = [item.study_instance_uid for item in archive.search_studies(day, day, modality="CT")]
    assert STUDY in uids
    assert not list(archive.search_studies(day, day, modality="MR"))
    assert archive.find_study("1.2.3.4") is None


def test_listings(archive: DicomWebClient) -> None:
    (series,) = archive.list_series(STUDY)
    assert series == archive.find_series(STUDY, SERIES)
    assert (series.series_instance_uid, series.modality) == (SERIES, "CT")
    assert (series.instance_count, series.number) == (23, 1)
    instances = archive.list_instances(STUDY, SERIES)
    assert {item.sop_instance_uid for item in instances} == {
        f"{SERIES}.{index + 1}" for index in range(23)
    }
    assert {item.instance_number for item in instances} == set(range(1, 24))
    assert {item.sop_class_uid for item in instances} == {"1.2.840.10008.5.1.4.1.1.2"}
    assert archive.list_series("1.2.3.4") == ()
    assert archive.list_instances(STUDY, "1.2.3.4") == ()
    assert archive.find_series(STUDY, "1.2.3.4") is None


def test_metadata_also_where_the_archive_has_none(archive: DicomWebClient) -> None:
    header = archive.instance_metadata(STUDY, SERIES, f"{SERIES}.7")
    assert header.InstanceNumber == 7
    assert header.ImagePositionPatient == [-10, -20, 12]
    assert str(header.PatientName) == "Müller^Ärgön"
    assert "PixelData" not in header
    with pytest.raises(NotFoundError):
        archive.instance_metadata(STUDY, SERIES, "1.2.3.4")


def test_series_becomes_a_volume(archive: DicomWebClient) -> None:
    for expected in (None, 23, 4):
        found = retrieve_volumes(archive, STUDY, SERIES, LIMITS, expected_instances=expected)
        (volume,) = found.volumes
        assert found.rejected == ()
        wanted = np.stack([texture(index).astype(int) - 1024 for index in range(23)])
        assert (volume.voxels == wanted).all()
    with pytest.raises(NotFoundError):
        retrieve_volumes(archive, STUDY, "1.2.3.4", LIMITS)
    with pytest.raises(NotFoundError):
        retrieve_volumes(archive, "1.2.3.4", SERIES, LIMITS)


def test_streamed_parts_are_the_stored_files(archive: DicomWebClient) -> None:
    found = {}
    for part in archive.stream_series(STUDY, SERIES):
        instance = dcmread(DicomBytesIO(bytes(part)))
        found[str(instance.SOPInstanceUID)] = instance.PixelData
    assert found == {f"{SERIES}.{index + 1}": texture(index).tobytes() for index in range(23)}


def test_compressed_and_enhanced_come_as_they_were_stored(archive: DicomWebClient) -> None:
    study = "1.2.826.2"
    frames = [texture(index) for index in range(3)]
    compressed = dcmread(
        DicomBytesIO(
            encoded(
                ct_slice(0, StudyInstanceUID=study, SeriesInstanceUID=f"{study}.1"),
                JPEGLSLossless,
                [bytes(imagecodecs.jpegls_encode(texture(0)))],
            )
        )
    )
    compressed.SOPInstanceUID = f"{study}.1.1"
    enhanced = enhanced_ct(
        frames,
        [0, 1, 2],
        StudyInstanceUID=study,
        SeriesInstanceUID=f"{study}.2",
        SOPInstanceUID=f"{study}.2.1",
    )
    report = archive.store([compressed, enhanced])
    assert report.failed == {}
    (volume,) = retrieve_volumes(archive, study, f"{study}.1", LIMITS).volumes
    assert (volume.voxels[0] == texture(0).astype(int) - 1024).all()
    (volume,) = retrieve_volumes(archive, study, f"{study}.2", LIMITS).volumes
    assert volume.voxels.shape[0] == 3
    assert (volume.voxels[2] == texture(2).astype(int) - 1022).all()


@pytest.mark.parametrize("uid", ["", "..", "1/2", "a.b", "1?x=y", "1" * 65, "1 2"])
def test_what_is_no_uid_is_not_asked_for(orthanc: DicomWebClient, uid: str) -> None:
    calls: tuple[Callable[[], Any], ...] = (
        lambda: orthanc.find_study(uid),
        lambda: orthanc.list_series(uid),
        lambda: orthanc.list_instances(STUDY, uid),
        lambda: orthanc.instance_metadata(STUDY, SERIES, uid),
        lambda: list(orthanc.stream_series(STUDY, uid)),
    )
    for call in calls:
        with pytest.raises(NotFoundError):
            call()


def test_no_study_is_lost_by_paging(orthanc: DicomWebClient) -> None:
    """More studies than a page on one day, and several days; one in ten is no CT."""
    wanted: dict[str, str] = {}
    instances = []
    for number in range(270):
        # 150 on the first day, 40 on each of three later ones.
        day = date(2021, 5, 1) + timedelta(days=0 if number < 150 else 1 + number % 3)
        modality = "MR" if number % 10 == 0 else "CT"
        uid = f"1.2.826.5.{number}"
        wanted[uid] = modality
        instances.append(
            ct_slice(
                0,
                StudyInstanceUID=uid,
                SeriesInstanceUID=f"{uid}.1",
                SOPInstanceUID=f"{uid}.1.1",
                StudyDate=f"{day:%Y%m%d}",
                Modality=modality,
            )
        )
    assert orthanc.store(instances).failed == {}

    def search(modality: str | None = None) -> list[StudyInfo]:
        return list(orthanc.search_studies(date(2020, 1, 1), date(2022, 1, 1), modality=modality))

    found = [item.study_instance_uid for item in search()]
    assert len(found) == len(set(found))
    assert set(found) == set(wanted)
    for modality in ("CT", "MR"):
        assert {item.study_instance_uid for item in search(modality)} == {
            uid for uid, its in wanted.items() if its == modality
        }


def test_store_names_what_orthanc_refuses(orthanc: DicomWebClient) -> None:
    """Orthanc stops at the bad instance, drops the rest without a word, and answers 200."""
    first, second, bad = (
        ct_slice(
            index,
            StudyInstanceUID="1.2.826.6",
            SeriesInstanceUID="1.2.826.6.1",
            SOPInstanceUID=f"1.2.826.6.1.{index}",
        )
        for index in range(3)
    )
    bad.StudyInstanceUID = ""
    report = orthanc.store([first, bad, second])
    assert report.stored == {"1.2.826.6.1.0", "1.2.826.6.1.1"}
    assert report.failed == {"1.2.826.6.1.2": 0x0110}


def test_wrong_password_and_closed_port(orthanc: DicomWebClient) -> None:
    url = orthanc._settings.qido_url
    wrong = client_of(url, HttpAuth(kind="basic", username="fhir-ext", password="not-this-one"))
    closed = client_of(f"http://127.0.0.1:{free_port()}/dicom-web")
    for client, code in ((wrong, "archive-refused-us"), (closed, "upstream-unavailable")):
        for call in every_call(client):
            with pytest.raises(UpstreamUnavailable) as caught:
                call()
            assert caught.value.code == code


def test_services_may_have_different_addresses(orthanc: DicomWebClient) -> None:
    """Searched here, retrieved and stored there."""
    with scripted({}) as nowhere:
        settings = orthanc._settings.model_copy(update={"wado_url": nowhere, "stow_url": nowhere})
        client = DicomWebClient(settings, LIMITS)
        client.ping()
        with pytest.raises(NotFoundError):
            list(client.stream_series(STUDY, SERIES))
        with pytest.raises(NotFoundError):
            client.instance_metadata(STUDY, SERIES, f"{SERIES}.1")
        with pytest.raises(NotFoundError):
            client.store([ct_slice(0)])
