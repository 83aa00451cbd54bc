"""What the issuer remembers: in memory only, bounded, and gone when the process ends.

Access tokens outlive a restart, because the keys do. Codes, refresh tokens, opaque tokens,
revocations, and the ids of assertions that were seen do not. Codes, refresh tokens and opaque
tokens are kept as hashes.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fhir_ext.issuer.clients import Client
from fhir_ext.issuer.users import User

Value = TypeVar("Value")

#: Most entries of each kind; the oldest goes first.
CAPACITY = 10_000

#: How long (s) a code may be exchanged (RFC 6749 section 4.1.2: at most 10 minutes).
CODE_SECONDS = 60
#: How long (s) somebody may look at the login page.
INTERACTION_SECONDS = 600
#: How long (s) an EHR launch waits for its app.
LAUNCH_SECONDS = 300


class Expiring(Generic[Value]):
    """A mapping whose entries end by themselves and whose size is bounded.

    Args:
        capacity: most entries.
        now: seconds since 1970.
    """

    def __init__(self, capacity: int = CAPACITY, now: Callable[[], float] = time.time) -> None:
        self._entries: OrderedDict[str, tuple[float, Value]] = OrderedDict()
        self._capacity, self._now = capacity, now

    def put(self, key: str, value: Value, seconds: float) -> None:
        """Keep a value for so long; the oldest one gives way when there is no room."""
        self._entries.pop(key, None)
        self._make_room()
        while len(self._entries) >= self._capacity:
            self._entries.popitem(last=False)
        self._entries[key] = (self._now() + seconds, value)

    def add(self, key: str, value: Value, seconds: float) -> bool:
        """Keep a value unless there is one, or no room: nothing gives way."""
        self._make_room()
        if self.get(key) is not None or len(self._entries) >= self._capacity:
            return False
        self._entries[key] = (self._now() + seconds, value)
        return True

    def get(self, key: str) -> Value | None:
        """The value, unless it has ended."""
        expires_at, value = self._entries.get(key, (0.0, None))
        return value if expires_at > self._now() else None

    def pop(self, key: str) -> Value | None:
        """The value, which is then forgotten."""
        value = self.get(key)
        self._entries.pop(key, None)
        return value

    def __len__(self) -> int:
        return len(self._entries)

    def _make_room(self) -> None:
        """Drop what has ended: from the oldest on, and everywhere once it is full."""
        now = self._now()
        while self._entries and next(iter(self._entries.values()))[0] <= now:
            self._entries.popitem(last=False)
        if len(self._entries) >= self._capacity:
            for key in [k for k, (expires_at, _) in self._entries.items() if expires_at <= now]:
                del self._entries[key]


@dataclass(slots=True)
class Session:
    """What one user allowed one client; every token of it ends with it.

    Attributes:
        scope: granted, with spaces between.
        patient: id of the Patient in context.
        encounter: id of the Encounter in context.
        auth_time: of the login (seconds since 1970).
        token_ids: `jti` of its access tokens to their `exp`.
    """

    user: User
    client_id: str
    scope: str
    patient: str | None
    encounter: str | None
    auth_time: int
    token_ids: dict[str, float] = field(default_factory=dict)
    revoked: bool = False

    def get_user_id(self) -> str:
        return self.user.user_id


@dataclass(slots=True)
class Code:
    """An authorization code as Authlib asks it (its `AuthorizationCodeMixin`)."""

    session: Session
    redirect_uri: str
    code_challenge: str
    code_challenge_method: str
    nonce: str | None
    used: bool = False

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.session.scope

    def get_nonce(self) -> str | None:
        return self.nonce

    def get_auth_time(self) -> int:
        return self.session.auth_time

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


@dataclass(slots=True)
class Refresh:
    """A refresh token as Authlib asks it (its `TokenMixin`); used at most once."""

    session: Session
    expires_at: float
    used: bool = False

    def check_client(self, client: Client) -> bool:
        return client.client_id == self.session.client_id

    def get_scope(self) -> str:
        return self.session.scope

    def is_expired(self) -> bool:
        return self.expires_at <= time.time()

    def is_revoked(self) -> bool:
        return self.used or self.session.revoked


@dataclass(frozen=True, slots=True)
class Launch:
    """Context that an EHR gave for one launch of an app."""

    patient: str
    encounter: str | None


@dataclass(slots=True)
class Store:
    """Everything that is remembered."""

    codes: Expiring[Code] = field(default_factory=Expiring)
    refresh: Expiring[Refresh] = field(default_factory=Expiring)
    launches: Expiring[Launch] = field(default_factory=Expiring)
    interactions: Expiring[Any] = field(default_factory=lambda: Expiring(1000))
    #: Ids of assertions and nonces that were seen: a second time they are refused.
    assertions: Expiring[bool] = field(default_factory=Expiring)
    nonces: Expiring[bool] = field(default_factory=Expiring)
    #: Claims of opaque access tokens.
    opaque: Expiring[dict[str, Any]] = field(default_factory=Expiring)
    #: `jti` of access tokens that were revoked before their end.
    revoked: Expiring[bool] = field(default_factory=Expiring)

    def end(self, session: Session) -> None:
        """Revoke a session with all of its tokens."""
        session.revoked = True
        for token_id, expires_at in session.token_ids.items():
            self.revoked.put(token_id, True, expires_at - time.time())


def digest(secret: str) -> str:
    """How a code or a refresh token is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()
