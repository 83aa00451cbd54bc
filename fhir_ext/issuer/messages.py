"""Requests and answers between the web framework and Authlib; plain values."""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from authlib.oauth2.base import invalid_error_characters  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749 import (  # type: ignore[import-untyped]
    InvalidRequestError,
    OAuth2Payload,
    OAuth2Request,
)

#: Parameters that Authlib repeats in its error texts; there only some characters may occur
#: (RFC 6749 section 4.1.2.1).
_REPEATED = ("client_id", "grant_type", "redirect_uri", "response_type")


class Payload(OAuth2Payload):  # type: ignore[misc]
    """Parameters of a request: the first of each name, and all of them."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._all: defaultdict[str, list[str]] = defaultdict(list)
        for name, value in pairs:
            self._all[name].append(value)
        self._first = {name: values[0] for name, values in self._all.items()}

    @property
    def data(self) -> dict[str, str]:
        return self._first

    @property
    def datalist(self) -> defaultdict[str, list[str]]:
        return self._all


class IssuerRequest(OAuth2Request):  # type: ignore[misc]
    """A request as Authlib reads it.

    Parameters come from the body of a POST, else from the query; never from both.

    Args:
        method: of HTTP.
        uri: as the issuer publishes it, with the query.
        headers: names in any case.
        body: `application/x-www-form-urlencoded` (UTF-8), or nothing.

    Raises:
        InvalidRequestError: a parameter occurs twice (RFC 6749 section 3.1 and 3.2), or has
            characters that none of its values can have.
    """

    def __init__(
        self, method: str, uri: str, headers: Mapping[str, str], body: bytes = b""
    ) -> None:
        usable = {name.title(): value for name, value in headers.items()}
        if not _decodable(usable.get("Authorization", "")):
            del usable["Authorization"]
        super().__init__(method, uri, headers=usable)
        text = body.decode(errors="replace") if method == "POST" else uri.partition("?")[2]
        self.payload = Payload(parse_qsl(text, keep_blank_values=True))
        for name, values in self.payload.datalist.items():
            if len(values) > 1:
                raise InvalidRequestError("A parameter occurs twice.")
            if name in _REPEATED and invalid_error_characters(values[0]):
                raise InvalidRequestError("A parameter has characters that it cannot have.")

    @property
    def args(self) -> dict[str, str]:
        return {} if self.method == "POST" else dict(self.payload.data)

    @property
    def form(self) -> dict[str, str]:
        return dict(self.payload.data) if self.method == "POST" else {}


def _decodable(authorization: str) -> bool:
    """Whether Authlib can read it: it trusts that Basic credentials are UTF-8."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return True
    try:
        base64.b64decode(value).decode()
    except (binascii.Error, ValueError):
        return False
    return True


@dataclass(slots=True)
class Answer:
    """A response before it is given to the web framework.

    Attributes:
        body: an object for JSON, or text.
    """

    status: int
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, status: int, body: Any, headers: Sequence[tuple[str, str]]) -> Answer:
        """From what Authlib gives."""
        return cls(status, body, {name.lower(): value for name, value in headers})

    @property
    def location(self) -> str | None:
        """Where a redirect leads; under this name Authlib looks for it."""
        return self.headers.get("location")

    @location.setter
    def location(self, value: str) -> None:
        self.headers["location"] = value
