"""Puts parts of a series together as the client does, and looks at what came out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from synthetic_ct import SERIES, STUDY, texture

from fhir_ext.dicom.assemble import VolumeAssembler
from fhir_ext.dicom.volume import REJECTIONS, CTVolume, SeriesVolumes
from fhir_ext.settings import LimitSettings

LIMITS = LimitSettings()


def assemble(
    parts: Sequence[bytes], *, expected: int | None = None, limits: LimitSettings = LIMITS
) -> SeriesVolumes:
    with VolumeAssembler(
        len(parts) if expected is None else expected,
        limits,
        study_instance_uid=STUDY,
        series_instance_uid=SERIES,
    ) as assembler:
        for part in parts:
            buffer = bytearray(part)
            assembler.add(memoryview(buffer))
            # What comes from the wire is overwritten by the next part.
            buffer[:] = b"\xa5" * len(buffer)
        found = assembler.finish()
    assert all(item.code in REJECTIONS for item in found.rejected)
    return found


def only_volume(found: SeriesVolumes) -> CTVolume:
    (volume,) = found.volumes
    assert volume.voxels.dtype == np.int16
    assert volume.voxels.flags.c_contiguous
    assert len(volume.sop_instance_uids) == len(volume.voxels)
    return volume


def rejected(found: SeriesVolumes) -> list[str]:
    return sorted(item.code for item in found.rejected)


def expected_voxels(indices: Iterable[int]) -> np.ndarray[Any, Any]:
    return np.stack([texture(index).astype(int) - 1024 for index in indices])
