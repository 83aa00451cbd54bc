"""What the installation, not the manifest, decides about a session."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from fhir_ext.settings import HttpAuth, Settings
from models.runtime.device import CPU, Device
from models.runtime.weights import MAX_BYTES

if TYPE_CHECKING:
    from fhir_ext.outgoing import OutgoingGuard


@dataclass(frozen=True, slots=True)
class Options:
    """What the installation decides about a session.

    Attributes:
        device: where it runs.
        threads: threads of one call on the CPU; a library's own choice without it. torch
            has one number for the whole process and is left alone, but in an isolated one.
        max_batch: most items of one call.
        max_weights_bytes: largest sum of the sizes of a model's files.
        isolated_bytes: most memory of the process of an isolated network: its weights, what
            it calculates in, and what libraries hold (0.4 GB with torch).
        reference: the runtime that others are compared with, instead of the quickest.
        guard: decides which addresses may be called; without it, remote models are refused.
        auth: how we authenticate to a remote model server.
    """

    device: Device = CPU
    threads: int | None = None
    max_batch: int = 64
    max_weights_bytes: int = MAX_BYTES
    isolated_bytes: int = 8_000_000_000
    reference: bool = False
    guard: OutgoingGuard | None = field(default=None, repr=False)
    auth: HttpAuth = field(default_factory=HttpAuth, repr=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """What one installation allows every model."""
        from fhir_ext.outgoing import OutgoingGuard

        models = settings.models
        return cls(
            max_weights_bytes=models.weights_bytes,
            isolated_bytes=models.isolated_bytes,
            guard=OutgoingGuard(settings.outgoing),
            auth=models.remote_auth,
        )
