"""Instances in any order to contiguous volumes, with the memory of the volume and little more.

Pixels are converted as they arrive, straight into one array per matrix size. When the last
one is in, the slices are put in order in place and each stack becomes a view.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import RawDataElement

from fhir_ext.dicom.decode import (
    NATIVE,
    check_pixels,
    decode_frame,
    encapsulated_frames,
    native_frame,
    to_hounsfield,
)
from fhir_ext.dicom.geometry import Place, Slot, Stack, find_stacks, height, measure
from fhir_ext.dicom.headers import take_apart
from fhir_ext.dicom.instances import Frame, Instance, PixelFormat, Rescale, evidence_dataset
from fhir_ext.dicom.reader import InstanceReader
from fhir_ext.dicom.volume import (
    Acquisition,
    CTVolume,
    GeometryIssue,
    RejectedInstance,
    SeriesVolumes,
)
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings

#: Decoders that run at once; the codecs release the GIL, more threads than cores do not help.
_DECODERS = min(4, os.cpu_count() or 1)
#: Frames that wait for a decoder, in compressed form.
_WAITING_FRAMES = 4 * _DECODERS


@dataclass(frozen=True, slots=True)
class _Source:
    """What is kept of an instance once its pixels are converted."""

    study_instance_uid: str
    series_instance_uid: str
    details: Acquisition
    evidence: dict[str, bytes]
    implicit: bool


@dataclass(slots=True)
class _Pool:
    """Slices of one matrix size.

    `array[first:last]` holds one slice per entry of `slots`, in order of arrival: upwards,
    or downwards when the series arrives from its far end, so that the usual series is
    already in order when the last slice is in.
    """

    array: npt.NDArray[np.int16]
    first: int = 0
    last: int = 0
    downwards: bool = False
    slots: deque[Slot] = field(default_factory=deque)

    def take(self, slot: Slot) -> npt.NDArray[np.int16]:
        """Room for one slice (rows, columns)."""
        if self.downwards:
            self.first -= 1
            self.slots.appendleft(slot)
            return self._slice(self.first)
        self.last += 1
        self.slots.append(slot)
        return self._slice(self.last - 1)

    def _slice(self, index: int) -> npt.NDArray[np.int16]:
        return self.array[index, :, :]

    def turn(self) -> None:
        """Go downwards from the end from now on."""
        used, size = self.last, len(self.array)
        self.array[size - used :] = self.array[:used].copy()
        self.first, self.last, self.downwards = size - used, size, True

    @property
    def full(self) -> bool:
        return self.first == 0 if self.downwards else self.last == len(self.array)


class VolumeAssembler:
    """Builds the volumes of one series from its instances.

    A bad instance is rejected with a code and spoils nothing else; only a series that as a
    whole is over the limits raises.

    Args:
        expected_instances: how many instances will come, from QIDO; memory is set aside for
            that many slices but only used by those that come. May be wrong.
        limits: what may come in.
        study_instance_uid, series_instance_uid: instances of another one are rejected;
            None accepts any.
    """

    def __init__(
        self,
        expected_instances: int,
        limits: LimitSettings,
        *,
        study_instance_uid: str | None = None,
        series_instance_uid: str | None = None,
    ) -> None:
        self._expected = expected_instances
        self._limits = limits
        self._asked = (study_instance_uid, series_instance_uid)
        self._reader = InstanceReader(limits)
        self._pools: dict[tuple[int, int], _Pool] = {}
        self._sources: dict[str, _Source] = {}
        self._rejected: list[RejectedInstance] = []
        self._parts = 0
        self._slices = 0
        self._bytes = 0
        self._executor: ThreadPoolExecutor | None = None
        self._waiting: deque[tuple[str, Future[None]]] = deque()
        self._corrupt: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the decoders; what waits for them is dropped."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def add(self, part: memoryview | bytes) -> None:
        """Take one PS3.10 instance; `part` may be overwritten afterwards.

        Raises:
            RefusedInput: `too-large`: the series is over the limits.
        """
        self._parts += 1
        if self._parts > self._limits.frames:
            raise RefusedInput("a series has more instances than allowed", code="too-large")
        uid = ""
        try:
            raw = take_apart(memoryview(part), self._limits.instance_bytes)
            uid = raw.values.get("SOPInstanceUID", b"").decode("latin-1").strip(" \0")
            instance = self._reader.read(raw)
            self._check_identity(instance)
            check_pixels(instance)
            encoded = self._encoded_frames(instance)
        except RefusedInput as refused:
            self._rejected.append(RejectedInstance(uid, refused.code))
            return
        self._reserve(instance)
        self._sources[uid] = _Source(
            instance.study_instance_uid,
            instance.series_instance_uid,
            instance.details,
            instance.evidence,
            instance.implicit,
        )
        pool = self._pool(instance)
        for index, frame in enumerate(instance.frames):
            out = pool.take(
                Slot(frame, instance.format.rows, instance.format.columns, (uid, index))
            )
            if encoded is None:
                samples = native_frame(instance.pixels, instance.format, index)
                try:
                    to_hounsfield(samples, instance.format, frame.rescale, out)
                except RefusedInput as refused:
                    self._corrupt.setdefault(uid, refused.code)
            else:
                self._decode_later(uid, encoded[index], instance.format, frame.rescale, out)

    def finish(self) -> SeriesVolumes:
        """Order what came into volumes; the assembler is used up afterwards.

        Raises:
            RefusedInput: `no-slices`: nothing came.
        """
        if not self._parts:
            raise RefusedInput("a series has no instances", code="no-slices")
        self._drain()
        self.close()
        if "unsupported-pixels" in self._corrupt.values():
            # A series without its hottest slices would be believed.
            self._corrupt = dict.fromkeys(self._sources, "unsupported-pixels")
        volumes: list[CTVolume] = []
        shared: dict[tuple[str, bytes], RawDataElement] = {}
        for pool in self._pools.values():
            volumes += self._volumes_of(pool, shared)
        self._pools.clear()
        for uid, code in self._corrupt.items():
            self._rejected.append(RejectedInstance(uid, code))
        volumes.sort(key=lambda volume: (-volume.voxels.size, volume.sop_instance_uids[0]))
        return SeriesVolumes(tuple(volumes), tuple(self._rejected))

    def _check_identity(self, instance: Instance) -> None:
        found = (instance.study_instance_uid, instance.series_instance_uid)
        if any(asked not in (None, got) for asked, got in zip(self._asked, found, strict=True)):
            raise RefusedInput("an instance of another series", code="wrong-study")
        if not instance.sop_instance_uid:
            raise RefusedInput("an instance without identity", code="not-dicom")
        if instance.sop_instance_uid in self._sources:
            raise RefusedInput("an instance came twice", code="duplicate")

    @staticmethod
    def _encoded_frames(instance: Instance) -> list[bytes] | None:
        if instance.format.transfer_syntax_uid in NATIVE:
            return None
        return list(encapsulated_frames(instance.pixels, instance.format))

    def _reserve(self, instance: Instance) -> None:
        """Count the slices against the limits of the series."""
        stored = instance.format
        self._slices += stored.frames
        self._bytes += 2 * stored.rows * stored.columns * stored.frames
        if self._slices > self._limits.frames or self._bytes > self._limits.volume_bytes:
            raise RefusedInput("a series is over the limits", code="too-large")

    def _pool(self, instance: Instance) -> _Pool:
        """The pool with room for the instance's frames."""
        stored = instance.format
        shape = (stored.rows, stored.columns)
        pool = self._pools.get(shape)
        if pool is None:
            expected = self._expected - self._parts + stored.frames
            pool = self._pools[shape] = _Pool(self._allocate(shape, stored.frames, expected))
        elif stored.frames > 1 or pool.full:
            self._grow(pool, shape, stored.frames)
        elif len(pool.slots) == 1 and stored.transfer_syntax_uid in NATIVE and not self._waiting:
            (only,) = pool.slots
            if height(instance.frames[0]) < height(only.frame):
                pool.turn()
        return pool

    def _allocate(self, shape: tuple[int, int], needed: int, wished: int) -> npt.NDArray[np.int16]:
        """Room for at least `needed` slices; untouched memory costs nothing."""
        rows, columns = shape
        allowed = (self._limits.volume_bytes - self._bytes) // (2 * rows * columns) + needed
        try:
            return np.empty((max(needed, min(wished, allowed)), rows, columns), np.int16)
        except MemoryError as error:
            raise RefusedInput("a series does not fit into memory", code="too-large") from error

    def _grow(self, pool: _Pool, shape: tuple[int, int], more: int) -> None:
        """Make room for more slices than expected; costs a copy, and is rare."""
        free = pool.first if pool.downwards else len(pool.array) - pool.last
        if free >= more:
            return
        self._drain()
        used = pool.array[pool.first : pool.last]
        grown = self._allocate(shape, len(used) + more, 2 * (len(used) + more))
        if pool.downwards:
            pool.first, pool.last = len(grown) - len(used), len(grown)
        grown[pool.first : pool.last] = used
        pool.array = grown

    def _decode_later(
        self,
        uid: str,
        frame: bytes,
        stored: PixelFormat,
        rescale: Rescale,
        out: npt.NDArray[np.int16],
    ) -> None:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(_DECODERS, "dicom-decode")
        while len(self._waiting) >= _WAITING_FRAMES:
            self._settle()
        self._waiting.append((uid, self._executor.submit(_decode, frame, stored, rescale, out)))

    def _settle(self) -> None:
        """Wait for the oldest frame."""
        uid, future = self._waiting.popleft()
        try:
            future.result()
        except RefusedInput as refused:
            self._corrupt.setdefault(uid, refused.code)

    def _drain(self) -> None:
        while self._waiting:
            self._settle()

    def _volumes_of(
        self, pool: _Pool, shared: dict[tuple[str, bytes], RawDataElement]
    ) -> list[CTVolume]:
        slots = list(pool.slots)
        slices = pool.array[pool.first : pool.last]
        good = [i for i, slot in enumerate(slots) if slot.identity[0] not in self._corrupt]
        if not good:
            return []
        stacks: list[tuple[list[int], list[GeometryIssue]]] = []
        for stack in find_stacks([slots[i] for i in good]):
            places = tuple(tuple(good[i] for i in place) for place in stack)
            stacks.append(self._without_duplicates(places, slots, slices))
        kept = [index for order, _ in stacks for index in order]
        rest = sorted(set(range(len(slots))) - set(kept))
        permute(slices, [*kept, *rest])
        volumes, start = [], 0
        for order, issues in stacks:
            voxels = slices[start : start + len(order)]
            start += len(order)
            volumes.append(self._volume(voxels, slots, order, issues, shared))
        return volumes

    def _without_duplicates(
        self, stack: Stack, slots: Sequence[Slot], slices: npt.NDArray[np.int16]
    ) -> tuple[list[int], list[GeometryIssue]]:
        """One slice per place; equal ones are dropped, differing ones are an issue."""
        order: list[int] = []
        differing = 0
        for place in stack:
            differing += self._reject_others(place, slots, slices)
            order.append(place[0])
        if not differing:
            return order, []
        return order, [GeometryIssue("duplicate-slices", f"{differing} places")]

    def _reject_others(
        self, place: Place, slots: Sequence[Slot], slices: npt.NDArray[np.int16]
    ) -> bool:
        kept, *others = place
        differing = False
        for other in others:
            same = np.array_equal(slices[kept], slices[other])
            differing |= not same
            code = "duplicate" if same else "duplicate-slices"
            self._rejected.append(RejectedInstance(slots[other].identity[0], code))
        return differing

    def _volume(
        self,
        voxels: npt.NDArray[np.int16],
        slots: Sequence[Slot],
        order: Sequence[int],
        issues: Sequence[GeometryIssue],
        shared: dict[tuple[str, bytes], RawDataElement],
    ) -> CTVolume:
        geometry, oddities = measure(slots, order)
        uids = tuple(slots[index].identity[0] for index in order)
        source = self._sources[uids[0]]
        evidence = tuple(
            evidence_dataset(self._sources[uid].evidence, self._sources[uid].implicit, shared)
            for uid in dict.fromkeys(uids)
        )
        return CTVolume(
            voxels=voxels,
            geometry=geometry,
            acquisition=self._acquired(slots[order[0]].frame, uids),
            study_instance_uid=source.study_instance_uid,
            series_instance_uid=source.series_instance_uid,
            sop_instance_uids=uids,
            issues=(*issues, *oddities),
            evidence=evidence,
        )

    def _acquired(self, frame: Frame, uids: Sequence[str]) -> Acquisition:
        """Header values of a stack: of its own frames; a contrast agent that any slice names."""
        details = self._sources[uids[0]].details
        kernel, thickness, kvp = frame.reconstruction
        if round(details.slice_thickness_mm or 0.0, 2) != thickness:
            details = replace(details, slice_thickness_mm=thickness or None)
        agents = (self._sources[uid].details.contrast_agent for uid in uids)
        return replace(
            details,
            convolution_kernel=kernel or None,
            kvp=kvp,
            contrast_agent=next(filter(None, agents), None),
        )


def _decode(
    frame: bytes, stored: PixelFormat, rescale: Rescale, out: npt.NDArray[np.int16]
) -> None:
    to_hounsfield(decode_frame(frame, stored), stored, rescale, out)


def permute(slices: npt.NDArray[np.int16], order: Sequence[int]) -> None:
    """Put slices in order in place: afterwards `slices[i]` is what `slices[order[i]]` was.

    Follows the cycles of the permutation with one slice of extra memory.

    Args:
        slices: (slices, rows, columns).
        order: a permutation of the indices of `slices`.
    """
    left = list(order)
    for start in range(len(left)):
        if left[start] == start:
            continue
        spare = slices[start].copy()
        target = start
        while left[target] != start:
            source = left[target]
            slices[target] = slices[source]
            left[target] = target
            target = source
        slices[target] = spare
        left[target] = target
