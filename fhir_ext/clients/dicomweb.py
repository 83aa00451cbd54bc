"""The DICOMweb archive (PS3.18): search, metadata, pixels, store.

The only place that uses dicomweb-client. Search and metadata go through it; retrieving a
series and storing are our own, because dicomweb-client holds a series in memory and hides
which instances an archive refused.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from io import BytesIO
from typing import Any

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset, dcmread

from fhir_ext.clients.archive_errors import status_of, upstream
from fhir_ext.clients.http import build_session
from fhir_ext.clients.multipart import boundary_of, split_parts
from fhir_ext.clients.qido import (
    PAGE,
    SERIES_UID,
    SOP_UID,
    STUDY_UID,
    InstanceInfo,
    Row,
    SeriesInfo,
    StudyInfo,
    all_pages,
    checked_rows,
    instance_info,
    integer,
    study_info,
    text,
    within,
)
from fhir_ext.clients.stow import (
    CANNOT_UNDERSTAND,
    PROCESSING_FAILURE,
    StoreReport,
    StoreRequest,
    encode_requests,
    read_answer,
)
from fhir_ext.dicom.headers import PARSE_ERRORS
from fhir_ext.errors import (
    NotFoundError,
    RefusedInput,
    UpstreamUnavailable,
)
from fhir_ext.settings import ArchiveSettings, LimitSettings

__all__ = [
    "DicomWebClient",
    "InstanceInfo",
    "SeriesInfo",
    "StoreReport",
    "StudyInfo",
]

#: Stored transfer syntax as it is: transcoding costs the archive twice the time.
_ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'
#: For servers that do not know the wildcard.
_PLAIN = 'multipart/related; type="application/dicom"'

_CHUNK_BYTES = 256 * 1024
_CONNECT_SECONDS = 10.0
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")
_NO_SUCH_SERVICE = frozenset({404, 405, 406, 501})


class DicomWebClient:
    """One DICOMweb archive, whose three services may have different base URLs.

    Every method raises:
        NotFoundError: the archive has no such study, series or instance.
        UpstreamTimeout: no answer in time.
        UpstreamUnavailable: refused, reset, 5xx, or an answer that cannot be read.

    Args:
        settings: where it is and how we authenticate.
        limits: largest instance that is taken in.
    """

    def __init__(self, settings: ArchiveSettings, limits: LimitSettings) -> None:
        self._settings = settings
        self._limits = limits
        self._session = build_session(settings.auth, settings.timeout)
        seconds = settings.timeout.total_seconds()
        self._timeout = (min(seconds, _CONNECT_SECONDS), seconds)
        self._qido = self._dicomweb_client(settings.qido_url)
        self._wado = self._dicomweb_client(settings.wado_url)

    def _dicomweb_client(self, url: str) -> DICOMwebClient:
        client = DICOMwebClient(
            url.rstrip("/"), session=self._session, permissive_uid=True, timeout=self._timeout
        )
        # The durable workflow retries; sleeping here would only hold a worker.
        client.set_http_retry_params(retry=False)
        return client

    def ping(self) -> None:
        """Ask for one study, to see whether the archive answers."""
        with upstream():
            self._qido.search_for_studies(limit=1)

    def search_studies(
        self, date_from: date, date_to: date, *, modality: str | None = None
    ) -> Iterator[StudyInfo]:
        """Studies whose StudyDate lies in a range, both ends included; each once.

        The range is halved until the answers are short, and modalities are compared here:
        paging a search by modality silently loses studies on some archives. Rows outside of
        the range are dropped, since an archive may ignore what it does not understand.

        Args:
            date_from, date_to: first and last StudyDate.
            modality: only studies with a series of it.
        """
        seen: set[str] = set()
        for row in self._study_rows(date_from, date_to):
            study = study_info(row)
            outside = study.study_date and not (
                f"{date_from:%Y%m%d}" <= study.study_date <= f"{date_to:%Y%m%d}"
            )
            if outside or study.study_instance_uid in seen:
                continue
            seen.add(study.study_instance_uid)
            study = self._complete(study)
            if modality is None or modality in study.modalities:
                yield study

    def _complete(self, study: StudyInfo) -> StudyInfo:
        """Count the series where an archive does not tell what they hold."""
        if study.instance_count and study.modalities:
            return study
        series = self.list_series(study.study_instance_uid)
        return replace(
            study,
            modalities=tuple(sorted({item.modality for item in series if item.modality})),
            instance_count=sum(item.instance_count for item in series),
            series_count=len(series),
        )

    def _study_rows(self, date_from: date, date_to: date) -> Iterator[Row]:
        fields = ["StudyDescription", "ModalitiesInStudy"]
        filters = {"StudyDate": f"{date_from:%Y%m%d}-{date_to:%Y%m%d}"}

        def page(offset: int) -> list[Row]:
            with upstream():
                found = self._qido.search_for_studies(
                    limit=PAGE, offset=offset, fields=fields, search_filters=filters
                )
            return checked_rows(found)

        first = page(0)
        days = (date_to - date_from).days
        understood = all(within(row, date_from, date_to) for row in first)
        if len(first) >= PAGE and days > 0 and understood:
            middle = date_from + timedelta(days=days // 2)
            yield from self._study_rows(date_from, middle)
            yield from self._study_rows(middle + timedelta(days=1), date_to)
        else:
            yield from all_pages(page, first, STUDY_UID)

    def find_study(self, study_instance_uid: str) -> StudyInfo | None:
        """The study, or None."""
        _check_uids(study_instance_uid)
        with upstream():
            answer = self._qido.search_for_studies(
                limit=2,
                fields=["StudyDescription", "ModalitiesInStudy"],
                search_filters={"StudyInstanceUID": study_instance_uid},
            )
        rows = checked_rows(answer)
        found = [row for row in rows if text(row, STUDY_UID) == study_instance_uid]
        return self._complete(study_info(found[0])) if found else None

    def list_series(self, study_instance_uid: str) -> tuple[SeriesInfo, ...]:
        """All series of a study; empty when the archive knows none."""
        rows = self._series_rows(study_instance_uid, {})
        return tuple(self._series_info(study_instance_uid, row) for row in rows)

    def find_series(self, study_instance_uid: str, series_instance_uid: str) -> SeriesInfo | None:
        """One series, or None."""
        _check_uids(series_instance_uid)
        for row in self._series_rows(
            study_instance_uid, {"SeriesInstanceUID": series_instance_uid}
        ):
            if text(row, SERIES_UID) == series_instance_uid:
                return self._series_info(study_instance_uid, row)
        return None

    def _series_rows(self, study_instance_uid: str, filters: dict[str, str]) -> Iterator[Row]:
        _check_uids(study_instance_uid)
        fields = ["SeriesDescription", "BodyPartExamined", "SeriesNumber"]

        def page(offset: int) -> list[Row]:
            with upstream():
                found = self._qido.search_for_series(
                    study_instance_uid,
                    offset=offset or None,
                    fields=fields,
                    search_filters=filters,
                )
            return checked_rows(found)

        for row in all_pages(page, page(0), SERIES_UID):
            if text(row, STUDY_UID) in ("", study_instance_uid):
                yield row

    def _series_info(self, study_instance_uid: str, row: Row) -> SeriesInfo:
        uid = text(row, SERIES_UID)
        count = integer(row, "00201209")
        if count is None:
            count = len(self.list_instances(study_instance_uid, uid))
        return SeriesInfo(
            series_instance_uid=uid,
            modality=text(row, "00080060"),
            instance_count=count,
            description=text(row, "0008103E") or None,
            number=integer(row, "00200011"),
            body_part=text(row, "00180015") or None,
        )

    def list_instances(
        self, study_instance_uid: str, series_instance_uid: str
    ) -> tuple[InstanceInfo, ...]:
        """All instances of a series, in no particular order; empty when there are none."""
        _check_uids(study_instance_uid, series_instance_uid)
        return tuple(
            map(instance_info, self._instance_rows(study_instance_uid, series_instance_uid))
        )

    def _instance_rows(
        self, study_instance_uid: str, series_instance_uid: str, **filters: str
    ) -> Iterator[Row]:
        fields = ["NumberOfFrames", "Rows", "Columns", "InstanceNumber"]

        def page(offset: int) -> list[Row]:
            with upstream():
                found = self._qido.search_for_instances(
                    study_instance_uid,
                    series_instance_uid,
                    offset=offset or None,
                    fields=fields,
                    search_filters=filters,
                )
            return checked_rows(found)

        for row in all_pages(page, page(0), SOP_UID):
            if text(row, SERIES_UID) in ("", series_instance_uid):
                yield row

    def instance_metadata(
        self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str
    ) -> Dataset:
        """One instance without its bulk data.

        An archive without WADO-RS metadata is asked for the instance itself.
        """
        _check_uids(study_instance_uid, series_instance_uid, sop_instance_uid)
        try:
            with upstream():
                found = self._wado.retrieve_instance_metadata(
                    study_instance_uid, series_instance_uid, sop_instance_uid
                )
        except IndexError as error:
            raise NotFoundError("the archive has no such instance") from error
        except (NotFoundError, UpstreamUnavailable) as error:
            if status_of(error) not in _NO_SUCH_SERVICE:
                raise
            return self._instance_header(study_instance_uid, series_instance_uid, sop_instance_uid)
        try:
            inline = {tag: item for tag, item in found.items() if "BulkDataURI" not in item}
            return Dataset.from_json(inline, _no_bulk_data)
        except PARSE_ERRORS as error:
            raise UpstreamUnavailable(
                "the archive's metadata cannot be read", code="malformed-metadata"
            ) from error

    def _instance_header(self, study: str, series: str, instance: str) -> Dataset:
        path = f"/studies/{study}/series/{series}/instances/{instance}"
        for part in self._stream(path):
            try:
                return dcmread(BytesIO(part), stop_before_pixels=True)
            except PARSE_ERRORS as error:
                raise RefusedInput("an instance cannot be read", code="not-dicom") from error
        raise NotFoundError("the archive has no such instance")

    def stream_series(
        self, study_instance_uid: str, series_instance_uid: str
    ) -> Generator[memoryview, None, None]:
        """The instances of a series as PS3.10 files, in the archive's order, as they arrive.

        Yields:
            Views that are valid until the next one is asked for.

        Raises:
            RefusedInput: `too-large`: an instance is over the limit.
        """
        _check_uids(study_instance_uid, series_instance_uid)
        return self._stream(f"/studies/{study_instance_uid}/series/{series_instance_uid}")

    def _stream(self, path: str) -> Generator[memoryview, None, None]:
        with upstream(), self._open(path) as response:
            if response.status_code == 204:
                return
            boundary = boundary_of(response.headers.get("Content-Type", ""))
            chunks = response.iter_content(_CHUNK_BYTES)
            limit = self._limits.instance_bytes
            if boundary is None:
                yield memoryview(_whole(chunks, limit))
            else:
                yield from split_parts(chunks, boundary, limit)

    def _open(self, path: str) -> requests.Response:
        url = self._settings.wado_url.rstrip("/") + path
        for accept in (_ANY_SYNTAX, _PLAIN):
            response = self._session.get(
                url, headers={"Accept": accept}, stream=True, timeout=self._timeout
            )
            if response.status_code not in (400, 406):
                break
            response.close()
        with contextlib.ExitStack() as closing:
            closing.callback(response.close)
            response.raise_for_status()
            closing.pop_all()
        return response

    def store(self, instances: Sequence[Dataset]) -> StoreReport:
        """Store instances by STOW-RS; storing the same ones again changes nothing.

        What the answer does not name as stored is looked up by QIDO-RS: it may be there
        already, which archives call by different failure reasons or not at all.

        Args:
            instances: data sets; those without file meta information are encoded as
                Explicit VR Little Endian.
        """
        stored: set[str] = set()
        failed: dict[str, int] = {}
        for request in encode_requests(instances):
            self._store(request, stored, failed)
        return StoreReport(frozenset(stored), failed)

    def _store(self, request: StoreRequest, stored: set[str], failed: dict[str, int]) -> None:
        named, reasons, otherwise = self._post(request)
        for uid, (study, series) in request.instances.items():
            if uid in named or self._holds(study, series, uid):
                stored.add(uid)
            elif uid in reasons or len(request.instances) == 1:
                failed[uid] = reasons.get(uid, otherwise)
            else:
                # Orthanc stops at a bad instance, names only those before it, answers 200.
                self._store(request.alone(uid), stored, failed)

    def _post(self, request: StoreRequest) -> tuple[set[str], dict[str, int], int]:
        """UIDs named as stored, failure reasons, and the reason of what is not named."""
        with upstream():
            response = self._post_once_more(request)
            # 400 and 409 too: some of the instances may be stored all the same.
            if response.status_code not in (200, 202, 400, 409, 413, 415):
                response.raise_for_status()
        try:
            named, reasons = read_answer(response.json())
        except requests.JSONDecodeError:
            named, reasons = set(), {}
        final = response.status_code in (400, 409, 413, 415)
        return named, reasons, CANNOT_UNDERSTAND if final else PROCESSING_FAILURE

    def _post_once_more(self, request: StoreRequest) -> requests.Response:
        """POST, again if the pooled connection had gone stale: storing is idempotent."""
        send = self._session.post
        options: dict[str, Any] = {
            "data": request.body(),
            "headers": {
                "Content-Type": request.content_type,
                "Accept": "application/dicom+json",
            },
            "timeout": self._timeout,
        }
        url = self._settings.stow_url.rstrip("/") + "/studies"
        try:
            return send(url, **options)
        except requests.Timeout:
            raise
        except requests.ConnectionError:
            return send(url, **options)

    def _holds(self, study: str, series: str, instance: str) -> bool:
        try:
            _check_uids(study, series, instance)
            rows = self._instance_rows(study, series, SOPInstanceUID=instance)
            return any(text(row, SOP_UID) == instance for row in rows)
        except NotFoundError:
            return False


def _whole(chunks: Iterable[bytes], limit: int) -> bytearray:
    """A body that is one instance and not multipart."""
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise RefusedInput("an instance is over the limit", code="too-large")
    return body


def _check_uids(*uids: str) -> None:
    """What is not a UID names nothing, and must not become part of a URL."""
    if not all(_UID.fullmatch(uid) for uid in uids):
        raise NotFoundError("not a DICOM UID")


def _no_bulk_data(tag: str, vr: str, uri: str) -> None:
    """Bulk data inside sequences stay where they are."""
