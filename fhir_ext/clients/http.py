"""One pooled `requests` session per server we call, with its authentication."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote_plus

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import ReadTimeoutError
from urllib3.response import BaseHTTPResponse
from urllib3.util.retry import Retry

from fhir_ext.errors import ForbiddenError, UpstreamTimeout, UpstreamUnavailable
from fhir_ext.settings import HttpAuth

#: A token is renewed this long (s) before it expires.
TOKEN_MARGIN = 30.0

#: Lifetime (s) of a token whose answer names none (RFC 6749 section 5.1 leaves it open).
TOKEN_LIFETIME = 300.0

#: Methods that may be sent twice (RFC 9110 section 9.2.2).
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})


@contextlib.contextmanager
def transport_errors(server: str) -> Iterator[None]:
    """Turns what `requests` raises in the block into errors of our tree.

    Args:
        server: how an operator knows the other side, for example "the archive".

    Raises:
        UpstreamTimeout: no answer in time.
        UpstreamUnavailable: refused, reset, or not speaking HTTP or JSON.
    """
    try:
        yield
    except requests.Timeout as error:
        raise UpstreamTimeout(f"{server} did not answer in time") from error
    except requests.JSONDecodeError as error:
        raise UpstreamUnavailable(f"{server} did not answer with JSON") from error
    except requests.RequestException as error:
        raise UpstreamUnavailable(f"{server} cannot be reached") from error


class _BearerAuth(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _ClientCredentialsAuth(AuthBase):
    """OAuth2 client credentials (RFC 6749 section 4.4); one token for all threads."""

    def __init__(self, auth: HttpAuth, timeout: float) -> None:
        self._auth, self._timeout = auth, timeout
        self._lock = threading.Lock()
        self._token, self._expires = "", 0.0

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.current()}"
        request.register_hook("response", self._again_on_401)  # type: ignore[no-untyped-call]
        return request

    def current(self, refused: str | None = None) -> str:
        """The token; a new one when it is about to expire or is the one that was refused."""
        with self._lock:
            if time.monotonic() >= self._expires or self._token == refused:
                self._fetch()
            return self._token

    def _fetch(self) -> None:
        assert self._auth.password is not None and self._auth.token_url is not None
        form = {"grant_type": "client_credentials"}
        if self._auth.scope:
            form["scope"] = self._auth.scope
        # RFC 6749 section 2.3.1: both are form-encoded before they go into Basic.
        client = HTTPBasicAuth(
            quote_plus(str(self._auth.username)),
            quote_plus(self._auth.password.get_secret_value()),
        )
        with transport_errors("the token endpoint"), requests.Session() as session:
            _secure(session, self._auth)
            response = session.post(
                self._auth.token_url, data=form, auth=client, timeout=self._timeout
            )
            if response.status_code >= 500:
                raise UpstreamUnavailable(f"the token endpoint answered {response.status_code}")
            if response.status_code != 200:
                raise ForbiddenError("the token endpoint refused our client", code="token-refused")
            answer = response.json()
        if not isinstance(answer, dict) or not isinstance(answer.get("access_token"), str):
            raise UpstreamUnavailable("the token endpoint did not answer with a token")
        lifetime = answer.get("expires_in")
        seconds = float(lifetime) if isinstance(lifetime, int | float) else TOKEN_LIFETIME
        self._token = answer["access_token"]
        # A token that lives shorter than the margin is used for half its life.
        self._expires = time.monotonic() + max(seconds - TOKEN_MARGIN, seconds / 2)

    def _again_on_401(self, response: requests.Response, **kwargs: Any) -> requests.Response:
        """A token may be revoked before it expires: fetch a new one, once per request."""
        first = response.request
        # A streamed body is used up.
        if response.status_code != 401 or not isinstance(first.body, str | bytes | None):
            return response
        response.content  # noqa: B018  drains the connection so that it can be used again
        again = first.copy()
        refused = str(first.headers["Authorization"]).removeprefix("Bearer ")
        again.headers["Authorization"] = f"Bearer {self.current(refused)}"
        # The adapter runs no hooks, so a second 401 is the answer.
        retried: requests.Response = response.connection.send(again, **kwargs)
        retried.history.append(response)
        retried.request = again
        return retried


class _OnDroppedConnection(Retry):
    """Sends an idempotent request once more when the kept connection turns out closed.

    Orthanc closes idle connections after a second. A server that is silent or refuses gets
    no second request: waiting twice as long helps nobody.
    """

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        if isinstance(error, ReadTimeoutError):
            raise error.with_traceback(_stacktrace)
        return super().increment(method, url, response, error, _pool, _stacktrace)


class _Adapter(HTTPAdapter):
    """Pooled; a request that names no timeout gets the server's."""

    def __init__(self, timeout: float) -> None:
        self._default_timeout = timeout
        retry = _OnDroppedConnection(
            total=1, connect=0, read=1, redirect=0, status=0, other=0, allowed_methods=IDEMPOTENT
        )
        super().__init__(pool_connections=4, pool_maxsize=16, max_retries=retry)

    def send(self, *args: Any, **kwargs: Any) -> requests.Response:
        if kwargs.get("timeout") is None:
            kwargs["timeout"] = self._default_timeout
        return super().send(*args, **kwargs)


