"""Signing keys of the issuer: made when missing, kept over a restart, rotated on demand."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from joserfc import jwk, jwt
from joserfc.errors import JoseError

from fhir_ext.errors import SettingsError

Key = jwk.ECKey | jwk.RSAKey

#: What our own tokens may be signed with; older keys may be of another kind than new ones.
ALGORITHMS: Final = ("ES384", "RS384", "RS256")

#: How long (s) a key stays published after its last token has expired: clocks differ.
_MARGIN_SECONDS = 60

_RSA_BITS = 3072


@dataclass(slots=True)
class _Kept:
    """One key; `retired_at` (seconds since 1970) once another one signs."""

    key: Key
    algorithm: str
    retired_at: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm,
            "retired_at": self.retired_at,
            "key": self.key.as_dict(private=True),
        }


class KeyRing:
    """One key that signs, and older ones that verify until their last token has expired.

    Args:
        path: JSON file, readable by its owner only; made when missing.
        algorithm: of the key that signs (`ALGORITHMS`); another one than in the file rotates.
        token_lifetime: longest life (s) of what is signed.
        now: seconds since 1970.

    Raises:
        SettingsError: the file is not one of ours.
    """

    def __init__(
        self,
        path: Path,
        algorithm: str,
        token_lifetime: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._algorithm, self._now = path, algorithm, now
        self._kept_for = token_lifetime + _MARGIN_SECONDS
        self._keys = _read(path) if path.is_file() else []
        if not self._keys or self._keys[0].algorithm != algorithm:
            self.rotate()

    @property
    def kid(self) -> str:
        """`kid` of the key that signs (RFC 7638 thumbprint)."""
        return str(self._keys[0].key.kid)

    @property
    def algorithm(self) -> str:
        """Of the key that signs."""
        return self._keys[0].algorithm

    @property
    def signing(self) -> Key:
        """The private key that signs."""
        return self._keys[0].key

    def rotate(self) -> str:
        """Let a new key sign; the one before stays published for the tokens it signed.

        Returns:
            `kid` of the new key.
        """
        if self._keys:
            self._keys[0].retired_at = self._now()
        self._keys.insert(0, _Kept(_new_key(self._algorithm), self._algorithm))
        self._forget_old()
        self._write()
        return self.kid

    def public(self) -> dict[str, list[dict[str, Any]]]:
        """JWK Set (RFC 7517 section 5), the key that signs first."""
        self._forget_old()
        return {
            "keys": [
                {**kept.key.as_dict(private=False), "use": "sig", "alg": kept.algorithm}
                for kept in self._keys
            ]
        }

    def sign(self, claims: dict[str, Any], token_type: str) -> str:
        """A JWT of these claims; `token_type` is its `typ`."""
        header = {"alg": self.algorithm, "typ": token_type, "kid": self.kid}
        return jwt.encode(header, claims, self.signing, [self.algorithm])

    def verify(self, token: str, token_type: str) -> dict[str, Any] | None:
        """Claims of a JWT that we signed and that has not expired; None else."""
        self._forget_old()
        try:
            found = jwt.decode(token, jwk.KeySet([kept.key for kept in self._keys]), ALGORITHMS)
        except (JoseError, ValueError):
            return None
        if found.header.get("typ") != token_type or found.claims["exp"] <= self._now():
            return None
        return dict(found.claims)

    def _forget_old(self) -> None:
        limit = self._now() - self._kept_for
        self._keys = [k for k in self._keys if k.retired_at is None or k.retired_at > limit]

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(self._path.name + ".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            json.dump({"keys": [kept.as_json() for kept in self._keys]}, file, indent=2)
        new.replace(self._path)


def _new_key(algorithm: str) -> Key:
    if algorithm.startswith("ES"):
        return jwk.ECKey.generate_key("P-384", private=True, auto_kid=True)
    return jwk.RSAKey.generate_key(_RSA_BITS, private=True, auto_kid=True)


def _read(path: Path) -> list[_Kept]:
    try:
        found = [
            _Kept(_imported(item["key"]), item["algorithm"], item["retired_at"])
            for item in json.loads(path.read_text())["keys"]
        ]
    except (OSError, ValueError, KeyError, TypeError, JoseError) as error:
        raise SettingsError("issuer.key_file does not hold keys of this issuer") from error
    if any(kept.algorithm not in ALGORITHMS for kept in found):
        raise SettingsError("issuer.key_file holds a key of an algorithm that is not in use here")
    return found


def _imported(data: dict[str, Any]) -> Key:
    key = jwk.import_key(data)
    if not isinstance(key, jwk.ECKey | jwk.RSAKey) or not key.is_private:
        raise ValueError("not a private EC or RSA key")
    return key
