"""One request on its way through the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from fhir_ext.auth.grant import Grant
from fhir_ext.gateway.asgi import Answer, Receive, Request
from fhir_ext.gateway.interaction import Interaction


@dataclass(slots=True)
class Exchange:
    """One request on its way; what is known of it grows.

    Attributes:
        patients: ids of Patients whose data are in the answer.
        resources: what was written.
        noted: whether the journal has it.
    """

    request: Request
    request_id: str
    receive: Receive
    answer: Answer
    interaction: Interaction | None = None
    grant: Grant | None = None
    bundle_type: str | None = None
    patients: frozenset[str] = frozenset()
    resources: tuple[str, ...] = ()
    refusal: str | None = None
    noted: bool = False