def build_session(auth: HttpAuth, timeout: timedelta) -> requests.Session:
    """A session for one server: pooled, authenticated, safe to share between threads.

    An idempotent request that meets a connection which the server has closed is sent once
    more; a 401 under `oauth2` is tried once more with a new token. No other answer is
    retried. Proxies, netrc and CA bundles of the environment are not looked at, because
    they must not redirect patient data.

    Args:
        auth: credentials and certificates.
        timeout: longest silence of one answer, for requests that name no timeout of their
            own and for the token endpoint.

    Raises, while the session is used, besides what `requests` raises:
        ForbiddenError: the token endpoint refused our client.
        UpstreamError: the token endpoint is down or slow.
    """
    session = requests.Session()
    _secure(session, auth)
    adapter = _Adapter(timeout.total_seconds())
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    if auth.kind == "basic" and auth.password is not None:
        session.auth = HTTPBasicAuth(str(auth.username), auth.password.get_secret_value())
    elif auth.kind == "bearer" and auth.token is not None:
        session.auth = _BearerAuth(auth.token.get_secret_value())
    elif auth.kind == "oauth2":
        session.auth = _ClientCredentialsAuth(auth, timeout.total_seconds())
    return session


def authorization(auth: HttpAuth, timeout: timedelta) -> Callable[[], str | None]:
    """What gives the Authorization header for one server, for clients that are not `requests`.

    A call may block under `oauth2`, when a token is fetched, and then raises what
    `build_session` says.
    """
    prepared = requests.PreparedRequest()
    if auth.kind == "basic" and auth.password is not None:
        prepared.headers = requests.structures.CaseInsensitiveDict()
        HTTPBasicAuth(str(auth.username), auth.password.get_secret_value())(prepared)
        basic = prepared.headers["Authorization"]
        return lambda: basic
    if auth.kind == "bearer" and auth.token is not None:
        bearer = f"Bearer {auth.token.get_secret_value()}"
        return lambda: bearer
    if auth.kind == "oauth2":
        fetched = _ClientCredentialsAuth(auth, timeout.total_seconds())
        return lambda: f"Bearer {fetched.current()}"
    return lambda: None


def _secure(session: requests.Session, auth: HttpAuth) -> None:
    """mTLS and trust of `auth`, and nothing from the environment."""
    session.trust_env = False
    if auth.client_certificate is not None:
        key = auth.client_key or auth.client_certificate
        session.cert = (str(auth.client_certificate), str(key))
    if auth.ca_bundle is not None:
        session.verify = str(auth.ca_bundle)
