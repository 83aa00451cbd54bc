"""What a request leaves behind for the audit."""

from __future__ import annotations

from datetime import UTC, datetime

from fhir_ext.audit.record import AccessRecord
from fhir_ext.auth.grant import Grant
from fhir_ext.gateway.asgi import Request
from fhir_ext.gateway.interaction import Interaction, Kind
from fhir_ext.gateway.paths import encode_params
from fhir_ext.resources.context import instant

#: Codes of `http://hl7.org/fhir/restful-interaction` where ours are finer or other.
_CODES = {
    Kind.CONDITIONAL_CREATE: "create",
    Kind.CONDITIONAL_UPDATE: "update",
    Kind.CONDITIONAL_PATCH: "patch",
    Kind.CONDITIONAL_DELETE: "delete",
    Kind.PAGE: "search-system",
    Kind.BUNDLE: "batch",
}

_ACTIONS = {
    Kind.CREATE: "C",
    Kind.CONDITIONAL_CREATE: "C",
    Kind.UPDATE: "U",
    Kind.CONDITIONAL_UPDATE: "U",
    Kind.PATCH: "U",
    Kind.CONDITIONAL_PATCH: "U",
    Kind.DELETE: "D",
    Kind.CONDITIONAL_DELETE: "D",
    Kind.READ: "R",
    Kind.VREAD: "R",
    Kind.HISTORY_INSTANCE: "R",
}

_SEARCHES = frozenset({Kind.SEARCH_TYPE, Kind.SEARCH_SYSTEM, Kind.PAGE})


def access_record(
    request_id: str,
    request: Request,
    interaction: Interaction | None,
    grant: Grant | None,
    status: int,
    *,
    bundle_type: str | None = None,
    patients: frozenset[str] = frozenset(),
    resources: tuple[str, ...] = (),
    refusal: str | None = None,
) -> AccessRecord:
    """The record of one request.

    Args:
        interaction: None when the address was none of FHIR.
        bundle_type: `batch` or `transaction` of a Bundle.
        patients: ids of Patients whose data were in the answer.
        resources: `Type/id` of what was written.
        refusal: our error code.
    """
    code, action, target, query = "operation", "E", None, None
    if interaction is not None:
        code = _CODES.get(interaction.kind, interaction.kind.value)
        action = _ACTIONS.get(interaction.kind, "E")
        parts = [part for part in (interaction.resource_type, interaction.resource_id) if part]
        target = "/".join(parts) or None
        if interaction.kind in _SEARCHES:
            query = encode_params(interaction.params)
    return AccessRecord(
        request_id=request_id,
        recorded=instant(datetime.now(UTC)),
        interaction=bundle_type or code,
        action=action,
        outcome="0" if status < 400 else "4" if status < 500 else "8",
        http_status=status,
        client_id=grant.client_id if grant else None,
        subject=grant.subject if grant else None,
        fhir_user=grant.fhir_user if grant else None,
        personas=tuple(sorted(grant.personas)) if grant else (),
        network_address=request.address,
        target=target,
        query=query,
        operation=interaction.operation if interaction else None,
        patients=tuple(sorted(patients)),
        resources=resources,
        refusal=refusal,
    )
