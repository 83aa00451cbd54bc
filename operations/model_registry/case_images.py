"""What the cases of a manifest show a model: tensors, DICOM files, phantoms."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from fhir_ext.dicom.assemble import VolumeAssembler
from fhir_ext.dicom.headers import take_apart, text
from fhir_ext.dicom.mammography import read_mammogram
from fhir_ext.dicom.radiograph import read_radiograph
from fhir_ext.dicom.seg import read_segmentation
from fhir_ext.dicom.seg_image import read_image_segmentation
from fhir_ext.dicom.volume import CTVolume
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings
from models.manifest.base import HashedFile
from models.manifest.evidence import DicomInput, PhantomInput
from models.runtime.base import Array, ModelFailure
from models.service import ModelInput

if TYPE_CHECKING:
    from pydicom import Dataset

T = TypeVar("T")

#: Segmentation Storage (PS3.4 B.5).
_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"


def read_tensors(folder: Path, file: HashedFile) -> dict[str, Array]:
    """The tensors of a safetensors file.

    Raises:
        ModelFailure: it is missing, not the one that the manifest names, or no safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        found: dict[str, Array] = load(read_file(folder, file))
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelFailure("weights-corrupt", f"{file.file} is no safetensors") from error
    return found


def read_file(folder: Path, file: HashedFile) -> bytes:
    """A file of the model's folder.

    Raises:
        ModelFailure: it is missing, or not the one that the manifest names.
    """
    try:
        data = (folder / file.file).read_bytes()
    except OSError as error:
        raise ModelFailure("model-not-installed", file.file) from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise ModelFailure("weights-hash", file.file)
    return data


def images_of(
    given: DicomInput | PhantomInput, images: str, folder: Path, limits: LimitSettings
) -> ModelInput:
    """What a service is shown of a case.

    Args:
        images: `inputs.images` of the manifest.
        folder: of the manifest.

    Raises:
        RefusedInput: nothing of it can be used; its code is the commonest reason.
        ModelFailure: a file is missing or not the one that is named.
    """
    if isinstance(given, PhantomInput):
        if images not in ("volume", "segmented-volume"):
            raise RefusedInput("a phantom is a CT volume, which this model is not shown")
        return ModelInput(volume=_volume(_phantom(given), limits), study="case")
    parts = [read_file(folder, file) for file in given.files]
    segments = [part for part in parts if _is_seg(part, limits)]
    others = [part for part in parts if not _is_seg(part, limits)]
    if images == "mammograms":
        return ModelInput(mammograms=_readable(others, read_mammogram, limits), study="case")
    if images in ("radiographs", "segmented-radiographs"):
        return ModelInput(
            radiographs=_readable(others, read_radiograph, limits),
            image_segmentations=_readable(segments, read_image_segmentation, limits),
            study="case",
        )
    return ModelInput(
        volume=_volume(others, limits),
        segmentations=_readable(segments, read_segmentation, limits),
        study="case",
    )


def _is_seg(part: bytes, limits: LimitSettings) -> bool:
    try:
        raw = take_apart(memoryview(part), limits.instance_bytes)
    except RefusedInput:
        return False
    return text(raw.values.get("SOPClassUID")) == _SEGMENTATION


def _readable(
    parts: Sequence[bytes], read: Callable[[memoryview, LimitSettings], T], limits: LimitSettings
) -> tuple[T, ...]:
    """Objects that can be read; others are left out, as they are in a study.

    Raises:
        RefusedInput: there are some, and none can be read.
    """
    found: list[T] = []
    rejected: Counter[str] = Counter()
    for part in parts:
        try:
            found.append(read(memoryview(part), limits))
        except RefusedInput as refused:
            rejected[refused.code] += 1
    if parts and not found:
        raise _unusable(rejected)
    return tuple(found)


def _volume(parts: Iterable[bytes], limits: LimitSettings) -> CTVolume:
    """The largest stack of all series."""
    series: dict[str, list[bytes]] = {}
    for part in parts:
        try:
            raw = take_apart(memoryview(part), limits.instance_bytes)
            uid = text(raw.values.get("SeriesInstanceUID"))
        except RefusedInput:
            uid = ""
        series.setdefault(uid, []).append(part)
    volumes: list[CTVolume] = []
    rejected: Counter[str] = Counter()
    for instances in series.values():
        with VolumeAssembler(len(instances), limits) as assembler:
            for part in instances:
                assembler.add(part)
            found = assembler.finish()
        volumes += found.volumes
        rejected.update(item.code for item in found.rejected)
    if not volumes:
        raise _unusable(rejected)
    return max(volumes, key=lambda volume: volume.voxels.size)


def _unusable(rejected: Counter[str]) -> RefusedInput:
    code = rejected.most_common(1)[0][0] if rejected else "no-slices"
    return RefusedInput(f"{sum(rejected.values())} unusable instances", code=code)


def _phantom(given: PhantomInput) -> Iterator[bytes]:
    from fhir_ext.phantom import PhantomSpec, build, write_series

    phantom = build(PhantomSpec(emphysema_fraction=given.emphysema_fraction))
    for instance in write_series(phantom, given.kernel):
        yield _encoded(instance)


def _encoded(instance: Dataset) -> bytes:
    out = io.BytesIO()
    instance.save_as(out, enforce_file_format=True)
    return out.getvalue()
