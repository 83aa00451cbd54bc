"""Unit tests have no network: they may connect to nothing but this machine."""

from __future__ import annotations

import pytest
from pytest_socket import _remove_restrictions, socket_allow_hosts


@pytest.fixture(autouse=True)
def no_network():
    socket_allow_hosts(["127.0.0.1", "::1"], allow_unix_socket=True)
    yield
    _remove_restrictions()
