"""What a worker lends to its models: devices, loaded networks, batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fhir_ext.errors import SettingsError
from models.manifest.model import Manifest
from models.manifest.runtimes import NetworkRuntime
from models.runtime.base import Array, Arrays
from models.runtime.cache import SessionCache
from models.runtime.device import Device, DevicePool, devices
from models.runtime.opening import memory_needed, open_session
from models.runtime.operators import operators_device
from models.runtime.options import Options

if TYPE_CHECKING:
    import torch

#: Bytes of networks that one device may hold when nobody says otherwise.
MEMORY_BYTES = 4_000_000_000


@dataclass(frozen=True, slots=True)
class HostOptions:
    """What the installation decides.

    Attributes:
        device: see `models.runtime.device.devices`.
        memory_bytes: most that all networks of one device may hold.
        options: passed to every session; its device is set here.
    """

    device: str | None = None
    memory_bytes: int = MEMORY_BYTES
    options: Options = field(default_factory=Options)


class Host:
    """Runs the networks of all services of one process; safe between threads.

    Nothing is imported or loaded before it is needed.
    """

    def __init__(self, options: HostOptions | None = None) -> None:
        self._options = options or HostOptions()
        self._devices: tuple[Device, ...] | None = None
        self._pool: DevicePool | None = None
        self._cache: SessionCache | None = None

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
        runtime = manifest.runtime
        if not isinstance(runtime, NetworkRuntime):
            raise SettingsError(f"{manifest.id} has no network")
        pool, cache = self._places()
        identity = manifest.identity()
        key = f"{identity.id}/{identity.version}/{identity.settings_hash}"
        with pool.use() as device:
            options = replace(
                self._options.options, device=device, max_batch=manifest.batching.max_size
            )
            needed = memory_needed(runtime, folder)
            with cache.use(
                key, device, needed, lambda: open_session(runtime, folder, options)
            ) as session:
                return session.run(batch)

    def close(self) -> None:
        """Close every network."""
        if self._cache is not None:
            self._cache.close()

    def _places(self) -> tuple[DevicePool, SessionCache]:
        if self._pool is None or self._cache is None:
            found = devices(self._options.device)
            limits: Mapping[Device, int] = dict.fromkeys(found, self._options.memory_bytes)
            self._pool, self._cache = DevicePool(found), SessionCache(limits)
        return self._pool, self._cache
