"""A series from the archive as volumes."""

from __future__ import annotations

import contextlib

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.dicom.assemble import VolumeAssembler
from fhir_ext.dicom.volume import SeriesVolumes
from fhir_ext.settings import LimitSettings


def retrieve_volumes(
    client: DicomWebClient,
    study_instance_uid: str,
    series_instance_uid: str,
    limits: LimitSettings,
    *,
    expected_instances: int | None = None,
) -> SeriesVolumes:
    """Stream a series and assemble its volumes while it arrives.

    Peak memory is the volume, one instance and a few buffers.

    Args:
        client: the archive.
        study_instance_uid, series_instance_uid: what to fetch; instances of another study
            or series are rejected.
        limits: what may come in.
        expected_instances: how many will come; asked of QIDO-RS without it.

    Raises:
        NotFoundError, UpstreamTimeout, UpstreamUnavailable: as DicomWebClient.
        RefusedInput: `too-large` or `no-slices`: the series as a whole cannot be used.
    """
    if expected_instances is None:
        series = client.find_series(study_instance_uid, series_instance_uid)
        expected_instances = series.instance_count if series else 0
    with VolumeAssembler(
        expected_instances,
        limits,
        study_instance_uid=study_instance_uid,
        series_instance_uid=series_instance_uid,
    ) as assembler:
        parts = client.stream_series(study_instance_uid, series_instance_uid)
        with contextlib.closing(parts):
            for part in parts:
                assembler.add(part)
        return assembler.finish()
