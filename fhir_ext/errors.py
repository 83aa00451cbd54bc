"""Every error this project raises on purpose, in one tree, mapped once at the edges.

    FhirExtError
    ├── CallerError                 the caller's fault: 4xx
    │   ├── BadRequestError         400  malformed request
    │   ├── UnauthorizedError       401  no token, or one that does not hold
    │   ├── ForbiddenError          403  wrong secret, scope or role
    │   ├── NotFoundError           404  no such resource, study or model
    │   ├── ConflictError           409  the state does not allow it
    │   ├── PreconditionFailed      412  If-Match names another version
    │   ├── TooLargeError           413  over a limit of the settings
    │   ├── UnprocessableError      422  well formed, but cannot be acted on
    │   ├── PreconditionRequired    428  If-Match is missing
    │   └── ThrottledError          429  too many requests of one client
    ├── UpstreamError               HAPI, archive or another server failed: retry
    │   ├── UpstreamUnavailable     502/503: refused, reset, 5xx
    │   └── UpstreamTimeout         504: no answer in time
    ├── RefusedInput                the data may not be used: a result, not a failure
    ├── ParkedWork                  a human must decide: becomes a Task
    └── SettingsError               the installation is configured wrongly

Messages never carry patient data: no names, identifiers, UIDs or header values
that came from outside. `code` is machine-readable and stable; it is the code in
our CodeSystems (`fhir_ext.resources.codes`) where one exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OutcomeIssue:
    """One OperationOutcome.issue.

    Attributes:
        code: FHIR R4 IssueType.
        detail: code in our CodeSystem `error` (an open one).
        diagnostics: one sentence without patient data.
        severity: FHIR R4 IssueSeverity.
        expression: FHIRPath of what is wrong, in the caller's own resource.
    """

    code: str
    detail: str
    diagnostics: str
    severity: str = "error"
    expression: str | None = None


class FhirExtError(Exception):
    """Base of the tree.

    Args:
        message: one sentence for an operator, without patient data.
        code: stable machine-readable code in kebab-case.
        issues: the single things that are wrong, where there are several; an
            OperationOutcome then lists these instead of the message.
    """

    status: int = 500
    default_code = "internal"
    #: FHIR R4 `IssueType` (OperationOutcome.issue.code) of this kind of error.
    issue_type = "exception"

    def __init__(
        self, message: str, *, code: str | None = None, issues: Sequence[OutcomeIssue] = ()
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.issues = tuple(issues)


class CallerError(FhirExtError):
    status = 400
    default_code = "bad-request"
    issue_type = "invalid"


class BadRequestError(CallerError):
    pass


class UnauthorizedError(CallerError):
    """No token, or one that does not hold (RFC 6750 section 3)."""

    status = 401
    default_code = "unauthorized"
    issue_type = "login"


class ForbiddenError(CallerError):
    status = 403
    default_code = "forbidden"
    issue_type = "forbidden"


class NotFoundError(CallerError):
    status = 404
    default_code = "not-found"
    issue_type = "not-found"


class ConflictError(CallerError):
    status = 409
    default_code = "conflict"
    issue_type = "conflict"


class PreconditionFailed(CallerError):
    """The version that If-Match names is not the current one (FHIR R4 http.html#concurrency)."""

    status = 412
    default_code = "version-mismatch"
    issue_type = "conflict"


class PreconditionRequired(CallerError):
    """A write that must name the version it changes does not (RFC 6585 section 3)."""

    status = 428
    default_code = "if-match-missing"
    issue_type = "required"


class TooLargeError(CallerError):
    status = 413
    default_code = "too-large"
    issue_type = "too-costly"


class UnprocessableError(CallerError):
    status = 422
    default_code = "unprocessable"
    issue_type = "processing"


class ThrottledError(CallerError):
    """Too many requests of one client.

    Args:
        retry_after: seconds after which the next one is let through.
    """

    status = 429
    default_code = "throttled"
    issue_type = "throttled"

    def __init__(self, message: str, *, retry_after: int = 1, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class UpstreamError(FhirExtError):
    """A server we depend on failed; the same call may succeed later."""

    status = 502
    default_code = "upstream-failed"
    issue_type = "transient"


class UpstreamUnavailable(UpstreamError):
    status = 503
    default_code = "upstream-unavailable"


class UpstreamTimeout(UpstreamError):
    status = 504
    default_code = "upstream-timeout"
    issue_type = "timeout"


class RefusedInput(FhirExtError):
    """Pixels, headers or references that no service may use.

    Raised where the data are read; the workflow turns it into a coded result
    that an operator can see. It is never retried.
    """

    status = 422
    default_code = "refused"
    issue_type = "business-rule"


class ParkedWork(FhirExtError):
    """The work cannot go on by itself; the workflow writes a Task and stops."""

    status = 409
    default_code = "parked"
    issue_type = "incomplete"


class SettingsError(FhirExtError):
    default_code = "settings"
