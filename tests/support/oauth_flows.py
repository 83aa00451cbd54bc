"""A running development issuer, and what apps do to get tokens from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from serving import serving

from fhir_ext.embedded.process import free_port
from fhir_ext.issuer.flows import FlowRefused, backend_token, begin_launch, login, refresh
from fhir_ext.issuer.flows import register_backend as register_backend
from fhir_ext.issuer.routes import create_issuer_app
from fhir_ext.settings import IssuerSettings

__all__ = [
    "FlowRefused",
    "backend_token",
    "begin_launch",
    "login",
    "refresh",
    "register_backend",
    "running_issuer",
]


@contextmanager
def running_issuer(**settings: object) -> Iterator[str]:
    """A real issuer on a free loopback port; gives its URL, which is its `iss`."""
    port = int(str(settings.pop("port", 0))) or free_port()
    url = f"http://127.0.0.1:{port}"
    app = create_issuer_app(IssuerSettings(port=port, public_url=url, **settings))
    with serving(app, port):
        yield url
