"""What makes an output of a manifest out of the answers of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from models.network.layout import Shape
from models.runtime.base import Array
from models.said import Said


class Collector(Protocol):
    """Makes one output of the answers for all patches of one volume."""

    def add(self, start: Shape, item: Mapping[str, Array]) -> None:
        """The answer for the patch that begins at `start`: tensor name to one item.

        Raises:
            ModelFailure: it cannot be this output.
        """

    def finish(self, said: Said) -> None:
        """Say what all answers together mean."""
