"""Bearer tokens to grants: JWTs by the issuer's keys, others by introspection."""

from __future__ import annotations

import binascii
import re
import time
from collections.abc import Mapping
from typing import Any, Final

import orjson
from jose import jws
from jose.exceptions import JWSError
from jose.utils import base64url_decode

from fhir_ext.auth.cache import Entry, GrantCache
from fhir_ext.auth.claims import ClaimReader
from fhir_ext.auth.grant import Grant
from fhir_ext.auth.introspect import POSITIVE_LIFETIME, Introspector
from fhir_ext.auth.issuer_document import IssuerDocument
from fhir_ext.auth.keys import ALGORITHMS, JwksCache
from fhir_ext.errors import SettingsError, UnauthorizedError
from fhir_ext.outgoing import OutgoingGuard
from fhir_ext.settings import AuthSettings, OutgoingSettings

#: Longer tokens are not looked at.
LONGEST_TOKEN: Final = 16_384

#: JWS Compact Serialization (RFC 7515 section 7.1); the signature may be missing here, so
#: that an unsigned token is refused and not asked about.
_JWS: Final = re.compile(r"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")

#: `typ` of access tokens (RFC 9068 section 2.1) and of JWTs in general.
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})


class TokenVerifier:
    """Verifies tokens and remembers those that hold; safe to share between threads.

    A remembered token is verified again when it expires, when the issuer has taken a key out
    (`JwksCache.generation`), and 30 s after an introspection.

    Args:
        settings: issuer, leeway, and what claims mean.
        audience: what `aud` must contain.
        keys: the issuer's keys.
        introspector: for tokens that are not JWTs; without it they are refused.
        fhir_base: public FHIR base, for `fhirUser`; the audience without it.

    Raises:
        SettingsError: there is no issuer, or a role is mapped to a persona that is none.
    """

    def __init__(
        self,
        settings: AuthSettings,
        audience: str,
        keys: JwksCache,
        introspector: Introspector | None = None,
        *,
        fhir_base: str | None = None,
    ) -> None:
        if settings.issuer is None:
            raise SettingsError("auth.issuer is not set")
        self._issuer, self._audience = settings.issuer, audience
        self._leeway = settings.leeway.total_seconds()
        self._keys, self._introspector = keys, introspector
        self._claims = ClaimReader(settings, fhir_base or audience)
        self._cache = GrantCache()

    def cached(self, token: str) -> Grant | None:
        """The grant of a token that was verified before and still holds; never waits."""
        if len(token) > LONGEST_TOKEN or not token.isascii():
            return None
        key = GrantCache.key(token)
        entry = self._cache.get(key)
        if entry is None:
            return None
        if time.time() >= entry.until or (
            entry.generation is not None and entry.generation != self._keys.generation
        ):
            self._cache.drop(key)
            return None
        return entry.grant

    def verify(self, token: str) -> Grant:
        """What a token grants; may wait for the issuer.

        Raises:
            UnauthorizedError: it does not hold. Codes: `invalid-token`, `expired-token`,
                `unknown-key`, `no-persona`.
            ThrottledError: too many tokens are being introspected.
            UpstreamError: the issuer cannot be asked.
            SettingsError: its address may not be called.
        """
        if len(token) > LONGEST_TOKEN:
            raise _invalid("the token is too long")
        if not token.isascii():
            raise _invalid("the token is malformed")
        known = self.cached(token)
        if known is not None:
            return known
        header = _header(token)
        if header is not None:
            entry = self._signed(token, header)
        elif self._introspector is not None:
            entry = self._introspected(token, self._introspector)
        else:
            raise _invalid("the token is no JWT")
        self._cache.put(GrantCache.key(token), entry)
        return entry.grant

    def _signed(self, token: str, header: Mapping[str, Any]) -> Entry:
        algorithm, kid = _checked_header(header)
        found = self._keys.find(kid, algorithm)
        try:
            # The key was made for this algorithm, whatever the token says.
            payload = jws.verify(token, found.key, [algorithm])
            claims = orjson.loads(payload)
        # RecursionError: a header that is nested too deeply for the library's parser.
        except (JWSError, orjson.JSONDecodeError, RecursionError) as error:
            raise _invalid("the signature of the token does not hold") from error
        if not isinstance(claims, dict):
            raise _invalid("the token holds no claims")
        expires = self._check_times(claims)
        if claims.get("iss") != self._issuer:
            raise _invalid("the token is of another issuer")
        if not _names(claims.get("aud"), self._audience):
            raise _invalid("the token is for another audience")
        grant = self._claims.grant(claims, expires)
        return Entry(grant, expires + self._leeway, found.generation)

    def _check_times(self, claims: Mapping[str, Any]) -> float:
        """`exp`, after it is checked with `iat` and `nbf` (RFC 7519 section 4.1)."""
        now = time.time()
        expires, issued = _time(claims, "exp"), _time(claims, "iat")
        if now >= expires + self._leeway:
            raise UnauthorizedError("the token has expired", code="expired-token")
        begins = _time(claims, "nbf") if "nbf" in claims else issued
        if now < max(begins, issued) - self._leeway:
            raise _invalid("the token does not hold yet")
        return expires

    def _introspected(self, token: str, introspector: Introspector) -> Entry:
        """By the issuer's answer.

        `iss`, `aud` and the times are optional in it, since the issuer has looked whether the
        token may be used with us (RFC 7662 section 4); what is there must fit.
        """
        now = time.time()
        claims = introspector.claims(token)
        if claims.get("iss", self._issuer) != self._issuer:
            raise _invalid("the token is of another issuer")
        if "aud" in claims and not _names(claims["aud"], self._audience):
            raise _invalid("the token is for another audience")
        until = now + POSITIVE_LIFETIME
        expires = self._check_times({"exp": until, "iat": 0, **claims})
        return Entry(self._claims.grant(claims, expires), min(until, expires + self._leeway), None)


