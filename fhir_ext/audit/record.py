"""One access as it is noted; ids and codes only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """What one request to the gateway asked, and what came of it.

    Attributes:
        request_id: UUID of the request; the ids of its AuditEvents derive from it.
        recorded: when it ended (FHIR instant).
        interaction: code in `http://hl7.org/fhir/restful-interaction` (read, vread,
            search-type, create, transaction, operation, …).
        action: FHIR AuditEvent.action: C, R, U, D or E.
        outcome: FHIR AuditEvent.outcome: `0` success, `4` the caller's fault (also a
            refusal), `8` ours.
        http_status: status of the answer; 0 for what was not asked over HTTP.
        client_id: OAuth client, or None without a valid token.
        subject: `sub` of the token, or None.
        fhir_user: reference of the user, when the token names one.
        personas: names of the personas.
        network_address: address of the caller.
        target: `Type` or `Type/id` that was asked for; None on the system level.
        query: query string of a search as it was asked, None otherwise.
        operation: name of an operation without `$`.
        patients: ids of Patients whose data were in the answer; one AuditEvent for each.
        resources: `Type/id` of what a write made or changed.
        refusal: our error code when the gateway refused.
    """

    request_id: str
    recorded: str
    interaction: str
    action: str
    outcome: str
    http_status: int
    client_id: str | None = None
    subject: str | None = None
    fhir_user: str | None = None
    personas: tuple[str, ...] = ()
    network_address: str | None = None
    target: str | None = None
    query: str | None = None
    operation: str | None = None
    patients: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    refusal: str | None = None
