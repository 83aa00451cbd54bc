"""From a URL to an `Interaction`, strictly: what is not a form of FHIR R4 is refused.

Paths are never passed on as they came. What goes to the FHIR server is written anew from the
interaction (`upstream_path`), so no spelling can mean one thing here and another there.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlencode

from fhir_ext.auth.resource_types import RESOURCE_TYPES
from fhir_ext.errors import BadRequestError, CallerError, NotFoundError
from fhir_ext.gateway.interaction import Interaction, Kind, Params

#: FHIR R4 `id`.
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
#: Name of an operation: lower case with hyphens, as FHIR and HAPI have them.
_OPERATION = re.compile(r"\$[A-Za-z][A-Za-z0-9\-]{0,63}")

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

#: Most parameters of one query.
MOST_PARAMS = 200


class MethodNotAllowed(CallerError):
    status = 405
    default_code = "method-not-allowed"
    issue_type = "not-supported"


def parse_params(query: str) -> Params:
    """Query string or form body as pairs, in order.

    Raises:
        BadRequestError: broken encoding, or too many.
    """
    if not query:
        return ()
    try:
        params = tuple(
            parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMS)
        )
    except ValueError as error:
        raise BadRequestError("the query cannot be read, or has too many parameters") from error
    if any(_CONTROL.search(name) or _CONTROL.search(value) for name, value in params):
        raise BadRequestError("the query holds control characters")
    if any(name.startswith("_elements:") for name, _ in params):
        # Not of FHIR: HAPI's `:exclude` could leave out whose a resource is, without a tag.
        raise BadRequestError("_elements takes no modifier")
    return params


def parse_request(
    method: str, path: str, params: Params, *, if_none_exist: bool = False
) -> Interaction:
    """What a request asks for.

    Args:
        method: HTTP method.
        path: raw path below the FHIR base, with its leading slash.
        params: parameters of the query.
        if_none_exist: whether the request has an If-None-Exist.

    Raises:
        BadRequestError, NotFoundError, MethodNotAllowed: it is no form of FHIR R4.
    """
    parts = _parts(path)
    head = parts[0] if parts else ""
    if not parts:
        return _system(method, params)
    if head == "metadata" and len(parts) == 1:
        return Interaction(_only(method, {"GET": Kind.CAPABILITIES}), method, params=params)
    if head == "_history" and len(parts) == 1:
        return Interaction(_only(method, {"GET": Kind.HISTORY_SYSTEM}), method, params=params)
    if head == "_search" and len(parts) == 1:
        kind = _only(method, {"POST": Kind.SEARCH_SYSTEM})
        return Interaction(kind, method, params=params, posted=True)
    if head.startswith("$"):
        if len(parts) > 1:
            raise NotFoundError("nothing is below an operation")
        return _operation(method, head, params)
    if head not in RESOURCE_TYPES:
        raise NotFoundError("no such resource type in FHIR R4", code="unknown-type")
    if len(parts) == 1:
        return _type(method, head, params, if_none_exist)
    return _below_type(method, head, parts[1:], params)


def _parts(path: str) -> list[str]:
    # None of FHIR's path segments needs percent-encoding but `$` and `|`, and no id holds `|`.
    text = path.replace("%24", "$")
    if "%" in text or ";" in text or "\\" in text:
        raise BadRequestError("the path may not be percent-encoded", code="path-encoding")
    parts = text.strip("/").split("/") if text.strip("/") else []
    if "//" in text or any(part in ("", ".", "..") for part in parts):
        raise BadRequestError("the path has empty or relative parts", code="path-encoding")
    return parts


def _system(method: str, params: Params) -> Interaction:
    if method == "GET" and any(name == "_getpages" for name, _ in params):
        return Interaction(Kind.PAGE, method, params=params)
    kind = _only(method, {"GET": Kind.SEARCH_SYSTEM, "POST": Kind.BUNDLE})
    return Interaction(kind, method, params=params)


def _type(method: str, kind_of: str, params: Params, if_none_exist: bool) -> Interaction:
    kinds = {
        "GET": Kind.SEARCH_TYPE,
        "POST": Kind.CONDITIONAL_CREATE if if_none_exist else Kind.CREATE,
        "PUT": Kind.CONDITIONAL_UPDATE,
        "PATCH": Kind.CONDITIONAL_PATCH,
        "DELETE": Kind.CONDITIONAL_DELETE,
    }
    return Interaction(_only(method, kinds), method, kind_of, params=params)


def _below_type(method: str, kind_of: str, parts: list[str], params: Params) -> Interaction:
    head, rest = parts[0], parts[1:]
    if head == "_history" and not rest:
        kind = _only(method, {"GET": Kind.HISTORY_TYPE})
        return Interaction(kind, method, kind_of, params=params)
    if head == "_search" and not rest:
        kind = _only(method, {"POST": Kind.SEARCH_TYPE})
        return Interaction(kind, method, kind_of, params=params, posted=True)
    if head.startswith("$") and not rest:
        return _operation(method, head, params, kind_of)
    if not _ID.fullmatch(head):
        raise BadRequestError("not a FHIR id", code="bad-id")
    return _instance(method, kind_of, head, rest, params)


def _instance(method: str, kind_of: str, id_: str, rest: list[str], params: Params) -> Interaction:
    if not rest:
        kinds = {
            "GET": Kind.READ,
            "PUT": Kind.UPDATE,
            "PATCH": Kind.PATCH,
            "DELETE": Kind.DELETE,
        }
        return Interaction(_only(method, kinds), method, kind_of, id_, params=params)
    if rest == ["_history"]:
        kind = _only(method, {"GET": Kind.HISTORY_INSTANCE})
        return Interaction(kind, method, kind_of, id_, params=params)
    if len(rest) == 2 and rest[0] == "_history" and _ID.fullmatch(rest[1]):
        kind = _only(method, {"GET": Kind.VREAD})
        return Interaction(kind, method, kind_of, id_, rest[1], params=params)
    if len(rest) == 1 and rest[0].startswith("$"):
        return _operation(method, rest[0], params, kind_of, id_)
    raise NotFoundError("no such form of address in FHIR R4")


def _operation(
    method: str, name: str, params: Params, kind_of: str | None = None, id_: str | None = None
) -> Interaction:
    if not _OPERATION.fullmatch(name):
        raise BadRequestError("not the name of an operation")
    kind = _only(method, {"GET": Kind.OPERATION, "POST": Kind.OPERATION})
    return Interaction(kind, method, kind_of, id_, operation=name[1:], params=params)


def _only(method: str, kinds: dict[str, Kind]) -> Kind:
    if method not in kinds:
        raise MethodNotAllowed(f"allowed here: {', '.join(kinds)}")
    return kinds[method]


def upstream_path(interaction: Interaction) -> str:
    """Path below the FHIR server's base, written from the interaction alone."""
    kind = interaction.kind
    if kind is Kind.CAPABILITIES:
        return "/metadata"
    parts = [interaction.resource_type, interaction.resource_id]
    if kind in (Kind.HISTORY_INSTANCE, Kind.HISTORY_TYPE, Kind.HISTORY_SYSTEM):
        parts.append("_history")
    elif kind is Kind.VREAD:
        parts += ["_history", interaction.version]
    elif kind is Kind.OPERATION:
        parts.append(f"${interaction.operation}")
    elif interaction.posted:
        parts.append("_search")
    return "".join(f"/{part}" for part in parts if part)


def encode_params(params: Params) -> str:
    """Pairs as a query string or form body."""
    return urlencode(params)
