"""What the result builders need to know besides the result itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import fhir_ext

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WriteContext:
    """Where results belong, and when; given by the caller, so that a repeat is the same.

    Attributes:
        patient_reference: `Patient/<id>`.
        imaging_study_id: id of the ImagingStudy.
        imaging_study_version: the version that was read.
        issued: when the results were made; aware.
        started: ImagingStudy.started (FHIR R4 dateTime); becomes the time that the
            measurements speak of.
        recorded: when they were written; `issued` when None.
        known_conditions: keys of `codes.CONDITIONS` that are on the problem list.
        superseded: earlier results of the same subject as they were read, with `meta`.
        sr_instance_uid, seg_instance_uid: SOP Instance UIDs of the DICOM objects that hold
            the same results.
        trace_id: W3C trace id (hex) of the work.
        software_version: version of this software.
    """

    patient_reference: str
    imaging_study_id: str
    imaging_study_version: str
    issued: datetime
    started: str | None = None
    recorded: datetime | None = None
    known_conditions: Iterable[str] = frozenset()
    superseded: tuple[Json, ...] = ()
    sr_instance_uid: str | None = None
    seg_instance_uid: str | None = None
    trace_id: str | None = None
    software_version: str = fhir_ext.__version__

    @property
    def patient(self) -> Json:
        return {"reference": self.patient_reference}

    @property
    def imaging_study(self) -> Json:
        return {"reference": f"ImagingStudy/{self.imaging_study_id}"}

    @property
    def issued_instant(self) -> str:
        return instant(self.issued)

    @property
    def recorded_instant(self) -> str:
        return instant(self.recorded or self.issued)


def instant(moment: datetime) -> str:
    """FHIR R4 `instant` in UTC with milliseconds.

    Raises:
        ValueError: the datetime is naive.
    """
    if moment.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
