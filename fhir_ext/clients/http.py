"""One pooled `requests` session per server we call, with its authentication."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth
from urllib3.util.retry import Retry

from fhir_ext.errors import ForbiddenError, UpstreamUnavailable
from fhir_ext.settings import HttpAuth

#: A token is renewed this long (s) before it expires.
TOKEN_MARGIN = 30.0


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
        request.headers["Authorization"] = f"Bearer {self._current()}"
        request.register_hook("response", self._again_on_401)  # type: ignore[no-untyped-call]
        return request

    def _current(self) -> str:
        with self._lock:
            if time.monotonic() >= self._expires:
                self._fetch()
            return self._token

    def _fetch(self) -> None:
        assert self._auth.password is not None and self._auth.token_url is not None
        form = {"grant_type": "client_credentials"}
        if self._auth.scope:
            form["scope"] = self._auth.scope
        try:
            response = requests.post(
                self._auth.token_url,
                data=form,
                auth=(str(self._auth.username), self._auth.password.get_secret_value()),
                timeout=self._timeout,
                verify=str(self._auth.ca_bundle) if self._auth.ca_bundle else True,
            )
        except requests.RequestException as error:
            raise UpstreamUnavailable("the token endpoint cannot be reached") from error
        if response.status_code >= 500:
            raise UpstreamUnavailable(f"the token endpoint answered {response.status_code}")
        if response.status_code != 200:
            raise ForbiddenError("the token endpoint refused our client", code="token-refused")
        answer = response.json()
        self._token = str(answer["access_token"])
        lifetime = float(answer.get("expires_in", 300))
        self._expires = time.monotonic() + max(0.0, lifetime - TOKEN_MARGIN)

    def _again_on_401(self, response: requests.Response, **kwargs: Any) -> requests.Response:
        """A token may be revoked before it expires: fetch a new one, once per request."""
        request = response.request
        if response.status_code != 401 or getattr(request, "_retried", False):
            return response
        with self._lock:
            self._expires = 0.0
        response.content  # noqa: B018  drains the connection so that it can be used again
        request.headers["Authorization"] = f"Bearer {self._current()}"
        request._retried = True  # type: ignore[attr-defined]
        retried = response.connection.send(request, **kwargs)
        retried.history.append(response)
        return retried


def build_session(auth: HttpAuth, timeout: timedelta) -> requests.Session:
    """A session for one server: pooled, authenticated, quick to try again.

    Orthanc closes idle connections after a second, so a request can meet a closed one;
    idempotent requests are then sent once more. Answers are never retried here.

    Args:
        auth: credentials and certificates.
        timeout: for the token endpoint; requests carry their own.
    """
    session = requests.Session()
    retry = Retry(
        total=1,
        connect=0,
        read=1,
        status=0,
        other=0,
        allowed_methods=frozenset({"GET", "HEAD", "PUT", "DELETE"}),
    )
    adapter = HTTPAdapter(pool_connections=4, pool_maxsize=16, max_retries=retry)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    # Proxies and netrc of the environment must not redirect patient data.
    session.trust_env = False
    if auth.kind == "basic" and auth.password is not None:
        session.auth = HTTPBasicAuth(str(auth.username), auth.password.get_secret_value())
    elif auth.kind == "bearer" and auth.token is not None:
        session.auth = _BearerAuth(auth.token.get_secret_value())
    elif auth.kind == "oauth2":
        session.auth = _ClientCredentialsAuth(auth, timeout.total_seconds())
    if auth.client_certificate is not None:
        key = auth.client_key or auth.client_certificate
        session.cert = (str(auth.client_certificate), str(key))
    if auth.ca_bundle is not None:
        session.verify = str(auth.ca_bundle)
    return session
