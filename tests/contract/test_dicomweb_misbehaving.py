"""The DICOMweb client against servers that misbehave: every failure has its error."""

from __future__ import annotations

import json
import time
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.uid import ExplicitVRLittleEndian
from scripted_archive import LIMITS, Answer, client_of, every_call, respond, scripted
from synthetic_ct import SERIES, STUDY, ct_slice, encoded, texture

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.clients.multipart import boundary_of, split_parts
from fhir_ext.clients.volumes import retrieve_volumes
from fhir_ext.errors import (
    FhirExtError,
    NotFoundError,
    RefusedInput,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from fhir_ext.settings import ArchiveSettings, LimitSettings


def multipart(parts: list[bytes], *, closed: bool = True) -> bytes:
    body = b"".join(
        b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts
    )
    return body + (b"--b0--\r\n" if closed else b"")


RELATED = 'multipart/related; type="application/dicom"; boundary=b0'


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (500, UpstreamUnavailable, "upstream-unavailable"),
        (503, UpstreamUnavailable, "upstream-unavailable"),
        (429, UpstreamUnavailable, "upstream-unavailable"),
        (403, UpstreamUnavailable, "archive-refused-us"),
        (408, UpstreamTimeout, "upstream-timeout"),
        (504, UpstreamTimeout, "upstream-timeout"),
    ],
)
def test_every_call_maps_every_status(status: int, error: type[FhirExtError], code: str) -> None:
    with scripted({}, respond(status, b"a page full of patient names")) as url:
        for call in every_call(client_of(url)):
            with pytest.raises(error) as caught:
                call()
            assert caught.value.code == code
            assert "patient" not in caught.value.message


def test_silence_is_a_timeout() -> None:
    def silent(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.6)
        handler.close_connection = True

    with scripted({}, silent) as url:
        client = client_of(url, timeout=timedelta(seconds=0.2))
        for call in (client.ping, lambda: list(client.stream_series(STUDY, SERIES))):
            with pytest.raises(UpstreamTimeout):
                call()


