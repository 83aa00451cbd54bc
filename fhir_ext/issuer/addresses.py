"""Loopback addresses, and what counts as the same redirect URI or origin."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit


def is_loopback(host: str | None) -> bool:
    """Whether a host names a machine for itself only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def same_redirect(asked: str, registered: str) -> bool:
    """Exactly the same, except for the port of a loopback address (RFC 8252 section 7.3)."""
    if asked == registered:
        return True
    ours, theirs = _split(registered), _split(asked)
    if ours is None or theirs is None or not _any_port(ours):
        return False
    return theirs._replace(netloc="") == ours._replace(netloc="") and _host_only(theirs, ours)


def same_origin(origin: str, registered: str) -> bool:
    """Whether a browser's `Origin` is that of a redirect URI; any port on loopback."""
    ours, theirs = _split(registered), _split(origin)
    if ours is None or theirs is None or theirs.scheme != ours.scheme:
        return False
    if theirs._replace(scheme="", netloc="") != urlsplit(""):
        return False
    if _any_port(ours):
        return _host_only(theirs, ours)
    return theirs.netloc == ours.netloc


def origin_of(uri: str) -> str:
    """Origin of a redirect URI as a source in a Content-Security-Policy."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else f"{parts.scheme}:"


def _any_port(uri: SplitResult) -> bool:
    return uri.scheme == "http" and is_loopback(uri.hostname) and uri.port is None


def _host_only(asked: SplitResult, registered: SplitResult) -> bool:
    """Same host and nothing but a port beside it."""
    suffix = "" if asked.port is None else f":{asked.port}"
    return asked.netloc == registered.netloc + suffix


def _split(uri: str) -> SplitResult | None:
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        return None
    return parts


def hostname(host_header: str | None) -> str | None:
    """The name in a `Host` header, without its port and brackets."""
    parts = _split(f"//{host_header or ''}")
    return None if parts is None or "@" in parts.netloc else parts.hostname
