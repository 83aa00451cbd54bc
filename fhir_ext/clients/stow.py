"""Bodies of STOW-RS: the request we send and the answer we believe (PS3.18 10.5)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

#: Instances of one request: more do not go faster, and one refused part spoils fewer others.
BATCH_INSTANCES = 10
#: A request is closed once it is larger; servers cap bodies (64 MiB at the smallest seen).
BATCH_BYTES = 32 * 1024 * 1024

#: Failure reason "processing failure": may pass.
PROCESSING_FAILURE = 0x0110
#: Failure reason "cannot understand": will not pass.
CANNOT_UNDERSTAND = 0xC000

_REFERENCED_SOP_SEQUENCE = "00081199"
_FAILED_SOP_SEQUENCE = "00081198"
_REFERENCED_SOP_INSTANCE_UID = "00081155"
_FAILURE_REASON = "00081197"


@dataclass(frozen=True, slots=True)
class StoreReport:
    """What became of the instances that were sent.

    Attributes:
        stored: SOP Instance UIDs that the archive holds now.
        failed: SOP Instance UID to failure reason (0008,1197) of PS3.18 table I.2-2.
    """

    stored: frozenset[str]
    failed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """One encoded request of up to BATCH_INSTANCES instances.

    Attributes:
        instances: SOP Instance UID to (Study, Series Instance UID).
        parts: SOP Instance UID to the encoded instance.
        boundary: of the multipart message.
    """

    instances: Mapping[str, tuple[str, str]]
    parts: Mapping[str, bytes]
    boundary: str

    @property
    def content_type(self) -> str:
        return f'multipart/related; type="application/dicom"; boundary={self.boundary}'

    def body(self) -> bytes:
        """The multipart message."""
        head = f"--{self.boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        pieces = [piece for part in self.parts.values() for piece in (head, part, b"\r\n")]
        return b"".join([*pieces, f"--{self.boundary}--\r\n".encode()])

    def alone(self, uid: str) -> StoreRequest:
        """A request with one of the instances."""
        return _request({uid: self.instances[uid]}, {uid: self.parts[uid]})


def encode_requests(instances: Sequence[Dataset]) -> Iterator[StoreRequest]:
    """Pack instances into requests; one request is in memory at a time."""
    batch: dict[str, tuple[str, str]] = {}
    parts: dict[str, bytes] = {}
    for instance in instances:
        uid = str(instance.SOPInstanceUID)
        batch[uid] = (str(instance.StudyInstanceUID), str(instance.SeriesInstanceUID))
        parts[uid] = _encode(instance)
        if len(parts) >= BATCH_INSTANCES or sum(map(len, parts.values())) >= BATCH_BYTES:
            yield _request(batch, parts)
            batch, parts = {}, {}
    if parts:
        yield _request(batch, parts)


def _request(instances: Mapping[str, tuple[str, str]], parts: Mapping[str, bytes]) -> StoreRequest:
    return StoreRequest(instances, parts, secrets.token_hex(16))


def _encode(instance: Dataset) -> bytes:
    if not hasattr(instance, "file_meta"):
        instance.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" not in instance.file_meta:
        instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    encoded = BytesIO()
    dcmwrite(encoded, instance, enforce_file_format=True)
    return encoded.getvalue()


def read_answer(answer: Any) -> tuple[set[str], dict[str, int]]:
    """Stored UIDs and failure reasons by UID that a decoded DICOM JSON answer names."""
    if isinstance(answer, list):
        answer = answer[0] if answer else {}
    if not isinstance(answer, dict):
        return set(), {}
    stored = {
        uid
        for item in _items(answer, _REFERENCED_SOP_SEQUENCE)
        if isinstance(uid := _first(item, _REFERENCED_SOP_INSTANCE_UID), str)
    }
    failed = {}
    for item in _items(answer, _FAILED_SOP_SEQUENCE):
        uid, reason = _first(item, _REFERENCED_SOP_INSTANCE_UID), _first(item, _FAILURE_REASON)
        if isinstance(uid, str):
            failed[uid] = reason if isinstance(reason, int) else PROCESSING_FAILURE
    return stored - set(failed), failed


def _items(dataset: Mapping[str, Any], tag: str) -> list[dict[str, Any]]:
    element = dataset.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return [item for item in values or () if isinstance(item, dict)]


def _first(dataset: Mapping[str, Any], tag: str) -> Any:
    element = dataset.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None
