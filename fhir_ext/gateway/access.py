"""What was decided about a request; operations behind the gateway read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fhir_ext.auth.grant import Grant
from fhir_ext.errors import ForbiddenError
from fhir_ext.gateway.interaction import Interaction

#: Key of the ASGI scope under which the gateway puts the `Access` of an operation's request.
SCOPE_KEY = "fhir_ext.access"


@dataclass(frozen=True, slots=True)
class Access:
    """A request that passed the gateway, for one of our own operations.

    Attributes:
        grant: the verified token.
        interaction: what was asked.
        request_id: id of the request, as the answer's `X-Request-Id` has it (UUID).
        seen: ids of Patients whose data the answer tells something about; the operation
            adds to it, and the audit names them.
    """

    grant: Grant
    interaction: Interaction
    request_id: str
    allowed_types: Callable[[str, str], bool]
    allowed_patient: Callable[[str], bool]
    seen: set[str] = field(default_factory=set)

    def may(self, letter: str, resource_type: str) -> bool:
        """Whether table and scopes allow a letter of `cruds` on a type.

        For all patients that were noted by `require_patient`; before, for some at least.
        """
        return self.allowed_types(letter, resource_type)

    def require(self, letter: str, resource_type: str) -> None:
        """Like `may`.

        Raises:
            ForbiddenError: it is not allowed.
        """
        if not self.may(letter, resource_type):
            raise ForbiddenError(
                f"no scope of the token allows '{letter}' on {resource_type}", code="scope"
            )

    def require_patient(self, patient_id: str) -> None:
        """Note that the answer speaks of a patient.

        Raises:
            ForbiddenError: the patient is outside of what this caller may see.
        """
        if not self.allowed_patient(patient_id):
            raise ForbiddenError(
                "the patient is outside of what this token may see", code="confinement"
            )
        self.seen.add(patient_id)