def build_verifier(
    settings: AuthSettings,
    outgoing: OutgoingSettings,
    fhir_base: str,
    document: IssuerDocument | None = None,
) -> TokenVerifier:
    """The verifier that the settings describe; calls nobody yet.

    Args:
        settings: of the issuer.
        outgoing: which addresses may be called.
        fhir_base: public FHIR base; the audience when the settings name none.
        document: the issuer's discovery document, when there is one to share.

    Raises:
        SettingsError: there is no issuer, or a role is mapped to a persona that is none.
    """
    guard = OutgoingGuard(outgoing)
    discovered = document or IssuerDocument(guard, settings)
    keys = JwksCache(lambda: settings.jwks_url or discovered.endpoint("jwks_uri"), guard, settings)
    introspector = Introspector(settings, guard) if settings.introspection_url else None
    return TokenVerifier(
        settings, settings.audience or fhir_base, keys, introspector, fhir_base=fhir_base
    )


def _header(token: str) -> Mapping[str, Any] | None:
    """The JOSE header, not verified; None when the token is no JWT."""
    match = _JWS.fullmatch(token)
    if match is None:
        return None
    try:
        header = orjson.loads(base64url_decode(match[1].encode()))
    except (binascii.Error, orjson.JSONDecodeError):
        return None
    return header if isinstance(header, dict) and "alg" in header else None


def _checked_header(header: Mapping[str, Any]) -> tuple[str, str | None]:
    """Algorithm and `kid` of a header that may be used."""
    algorithm, kid = header["alg"], header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise _invalid("the algorithm of the token is not accepted")
    # Extensions that must be understood (RFC 7515 section 4.1.11); none is.
    if "crit" in header:
        raise _invalid("the token asks for an extension that is not known")
    if "typ" in header and str(header["typ"]).lower() not in _TYPES:
        raise _invalid("the token is no access token")
    if not isinstance(kid, str | None):
        raise _invalid("the token is malformed")
    return algorithm, kid


def _time(claims: Mapping[str, Any], name: str) -> float:
    """A NumericDate (RFC 7519 section 2)."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _invalid(f"the claim {name} of the token is missing or malformed")
    return float(value)


def _names(audience: object, wanted: str) -> bool:
    """Whether `aud`, one string or several, contains the wanted one."""
    return audience == wanted or (isinstance(audience, list) and wanted in audience)


def _invalid(message: str) -> UnauthorizedError:
    return UnauthorizedError(message, code="invalid-token")
