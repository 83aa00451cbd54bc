"""One guard for every address that somebody else named: JWKS, introspection, subscribers."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

import orjson
import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)
from urllib3.util import parse_url

from fhir_ext.clients.http import build_session, transport_errors
from fhir_ext.errors import ForbiddenError, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from fhir_ext.settings import HttpAuth, OutgoingSettings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Networks of an organization: RFC 1918, RFC 6598, RFC 4193, and loopback.
_PRIVATE: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "fc00::/7",
        "::1/128",
    )
)
#: All public IPv6 addresses (RFC 4291 section 2.4).
_GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")
#: IPv6 that carries an IPv4 address: 6to4 (RFC 3056); NAT64 (RFC 6052).
_SIX_TO_FOUR: Final = ipaddress.IPv6Network("2002::/16")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")

#: What `inet_aton` takes for an address although it is not in the usual form: `2130706433`,
#: `0x7f.1`, `127.1` (the host ends in a number, WHATWG URL section 3.5).
_NUMERIC_HOST: Final = re.compile(r"(?:.*\.)?(?:0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)
#: Readers of URLs disagree about these.
_AMBIGUOUS: Final = re.compile(r"[\x00-\x20\x7f\\]")
_AUTHORITY_END: Final = re.compile(r"[/?#]")

#: Addresses of one name that are tried; each may cost a whole timeout.
_TRIED_ADDRESSES = 4
_CHUNK_BYTES = 65_536

#: Largest answer that is read, and the longest time for all of it.
MAX_BYTES: Final = 1_000_000
MAX_DURATION: Final = timedelta(seconds=20)


class RefusedAddress(ForbiddenError):
    """An address that this installation does not call."""

    default_code = "outgoing-address"


class OutgoingGuard:
    """Decides which addresses may be called, and makes sessions that call no others.

    `check` looks at the URL. A session looks at each URL again, and at the addresses that
    its host name has at the moment of connecting, so that a name which changes its address
    gains nothing. It connects to exactly the addresses that were looked at.
    """

    def __init__(self, settings: OutgoingSettings) -> None:
        self._settings = settings
        self._hosts = frozenset(host.lower().rstrip(".") for host in settings.hosts)
        self._pools = _pool_classes(self)

    @property
    def names_hosts(self) -> bool:
        """Whether the installation lists the hosts that may be called."""
        return bool(self._hosts)

    def check(self, url: str) -> None:
        """Refuse a URL that may not be called; host names are not resolved.

        Raises:
            RefusedAddress: not https (unless `plain_http`), credentials in it, a host that
                is not allowed, or an address that is not public (unless `private_networks`).
        """
        try:
            parts = parse_url(url)
        except LocationParseError as error:
            raise RefusedAddress("the address is no URL") from error
        if _AMBIGUOUS.search(url) or not parts.host:
            raise RefusedAddress("the address is no URL")
        if parts.scheme != "https" and not (parts.scheme == "http" and self._settings.plain_http):
            raise RefusedAddress("the address must begin with https")
        # An empty user is none for urllib3.
        if parts.auth is not None or "@" in _AUTHORITY_END.split(url.partition("//")[2])[0]:
            raise RefusedAddress("the address must not hold credentials")
        self._check_host(parts.host)

    def _check_host(self, name: str) -> None:
        host = name.lower().strip("[]").rstrip(".")
        if self._hosts and host not in self._hosts:
            raise RefusedAddress("the host is not among outgoing.hosts")
        try:
            address = ipaddress.ip_address(host)
        except ValueError as error:
            if _NUMERIC_HOST.fullmatch(host) or "%" in host or ":" in host:
                raise RefusedAddress("the host is an address in an unusual form") from error
            if host == "localhost" or host.endswith(".localhost"):
                self._check_address(ipaddress.IPv4Address("127.0.0.1"))
        else:
            self._check_address(address)

    def _check_address(self, address: Address) -> None:
        if not self._allowed(address):
            raise RefusedAddress("the host is not in the public network")

    def _allowed(self, address: Address) -> bool:
        """Link-local (cloud metadata), multicast and reserved addresses never are."""
        if isinstance(address, ipaddress.IPv6Address):
            if address.ipv4_mapped is not None:
                return self._allowed(address.ipv4_mapped)
            if address in _NAT64:
                return self._allowed(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if any(address in network for network in _PRIVATE):
            return self._settings.private_networks
        if isinstance(address, ipaddress.IPv6Address) and (
            address not in _GLOBAL_V6 or address in _SIX_TO_FOUR
        ):
            return False
        return address.is_global and not address.is_multicast

    def dial(
        self, connection: HTTPConnection, connect: Callable[[], socket.socket]
    ) -> socket.socket:
        """Connect to an address of the connection's host, all of which must be allowed.

        Args:
            connection: whose `host` is a name or address.
            connect: opens a socket to the present value of `connection.host`.

        Raises:
            RefusedAddress: one of the addresses is not allowed.
        """
        name = connection.host
        self._check_host(name)
        try:
            found = socket.getaddrinfo(name.strip("[]"), connection.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            reason = error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
            raise NameResolutionError(name, connection, reason) from error
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        for address in addresses:
            self._check_address(ipaddress.ip_address(address))
        return _first_that_answers(connection, name, addresses[:_TRIED_ADDRESSES], connect)

    def session(self, auth: HttpAuth, timeout: timedelta) -> requests.Session:
        """A session (`fhir_ext.clients.http.build_session`) that calls allowed addresses only.

        A redirect is an error. Read answers with `get_json` or `post_form_json`, which bound
        them; other requests must be made with `stream=True` and read with a bound. The
        `token_url` of `auth` is named by the operator and not looked at.

        Raises, while it is used, besides what `build_session` says:
            RefusedAddress: the address is not allowed.
            UpstreamUnavailable: the server redirects.
        """
        session = build_session(auth, timeout)
        adapter = session.get_adapter("https://")
        assert isinstance(adapter, HTTPAdapter)
        adapter.poolmanager.pool_classes_by_scheme = self._pools
        for prefix in ("http://", "https://"):
            session.mount(prefix, _GuardedAdapter(self, adapter))
        # The second try of `oauth2` does not pass the adapter above.
        session.max_redirects = 0
        return session


def _first_that_answers(
    connection: HTTPConnection,
    name: str,
    addresses: list[str],
    connect: Callable[[], socket.socket],
) -> socket.socket:
    refusal: HTTPError = NewConnectionError(connection, "the name has no address")
    for address in addresses:
        connection.host = address
        try:
            return connect()
        except (NewConnectionError, ConnectTimeoutError) as error:
            refusal = error
        finally:
            # TLS verifies the name.
            connection.host = name
    raise refusal


def _pool_classes(guard: OutgoingGuard) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools with connections that ask the guard before they connect."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return guard.dial(self, super()._new_conn)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return guard.dial(self, super()._new_conn)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


class _GuardedAdapter(BaseAdapter):
    """Looks at every URL before it is called, and at every answer for redirects."""

    def __init__(self, guard: OutgoingGuard, inner: HTTPAdapter) -> None:
        super().__init__()
        self._guard, self._inner = guard, inner

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        self._guard.check(str(request.url))
        response = self._inner.send(request, *args, **kwargs)
        if response.is_redirect:
            response.close()
            raise UpstreamUnavailable("the server redirects, which is not followed")
        return response

    def close(self) -> None:
        self._inner.close()


def get_json(
    session: requests.Session, url: str, *, server: str, max_bytes: int = MAX_BYTES
) -> dict[str, Any]:
    """The JSON object at a URL.

    Args:
        session: of `OutgoingGuard.session`.
        url: what to get.
        server: how an operator knows the other side.
        max_bytes: largest body, decompressed.

    Raises:
        RefusedAddress: the address is not allowed.
        UpstreamError: down, slow, not 200, too long, or no JSON object.
    """
    return _json(session, "GET", url, server, max_bytes, None)


def post_form_json(
    session: requests.Session,
    url: str,
    form: Mapping[str, str],
    *,
    server: str,
    max_bytes: int = MAX_BYTES,
) -> dict[str, Any]:
    """Like `get_json`, for the answer to a form."""
    return _json(session, "POST", url, server, max_bytes, form)


def _json(
    session: requests.Session,
    method: str,
    url: str,
    server: str,
    max_bytes: int,
    form: Mapping[str, str] | None,
) -> dict[str, Any]:
    until = time.monotonic() + MAX_DURATION.total_seconds()
    headers = {"Accept": "application/json"}
    with (
        transport_errors(server),
        session.request(method, url, data=form, headers=headers, stream=True) as response,
    ):
        if response.status_code != 200:
            raise UpstreamUnavailable(f"{server} answered {response.status_code}")
        body = read_bounded(response, server, max_bytes, until)
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UpstreamUnavailable(f"{server} did not answer with JSON") from error
    if not isinstance(found, dict):
        raise UpstreamUnavailable(f"{server} did not answer with a JSON object")
    return found


def read_bounded(response: requests.Response, server: str, max_bytes: int, until: float) -> bytes:
    """The body of an answer that was asked for with `stream=True`.

    Args:
        response: of a session of `OutgoingGuard.session`.
        server: how an operator knows the other side.
        max_bytes: largest body, decompressed.
        until: when a server that sends byte by byte is given up, by `time.monotonic`.

    Raises:
        UpstreamError: too long, too slow, or ended early.
    """
    body = bytearray()
    try:
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
            body += chunk
            if len(body) > max_bytes:
                raise UpstreamError(f"{server} answered more than is read")
            if time.monotonic() > until:
                raise UpstreamTimeout(f"{server} did not finish its answer in time")
    except ReadTimeoutError as error:
        raise UpstreamTimeout(f"{server} did not finish its answer in time") from error
    except HTTPError as error:
        raise UpstreamUnavailable(f"{server} did not finish its answer") from error
    return bytes(body)
