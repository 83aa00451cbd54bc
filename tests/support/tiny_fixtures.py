"""Where tests of the runtimes find their network class."""

from __future__ import annotations

import sys
import types

import pytest
from tiny_networks import TinyNet


def put_tiny_net(patch: pytest.MonkeyPatch) -> None:
    """Make `models.tiny_test:TinyNet` importable in this process."""
    module = types.ModuleType("models.tiny_test")
    module.__dict__["TinyNet"] = TinyNet
    patch.setitem(sys.modules, "models.tiny_test", module)
