"""What a worker lends to its models: devices, loaded networks, batches over studies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

from fhir_ext.errors import SettingsError
from models.manifest.model import Manifest
from models.manifest.runtimes import KServeRuntime, NetworkRuntime
from models.runtime.base import Array, Arrays, ModelFailure
from models.runtime.batcher import Batcher, Counts
from models.runtime.cache import SessionCache
from models.runtime.calls import Call, items_of, joined
from models.runtime.device import Device, DevicePool, devices
from models.runtime.lane import BatchRan, Lane
from models.runtime.opening import memory_needed, open_session
from models.runtime.operators import operators_device
from models.runtime.options import Options

if TYPE_CHECKING:
    import torch

    from fhir_ext.settings import Settings

#: Bytes of networks that one device may hold when nobody says otherwise.
MEMORY_BYTES = 4_000_000_000


@dataclass(frozen=True, slots=True)
class HostOptions:
    """What the installation decides.

    Attributes:
        device: see `models.runtime.device.devices`.
        memory_bytes: most that all networks of one device may hold.
        options: passed to every session; its device is set here.
        observe: told of every batch, from the thread of its device; must be quick.
    """

    device: str | None = None
    memory_bytes: int = MEMORY_BYTES
    options: Options = field(default_factory=Options)
    observe: Callable[[BatchRan], None] = lambda ran: None


class Pending:
    """Outputs that are on their way."""

    def __init__(self, calls: Sequence[tuple[Lane, Call]]) -> None:
        self._calls = tuple(calls)

    def result(self) -> dict[str, Array]:
        """All outputs in the order of the items; waits for them.

        Raises:
            ModelFailure, UpstreamError: see `Session.run`.
        """
        return joined([call.wait(lane.watch) for lane, call in self._calls])


class Host:
    """Runs the networks of all services of one process; safe between threads.

    Items of different studies share batches. Each device has one thread, which runs them one
    after another; a network in a process of its own and one of a model server have a thread
    of their own, so that others do not wait for one that hangs.

    Nothing is imported or loaded before it is needed.
    """

    def __init__(self, options: HostOptions | None = None) -> None:
        self._options = options or HostOptions()
        self._lock = threading.Lock()
        self._found: tuple[Device, ...] = ()
        self._pool: DevicePool | None = None
        self._cache: SessionCache | None = None
        self._lanes: dict[str, Lane] = {}
        self._batchers: dict[tuple[str, str], Batcher] = {}
        self._closed = False

    @classmethod
    def from_settings(
        cls, settings: Settings, observe: Callable[[BatchRan], None] = lambda ran: None
    ) -> Self:
        """The host of one installation.

        Args:
            observe: see `HostOptions`.
        """
        models, options = settings.models, Options.from_settings(settings)
        return cls(HostOptions(models.device, models.memory_bytes, options, observe))

    def operators_device(self) -> torch.device:
        """The device for a service whose model is code; see `operators.operators_device`."""
        return operators_device(self._options.device)

    def run(
        self,
        manifest: Manifest,
        folder: Path,
        batch: Arrays,
        *,
        study: str = "",
        urgent: bool = False,
    ) -> dict[str, Array]:
        """Outputs of a version's network for any number of items, in their order.

        Args:
            manifest: whose `runtime` is a network.
            folder: of the manifest.
            batch: tensor name to array; the first axis counts the items.
            study: what tells studies apart for fairness between them.
            urgent: goes before what is not.

        Raises:
            SettingsError: the manifest's runtime is no network.
            ModelFailure, UpstreamError: see `Session.run`.
        """
        return self.submit(manifest, folder, batch, study=study, urgent=urgent).result()

    def submit(
        self,
        manifest: Manifest,
        folder: Path,
        batch: Arrays,
        *,
        study: str = "",
        urgent: bool = False,
    ) -> Pending:
        """Like `run`, without waiting for the outputs: to prepare further items meanwhile.

        The network is loaded here when it is not loaded yet. The arrays must not be changed
        until the outputs are there.

        Raises:
            SettingsError: the manifest's runtime is no network.
            ModelFailure, UpstreamError: it cannot be loaded.
        """
        runtime = manifest.runtime
        if not isinstance(runtime, NetworkRuntime):
            raise SettingsError(f"{manifest.id} has no network")
        found, _, _ = self._places()
        items, size = items_of(batch), runtime.fixed_batch or manifest.batching.max_size
        # A large call keeps several devices busy.
        pieces = 1 if isinstance(runtime, KServeRuntime) else min(len(found), -(-items // size))
        cuts = [items * piece // pieces for piece in range(pieces + 1)]
        calls = []
        for start, stop in pairwise(cuts):
            piece = {name: array[start:stop] for name, array in batch.items()}
            calls.append(self._submit(manifest, runtime, folder, piece, study, urgent))
        return Pending(calls)

    def statistics(self) -> dict[tuple[str, str, str], Counts]:
        """What ran so far, by service, version and device."""
        with self._lock:
            batchers = list(self._batchers.values())
        found: dict[tuple[str, str, str], Counts] = {}
        for item in batchers:
            counts = found.setdefault((item.service, item.version, item.device), Counts())
            counts.add(item.counts)
        return found

    def busy_seconds(self) -> float:
        """Seconds that all devices together have spent in networks."""
        return sum(counts.busy_seconds for counts in self.statistics().values())

    def close(self) -> None:
        """End the threads after their present batches, and close every network."""
        with self._lock:
            self._closed = True
            lanes = list(self._lanes.values())
        for lane in lanes:
            lane.close()
        if self._cache is not None:
            self._cache.close()

    def _submit(
        self,
        manifest: Manifest,
        runtime: NetworkRuntime,
        folder: Path,
        arrays: Arrays,
        study: str,
        urgent: bool,
    ) -> tuple[Lane, Call]:
        found, pool, cache = self._places()
        identity = manifest.identity()
        key = f"{identity.id}/{identity.version}/{identity.settings_hash}"
        with ExitStack() as attempt:
            # What the call holds until its outputs are there, whoever waits for them.
            held = attempt.enter_context(ExitStack())
            device = found[0]
            if not isinstance(runtime, KServeRuntime):
                device = held.enter_context(pool.use(items_of(arrays)))
            options = replace(
                self._options.options, device=device, max_batch=manifest.batching.max_size
            )
            session = held.enter_context(
                cache.use(
                    key,
                    device,
                    memory_needed(runtime, folder),
                    lambda: open_session(runtime, folder, options),
                )
            )
            lane, batcher = self._queue(manifest, runtime, device, key)
            call = Call(session, arrays, study, urgent, held.close)
            lane.submit(batcher, call)
            attempt.pop_all()
        return lane, call

    def _queue(
        self, manifest: Manifest, runtime: NetworkRuntime, device: Device, key: str
    ) -> tuple[Lane, Batcher]:
        """The thread and the queue of a network on a device."""
        remote = isinstance(runtime, KServeRuntime)
        here = not remote and not runtime.isolate
        shown = "remote" if remote else str(device)
        name = shown if here else f"{shown} {key}"
        with self._lock:
            if self._closed:
                raise ModelFailure("model-failed", "the worker ends")
            if name not in self._lanes:
                self._lanes[name] = Lane(f"device {name}", self._options.observe)
            if (name, key) not in self._batchers:
                self._batchers[name, key] = Batcher(
                    manifest.id,
                    manifest.version,
                    shown,
                    size=runtime.fixed_batch or manifest.batching.max_size,
                    wait_s=manifest.batching.max_wait_ms / 1000,
                    deadline_s=runtime.deadline_s if here else None,
                    shared=_shared(runtime),
                )
            return self._lanes[name], self._batchers[name, key]

    def _places(self) -> tuple[tuple[Device, ...], DevicePool, SessionCache]:
        """The devices, how busy they are, and what is loaded on them."""
        with self._lock:
            if self._pool is None or self._cache is None:
                self._found = devices(self._options.device)
                limits = dict.fromkeys(self._found, self._options.memory_bytes)
                self._pool, self._cache = DevicePool(self._found), SessionCache(limits)
            return self._found, self._pool, self._cache


def _shared(runtime: NetworkRuntime) -> bool:
    """Whether outputs have the same shape whichever other items are in the batch.

    A length that is `*` may follow from what is seen; a name promises that it does not.
    """
    return all("*" not in tensor.shape for tensor in runtime.outputs)