def stream_of(*chunks: bytes, pause: float = 0.0, length: int | None = None) -> Answer:
    """A multipart answer that ends by closing the connection."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", RELATED)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.send_header("Connection", "close")
        handler.end_headers()
        for chunk in chunks:
            handler.wfile.write(chunk)
            handler.wfile.flush()
            time.sleep(pause)

    return answer


def test_silence_in_the_middle_of_a_series_is_a_timeout() -> None:
    body = multipart([encoded(ct_slice(0)), encoded(ct_slice(1))])
    half = stream_of(body[:1500], b"", body[1500:], pause=0.4)
    with scripted({f"GET {SERIES}": half}) as url:
        client = client_of(url, timeout=timedelta(seconds=0.2))
        with pytest.raises(UpstreamTimeout):
            list(client.stream_series(STUDY, SERIES))


@pytest.mark.parametrize("length", [None, 10**6])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.97])
def test_dropped_connection_is_retried_work_and_no_short_volume(
    kept: float, length: int | None
) -> None:
    body = multipart([encoded(ct_slice(index)) for index in range(4)])
    dropped = stream_of(body[: int(kept * len(body))], length=length)
    with scripted({f"GET {SERIES}": dropped}) as url, pytest.raises(UpstreamUnavailable):
        retrieve_volumes(client_of(url), STUDY, SERIES, LIMITS, expected_instances=4)


def test_truncated_part_is_rejected_and_the_others_stand() -> None:
    parts = [encoded(ct_slice(index)) for index in range(4)]
    parts[2] = parts[2][:-20]
    with scripted({f"GET {SERIES}": respond(200, multipart(parts), RELATED)}) as url:
        found = retrieve_volumes(client_of(url), STUDY, SERIES, LIMITS, expected_instances=4)
    assert [item.code for item in found.rejected] == ["truncated"]
    assert len(found.volumes[0].voxels) == 3


@pytest.mark.parametrize("content_type", ["application/dicom", "application/octet-stream", ""])
def test_answer_that_is_not_multipart_is_one_instance(content_type: str) -> None:
    body = encoded(ct_slice(0))
    with scripted({f"GET {SERIES}": respond(200, body, content_type)}) as url:
        found = retrieve_volumes(client_of(url), STUDY, SERIES, LIMITS, expected_instances=1)
    assert len(found.volumes[0].voxels) == 1


def test_empty_answers() -> None:
    with scripted({}, respond(204)) as url:
        client = client_of(url)
        assert list(client.search_studies(date(2025, 1, 1), date(2025, 1, 2))) == []
        assert client.list_series(STUDY) == ()
        assert list(client.stream_series(STUDY, SERIES)) == []
        with pytest.raises(RefusedInput) as caught:
            retrieve_volumes(client, STUDY, SERIES, LIMITS)
        assert caught.value.code == "no-slices"
        with pytest.raises(NotFoundError):
            client.instance_metadata(STUDY, SERIES, f"{SERIES}.1")


def test_part_over_the_limit() -> None:
    body = multipart([encoded(ct_slice(0))])
    with scripted({f"GET {SERIES}": respond(200, body, RELATED)}) as url:
        settings = ArchiveSettings(qido_url=url, wado_url=url, stow_url=url)
        client = DicomWebClient(settings, LimitSettings(instance_bytes=500))
        with pytest.raises(RefusedInput) as caught:
            list(client.stream_series(STUDY, SERIES))
    assert caught.value.code == "too-large"


def test_archive_that_does_not_know_the_wildcard() -> None:
    body = multipart([encoded(ct_slice(0))])

    def picky(handler: BaseHTTPRequestHandler) -> None:
        wildcard = "transfer-syntax=*" in handler.headers["Accept"]
        (respond(406) if wildcard else respond(200, body, RELATED))(handler)

    with scripted({f"GET {SERIES}": picky}) as url:
        assert len(list(client_of(url).stream_series(STUDY, SERIES))) == 1


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"{", b'[{"00080018": 7}]'])
def test_metadata_that_cannot_be_read(body: bytes) -> None:
    with (
        scripted({"GET metadata": respond(200, body)}) as url,
        pytest.raises(UpstreamUnavailable),
    ):
        client_of(url).instance_metadata(STUDY, SERIES, f"{SERIES}.1")


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"{", b'"text"'])
def test_search_answer_that_cannot_be_read(body: bytes) -> None:
    with scripted({}, respond(200, body)) as url:
        client = client_of(url)
        for call in every_call(client)[1:5]:
            with pytest.raises(UpstreamUnavailable):
                call()


def test_search_rows_of_nonsense_are_no_studies() -> None:
    nonsense = [{}, {"0020000D": 5}, {"0020000D": {"Value": []}}, {"0020000D": {"Value": [None]}}]
    with scripted({}, respond(200, json.dumps(nonsense).encode())) as url:
        client = client_of(url)
        assert list(client.search_studies(date(2025, 1, 1), date(2025, 1, 1))) == []
        assert client.find_study(STUDY) is None
        assert client.list_series(STUDY) == ()
        assert client.list_instances(STUDY, SERIES) == ()


def rows(count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "0020000D": {"vr": "UI", "Value": [f"1.2.{start + index}"]},
            "00080020": {"vr": "DA", "Value": ["20250101"]},
            "00080061": {"vr": "CS", "Value": ["CT"]},
            "00201208": {"vr": "IS", "Value": [3]},
            **more,
        }
        for index in range(count)
    ]


def test_rows_that_nobody_asked_for_are_dropped() -> None:
    """An archive that ignores the date answers with everything."""
    everything = json.dumps(
        rows(3) + rows(4, 10, **{"00080020": {"vr": "DA", "Value": ["19990101"]}})
    )
    with scripted({"GET studies": respond(200, everything.encode())}) as url:
        found = list(client_of(url).search_studies(date(2024, 1, 1), date(2026, 1, 1)))
    assert [item.study_instance_uid for item in found] == ["1.2.0", "1.2.1", "1.2.2"]


def test_archive_that_ignores_limit_offset_and_date_ends() -> None:
    everything = json.dumps(rows(300)).encode()
    with scripted({"GET studies": respond(200, everything)}) as url:
        found = list(client_of(url).search_studies(date(2024, 1, 1), date(2026, 1, 1)))
    assert len(found) == 300


def test_archive_that_cuts_its_answers() -> None:
    """It gives 100 rows at most, whatever is asked for, and honours the offset."""
    asked: list[int] = []

    def page(handler: BaseHTTPRequestHandler) -> None:
        offset = int(handler.path.partition("offset=")[2].partition("&")[0] or 0)
        asked.append(offset)
        all_rows = [
            {
                "0020000E": {"vr": "UI", "Value": [SERIES]},
                "00080018": {"vr": "UI", "Value": [f"1.3.{index}"]},
            }
            for index in range(250)
        ]
        respond(200, json.dumps(all_rows[offset : offset + 100]).encode())(handler)

    with scripted({"GET instances": page}) as url:
        assert len(client_of(url).list_instances(STUDY, SERIES)) == 250
    assert asked == [0, 100, 200, 250]


def stow_answer(stored: list[str], failed: dict[str, int]) -> bytes:
    answer: dict[str, Any] = {}
    if stored:
        items = [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in stored]
        answer["00081199"] = {"vr": "SQ", "Value": items}
    if failed:
        items = [
            {
                "00081155": {"vr": "UI", "Value": [uid]},
                "00081197": {"vr": "US", "Value": [reason]},
            }
            for uid, reason in failed.items()
        ]
        answer["00081198"] = {"vr": "SQ", "Value": items}
    return json.dumps(answer).encode()


FIRST, SECOND = f"{SERIES}.1", f"{SERIES}.2"

#: status, body, UIDs that QIDO shows, expected stored, expected failed
STOW_ANSWERS = {
    "all stored": (200, stow_answer([FIRST, SECOND], {}), [], {FIRST, SECOND}, {}),
    "partly": (202, stow_answer([FIRST], {SECOND: 0xA900}), [], {FIRST}, {SECOND: 0xA900}),
    "none": (
        409,
        stow_answer([], {FIRST: 0x0122, SECOND: 0x0122}),
        [],
        set(),
        {FIRST: 0x0122, SECOND: 0x0122},
    ),
    "Azure has it already": (
        409,
        stow_answer([], {FIRST: 45070, SECOND: 45070}),
        [FIRST],
        {FIRST},
        {SECOND: 45070},
    ),
    "named both stored and failed": (
        202,
        stow_answer([FIRST, SECOND], {SECOND: 0x0110}),
        [],
        {FIRST},
        {SECOND: 0x0110},
    ),
    "success without names": (200, b"{}", [FIRST], {FIRST}, {SECOND: 0x0110}),
    "success in XML": (200, b"<NativeDicomModel/>", [FIRST, SECOND], {FIRST, SECOND}, {}),
    "bad request with one name": (400, stow_answer([FIRST], {}), [], {FIRST}, {SECOND: 0xC000}),
    "too large": (413, b"", [], set(), {FIRST: 0xC000, SECOND: 0xC000}),
    "answers a list": (
        200,
        b"[" + stow_answer([FIRST, SECOND], {}) + b"]",
        [],
        {FIRST, SECOND},
        {},
    ),
}


@pytest.mark.parametrize("name", STOW_ANSWERS)
def test_store_reads_the_answer_and_not_only_the_status(name: str) -> None:
    status, body, held, stored, failed = STOW_ANSWERS[name]
    shown = json.dumps([{"00080018": {"vr": "UI", "Value": [uid]}} for uid in held]).encode()
    script = {"POST studies": respond(status, body), "GET instances": respond(200, shown)}
    with scripted(script) as url:
        report = client_of(url).store([ct_slice(0), ct_slice(1)])
    assert report.stored == stored
    assert report.failed == failed


def test_store_sends_batches_of_ten_and_survives_a_stale_connection() -> None:
    sizes: list[int] = []

    def once_dropped(handler: BaseHTTPRequestHandler) -> None:
        sizes.append(int(handler.headers["Content-Length"]))
        if len(sizes) == 2:
            handler.close_connection = True
            return
        uids = [f"{SERIES}.{index + 1}" for index in range(25)]
        respond(200, stow_answer(uids, {}))(handler)

    with scripted({"POST studies": once_dropped}) as url:
        report = client_of(url).store([ct_slice(index) for index in range(25)])
    assert len(report.stored) == 25
    # Ten, ten (dropped), ten again, five.
    assert sizes[1] == sizes[2]
    assert len(sizes) == 4
    assert sizes[3] < 0.6 * sizes[0]


def test_instance_without_file_meta_is_encoded() -> None:
    received: list[bytes] = []

    def keep(handler: BaseHTTPRequestHandler) -> None:
        boundary = boundary_of(handler.headers["Content-Type"])
        assert boundary is not None
        received.extend(map(bytes, split_parts([handler.body], boundary, 10**6)))  # type: ignore[attr-defined]
        respond(200, stow_answer([FIRST], {}))(handler)

    instance: Dataset = ct_slice(0)
    assert not hasattr(instance, "file_meta")
    with scripted({"POST studies": keep}) as url:
        assert client_of(url).store([instance]).stored == {FIRST}
    (part,) = received
    sent = dcmread(DicomBytesIO(part))
    assert sent.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert sent.file_meta.MediaStorageSOPInstanceUID == FIRST
    assert sent.PixelData == texture(0).tobytes()
