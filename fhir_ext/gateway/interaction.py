"""What a request asks for, as one value; everything that decides looks at this only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Params = tuple[tuple[str, str], ...]


class Kind(StrEnum):
    """FHIR R4 RESTful interactions (http.html), the conditional forms apart."""

    READ = "read"
    VREAD = "vread"
    HISTORY_INSTANCE = "history-instance"
    HISTORY_TYPE = "history-type"
    HISTORY_SYSTEM = "history-system"
    SEARCH_TYPE = "search-type"
    SEARCH_SYSTEM = "search-system"
    #: A link of an earlier answer, `?_getpages=`.
    PAGE = "page"
    CREATE = "create"
    CONDITIONAL_CREATE = "conditional-create"
    UPDATE = "update"
    CONDITIONAL_UPDATE = "conditional-update"
    PATCH = "patch"
    CONDITIONAL_PATCH = "conditional-patch"
    DELETE = "delete"
    CONDITIONAL_DELETE = "conditional-delete"
    BUNDLE = "bundle"
    OPERATION = "operation"
    CAPABILITIES = "capabilities"


#: Letters of SMART 2.2 that each interaction needs; all of them.
LETTERS: dict[Kind, frozenset[str]] = {
    Kind.READ: frozenset("r"),
    Kind.VREAD: frozenset("r"),
    Kind.HISTORY_INSTANCE: frozenset("r"),
    Kind.HISTORY_TYPE: frozenset("s"),
    Kind.SEARCH_TYPE: frozenset("s"),
    Kind.CREATE: frozenset("c"),
    Kind.CONDITIONAL_CREATE: frozenset("cs"),
    Kind.UPDATE: frozenset("u"),
    Kind.CONDITIONAL_UPDATE: frozenset("cus"),
    Kind.PATCH: frozenset("u"),
    Kind.CONDITIONAL_PATCH: frozenset("us"),
    Kind.DELETE: frozenset("d"),
    Kind.CONDITIONAL_DELETE: frozenset("ds"),
}


@dataclass(frozen=True, slots=True)
class Interaction:
    """One FHIR request.

    Attributes:
        kind: what it is.
        method: HTTP method.
        resource_type: FHIR R4 type; None on the system level.
        resource_id: logical id; None on the type and system level.
        version: version id of a vread.
        operation: name without `$`, of an operation.
        params: query (and, for `POST _search`, form) parameters, decoded, in order.
        posted: whether a search came as `POST _search`.
    """

    kind: Kind
    method: str
    resource_type: str | None = None
    resource_id: str | None = None
    version: str | None = None
    operation: str | None = None
    params: Params = ()
    posted: bool = False
