"""Step 6 of a study's way: the pixels of one series, once, for every service that wants them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fhir_ext.clients.dicomweb import DicomWebClient, retrieve_volumes
from fhir_ext.dicom.volume import CTVolume
from fhir_ext.errors import UpstreamError
from fhir_ext.settings import LimitSettings


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

    @property
    def main_rejection(self) -> str:
        """The commonest reason, as the reason why the whole series cannot be used."""
        return Counter(self.rejected).most_common(1)[0][0] if self.rejected else "no-slices"


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
