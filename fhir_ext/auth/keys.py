"""Public keys of the issuer (JWKS, RFC 7517), by which tokens are verified."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from jose import jwk
from jose.backends.base import Key
from jose.exceptions import JWKError

from fhir_ext.auth.issuer_document import FETCH_TIMEOUT, ISSUER
from fhir_ext.auth.refreshed import Refreshed
from fhir_ext.errors import SettingsError, UnauthorizedError, UpstreamUnavailable
from fhir_ext.outgoing import OutgoingGuard, RefusedAddress, get_json
from fhir_ext.settings import AuthSettings, HttpAuth

#: Algorithms of tokens that are accepted, and the members that a key for them must have.
#: An HMAC has no public key, so none can be among them.
ALGORITHMS: Final[Mapping[str, Mapping[str, str]]] = {
    "RS256": {"kty": "RSA"},
    "RS384": {"kty": "RSA"},
    "ES256": {"kty": "EC", "crv": "P-256"},
    "ES384": {"kty": "EC", "crv": "P-384"},
}
#: Numbers of a public key (RFC 7518 section 6); all else in a JWK stays out of the key.
_NUMBERS: Final = {"RSA": ("n", "e"), "EC": ("x", "y")}
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]{1,2048}")

#: Bits of an RSA modulus: less is weak (NIST SP 800-131A), more costs too much to verify.
_RSA_BITS: Final = (2048, 8192)
#: Keys of one set that are looked at.
_MOST_KEYS = 100


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key for one algorithm.

    Attributes:
        key: verifies signatures of that algorithm only.
        generation: of the key set it was found in; see `JwksCache.generation`.
    """

    key: Key
    generation: int


@dataclass(frozen=True, slots=True, eq=False)
class _KeySet:
    """Keys by `kid` and algorithm; those without `kid` are under None."""

    keys: Mapping[tuple[str | None, str], tuple[Key, ...]]
    fingerprints: frozenset[bytes]
    generation: int

    def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The only key that fits; a token without `kid` may not choose among several."""
        if kid is not None:
            fitting = self.keys.get((kid, algorithm), ())
        else:
            fitting = tuple(
                key for (_, alg), keys in self.keys.items() if alg == algorithm for key in keys
            )
        return fitting[0] if len(fitting) == 1 else None


class JwksCache:
    """The issuer's keys, fetched again as they grow old; safe to share between threads.

    How long things last (`Refreshed` keeps them):

    - The set is fetched again after `auth.jwks_lifetime`, in the background, once anybody
      asks for a key or for `generation`.
    - A `kid` that is not in the set has it fetched at once, but never sooner than
      `auth.jwks_cooldown` after the last fetch.
    - While the issuer is down the set stays in use for one hour past its lifetime.

    Args:
        url: where the keys are; asked at each fetch.
        guard: which addresses may be called.
        settings: lifetime and cooldown.
    """

    def __init__(
        self, url: Callable[[], str], guard: OutgoingGuard, settings: AuthSettings
    ) -> None:
        self._url = url
        self._session = guard.session(HttpAuth(), FETCH_TIMEOUT)
        self._last: _KeySet | None = None
        self._kept = Refreshed(
            "jwks",
            self._fetch,
            lifetime=settings.jwks_lifetime,
            cooldown=settings.jwks_cooldown,
        )

    @property
    def generation(self) -> int | None:
        """Number of the present set; grows when a key was taken out or changed.

        What was verified under an earlier number must be verified again. None while there is
        no set that may be used. Never waits, but starts a fetch in the background when the
        set is old; a key that the issuer took out therefore ends with the first use after
        `auth.jwks_lifetime` plus the time of one fetch.
        """
        held = self._kept.peek()
        return None if held is None else held.generation

    def find(self, kid: str | None, algorithm: str) -> SigningKey:
        """The key that a token names; may wait for the issuer.

        Args:
            kid: `kid` of the token; without one the set must hold a single key that fits.
            algorithm: one of `ALGORITHMS`.

        Raises:
            UnauthorizedError: the issuer has no such key (`unknown-key`).
            UpstreamError: the issuer cannot be asked.
            SettingsError: the address of the keys may not be called.
        """
        held = self._kept.get()
        key = held.find(kid, algorithm)
        if key is None:
            held = self._kept.other_than(held)
            key = held.find(kid, algorithm)
        if key is None:
            raise UnauthorizedError("the issuer has no key that fits the token", code="unknown-key")
        return SigningKey(key, held.generation)

    def _fetch(self) -> _KeySet:
        try:
            answer = get_json(self._session, self._url(), server=ISSUER)
        except RefusedAddress as error:
            raise SettingsError(f"the issuer's keys may not be called: {error.message}") from error
        listed = answer.get("keys")
        if not isinstance(listed, list):
            raise UpstreamUnavailable("the issuer did not answer with a key set")
        # Only one thread fetches at a time.
        self._last = _key_set(listed[:_MOST_KEYS], self._last)
        return self._last


def _key_set(listed: list[object], previous: _KeySet | None) -> _KeySet:
    keys: dict[tuple[str | None, str], tuple[Key, ...]] = {}
    fingerprints = set()
    for item in listed:
        if not isinstance(item, dict) or not _verifies_signatures(item):
            continue
        for algorithm in ALGORITHMS:
            key = _key(item, algorithm)
            if key is not None:
                place = (item.get("kid"), algorithm)
                keys[place] = (*keys.get(place, ()), key)
                fingerprints.add(_fingerprint(item, algorithm))
    generation = 0
    if previous is not None:
        generation = previous.generation + (not previous.fingerprints <= fingerprints)
    return _KeySet(keys, frozenset(fingerprints), generation)


def _verifies_signatures(item: Mapping[str, Any]) -> bool:
    """Whether a JWK is a public key for signatures (RFC 7517 section 4)."""
    operations = item.get("key_ops")
    return (
        # A published private key belongs to everybody.
        "d" not in item
        and item.get("use", "sig") == "sig"
        and (operations is None or (isinstance(operations, list) and "verify" in operations))
        and isinstance(item.get("kid"), str | None)
    )


def _key(item: Mapping[str, Any], algorithm: str) -> Key | None:
    """The JWK as a key for an algorithm, or None when it is none for it."""
    needed = ALGORITHMS[algorithm]
    if item.get("alg", algorithm) != algorithm:
        return None
    if any(item.get(name) != value for name, value in needed.items()):
        return None
    numbers = {name: item.get(name) for name in _NUMBERS[needed["kty"]]}
    if not all(isinstance(n, str) and _BASE64URL.fullmatch(n) for n in numbers.values()):
        return None
    try:
        key = jwk.construct({**needed, **numbers}, algorithm)
    # ValueError: what cryptography says of numbers that are no key.
    except (JWKError, ValueError):
        return None
    bits = key.prepared_key.key_size
    if needed["kty"] == "RSA" and not _RSA_BITS[0] <= bits <= _RSA_BITS[1]:
        return None
    return key


def _fingerprint(item: Mapping[str, Any], algorithm: str) -> bytes:
    names = ("kid", *_NUMBERS[ALGORITHMS[algorithm]["kty"]])
    return orjson.dumps([algorithm, *(item.get(name) for name in names)])
