"""Addresses in both directions: the FHIR server's base and the public one; signed page links.

HAPI writes its own base into `link.url`, `fullUrl`, Location and Content-Location. Only JSON
strings and XML attributes that begin with the base are rewritten, in bytes, so an answer that
nobody needs to read is not parsed.

A link to a further page of a search names the search by an id that anyone could pass on. The
gateway signs it for the grant that searched; without its signature a page is not shown.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator

from fhir_ext.auth.grant import Grant
from fhir_ext.errors import ForbiddenError
from fhir_ext.gateway.interaction import Params

#: Parameter of ours that carries the signature; never passed on.
SIGNATURE = "_fx-page"
_SIGNATURE_LENGTH = 32

#: The look behind stands after the literal, which the search then jumps to.
_PAGE = re.compile(rb'_getpages=(?<=[?&]_getpages=)([A-Za-z0-9\-]{1,64})(?=[&"])')


class Links:
    """Rewrites between the two bases.

    Args:
        upstream: base of the FHIR server, without a slash at its end.
        public: base as callers see it, likewise.
        secret: signs page links.
    """

    def __init__(self, upstream: str, public: str, secret: bytes) -> None:
        self.upstream, self.public = upstream.rstrip("/"), public.rstrip("/")
        self._secret = secret
        self._out = re.compile(rb'"' + re.escape(self.upstream.encode()) + rb'(?=[/?"])')
        self._in = re.compile(rb'"' + re.escape(self.public.encode()) + rb'(?=[/?"])')
        self._out_text = b'"' + self.public.encode()
        self._in_text = b'"' + self.upstream.encode()
        #: Longest piece of an answer that may be the beginning of a base.
        self.overlap = len(self.upstream) + 2

    def outward(self, body: bytes) -> bytes:
        """Rewrite an answer, or a piece of one that ends outside of a base."""
        return self._out.sub(self._out_text, body)

    def inward(self, body: bytes) -> bytes:
        """Rewrite a request's body."""
        return self._in.sub(self._in_text, body) if self._in_text != self._out_text else body

    def outward_text(self, address: str) -> str:
        """Rewrite a header such as Location."""
        rest = address.removeprefix(self.upstream)
        return self.public + rest if rest != address and rest[:1] in ("", "/", "?") else address

    def inward_params(self, params: Params) -> Params:
        """Rewrite parameters that name resources by their public address."""
        if not any(self.public in value for _, value in params):
            return params
        return tuple(
            (name, value.replace(f"{self.public}/", f"{self.upstream}/")) for name, value in params
        )

    def relativize(self, value: object) -> None:
        """Make references under either base relative, in place: the same, in one spelling."""
        waiting = [value]
        while waiting:
            item = waiting.pop()
            if isinstance(item, list):
                waiting += item
            elif isinstance(item, dict):
                reference = item.get("reference")
                if isinstance(reference, str):
                    for base in (self.public, self.upstream):
                        if reference.startswith(f"{base}/"):
                            item["reference"] = reference[len(base) + 1 :]
                waiting += item.values()

    def local_path(self, address: str) -> str | None:
        """Path below the base of a relative or own absolute address; None for any other."""
        for base in (self.public, self.upstream):
            if address == base or address.startswith((f"{base}/", f"{base}?")):
                address = address.removeprefix(base)
                break
        if address.startswith("//") or "://" in address.partition("?")[0]:
            return None
        return address if address.startswith("/") else f"/{address}"

    # Pages

    def sign_pages(self, body: bytes, grant: Grant, restricted: str = "") -> bytes:
        """Sign every link to a page in (the beginning of) an answer.

        Args:
            restricted: type that was searched under a scope with a restriction.
        """
        if b"_getpages=" not in body:
            return body

        def signed(match: re.Match[bytes]) -> bytes:
            signature = self._signature(match[1].decode(), grant, restricted)
            return match[0] + f"&{SIGNATURE}={restricted}{signature}".encode()

        return _PAGE.sub(signed, body)

    def check_page(self, params: Params, grant: Grant) -> tuple[Params, str]:
        """The parameters of a page without our signature, and `restricted` of `sign_pages`.

        Raises:
            ForbiddenError: the link was not made for this grant.
        """
        pages = [value for name, value in params if name == "_getpages"]
        given = [value for name, value in params if name == SIGNATURE]
        # The signature is lower case hex, and a type begins with a capital.
        restricted = given[0][:-_SIGNATURE_LENGTH] if len(given) == 1 else ""
        if (
            len(pages) != 1
            or len(given) != 1
            or not given[0].isascii()
            or not hmac.compare_digest(
                given[0], restricted + self._signature(pages[0], grant, restricted)
            )
        ):
            raise ForbiddenError("this link to a page was not made for this token", code="page")
        rest = tuple((name, value) for name, value in params if name != SIGNATURE)
        return rest, restricted

    def _signature(self, search_id: str, grant: Grant, restricted: str) -> str:
        text = "\n".join((search_id, restricted, *_identity(grant)))
        digest = hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()
        return digest[:_SIGNATURE_LENGTH]


def _identity(grant: Grant) -> Iterator[str]:
    """What stays the same when a token is refreshed."""
    yield grant.subject
    yield grant.client_id
    yield grant.patient or ""
    yield ",".join(sorted(grant.programs))
    yield ",".join(sorted(grant.personas))
    yield from sorted(
        f"{s.context}/{s.resource_type}.{''.join(sorted(s.letters))}?{s.restriction}"
        for s in grant.scopes
    )


class StreamRewriter:
    """`Links.outward` over an answer that comes in pieces.

    Args:
        links: of the gateway.
        grant: page links in the first piece are signed for it.
    """

    def __init__(self, links: Links, grant: Grant) -> None:
        self._links, self._grant = links, grant
        self._held = b""
        self._first = True

    def feed(self, piece: bytes) -> bytes:
        """What can be passed on of everything fed so far."""
        text = self._held + piece
        # A base may begin at the end of this piece and go on in the next one.
        cut = text.rfind(b'"', max(0, len(text) - self._links.overlap))
        if cut < 0:
            cut = len(text)
        ready, self._held = text[:cut], text[cut:]
        return self._rewritten(ready)

    def end(self) -> bytes:
        """The rest."""
        held, self._held = self._held, b""
        return self._rewritten(held)

    def _rewritten(self, text: bytes) -> bytes:
        text = self._links.outward(text)
        if self._first and text:
            # HAPI writes a Bundle's links before its entries.
            self._first = False
            text = self._links.sign_pages(text, self._grant)
        return text
