"""Step 6 of a study's way: the pixels of one series, once, for every service that wants them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.clients.volumes import retrieve_volumes
from fhir_ext.dicom.volume import CTVolume
from fhir_ext.errors import RefusedInput, UpstreamError
from fhir_ext.results import Refusal
from fhir_ext.settings import LimitSettings
from operations.analyze.plan import SeriesRef


class _Instance(Protocol):
    @property
    def sop_instance_uid(self) -> str: ...


T = TypeVar("T", bound=_Instance)


@dataclass(frozen=True, slots=True)
class FetchedSeries:
    """What came out of the archive for one series.

    Attributes:
        volume: the largest usable stack; None when there is none.
        other_volumes: how many further stacks the series held (other acquisitions).
        listed_uids: every SOP Instance UID that came, used or not; the inference key
            derives from these, so that it can be computed again from a QIDO answer.
        rejected: reason code to number of instances.
    """

    volume: CTVolume | None
    other_volumes: int
    listed_uids: tuple[str, ...]
    rejected: dict[str, int]


def fetch_series(
    archive: DicomWebClient,
    limits: LimitSettings,
    study_instance_uid: str,
    series_instance_uid: str,
    expected: int,
) -> FetchedSeries:
    """Stream one series into volumes.

    Args:
        expected: instances that the ImagingStudy names; fewer means the transfer is short.

    Raises:
        UpstreamError: the archive is down, or delivered fewer instances than it lists.
        RefusedInput: the series as a whole is over a limit.
    """
    found = retrieve_volumes(
        archive,
        study_instance_uid,
        series_instance_uid,
        limits,
        expected_instances=expected or None,
    )
    uids = {uid for volume in found.volumes for uid in volume.sop_instance_uids}
    uids |= {item.sop_instance_uid for item in found.rejected if item.sop_instance_uid}
    unnamed = sum(not item.sop_instance_uid for item in found.rejected)
    if len(uids) + unnamed < expected:
        raise UpstreamError(
            "the archive delivered fewer instances than it lists", code="short-series"
        )
    return FetchedSeries(
        volume=found.volumes[0] if found.volumes else None,
        other_volumes=max(0, len(found.volumes) - 1),
        listed_uids=tuple(sorted(uids)),
        rejected=dict(Counter(item.code for item in found.rejected)),
    )


@dataclass(frozen=True, slots=True)
class FetchedObjects(Generic[T]):
    """Single instances of some series, such as SEG objects or mammograms.

    Attributes:
        objects: those that could be read, by series and SOP Instance UID.
        listed_uids: every SOP Instance UID that the archive lists, used or not.
        rejected: reason code to number of instances.
    """

    objects: tuple[T, ...]
    listed_uids: tuple[str, ...]
    rejected: dict[str, int]


def fetch_objects(
    archive: DicomWebClient,
    limits: LimitSettings,
    study_instance_uid: str,
    series: Iterable[SeriesRef],
    read: Callable[[memoryview, LimitSettings], T],
) -> FetchedObjects[T]:
    """Read every instance of some series by itself.

    Args:
        read: of one instance; its RefusedInput counts the instance as rejected.

    Raises:
        UpstreamError: the archive is down, or delivered fewer instances than it lists.
    """
    objects: dict[tuple[str, str], T] = {}
    uids: set[str] = set()
    rejected: Counter[str] = Counter()
    for item in series:
        uid = item.series_instance_uid
        listed = archive.list_instances(study_instance_uid, uid)
        uids |= {instance.sop_instance_uid for instance in listed}
        came = 0
        with closing(archive.stream_series(study_instance_uid, uid)) as parts:
            for part in parts:
                came += 1
                try:
                    # What is read refers to its bytes, and the stream reuses its buffer.
                    found = read(memoryview(bytes(part)), limits)
                except RefusedInput as refused:
                    rejected[refused.code] += 1
                    continue
                objects[uid, found.sop_instance_uid] = found
        if came < len(listed):
            raise UpstreamError(
                "the archive delivered fewer instances than it lists", code="short-series"
            )
    return FetchedObjects(
        tuple(objects[key] for key in sorted(objects)), tuple(sorted(uids)), dict(rejected)
    )


def unusable(rejected: Mapping[str, int], needed: str) -> Refusal:
    """Why nothing of some instances can be used: the commonest reason.

    Args:
        rejected: reason code to number of instances.
        needed: what would have been accepted.
    """
    ((code, _),) = Counter(rejected).most_common(1) or (("no-slices", 0),)
    return Refusal(code, f"{sum(rejected.values())} unusable instances", needed)
