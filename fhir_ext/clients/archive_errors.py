"""What an archive answers, or does not, as errors of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import requests
import urllib3.exceptions

from fhir_ext.errors import ForbiddenError, NotFoundError, UpstreamTimeout, UpstreamUnavailable


@contextlib.contextmanager
def upstream() -> Iterator[None]:
    """Turn what requests raises into our errors.

    Raises:
        NotFoundError: 404 or 410.
        UpstreamTimeout: no answer in time, or none behind a proxy.
        UpstreamUnavailable: anything else.
    """
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code
        if status in (404, 410):
            raise NotFoundError("the archive has no such thing") from error
        if status in (408, 504):
            raise UpstreamTimeout(f"the archive answered {status}") from error
        code = "archive-refused-us" if status in (401, 403) else None
        raise UpstreamUnavailable(f"the archive answered {status}", code=code) from error
    except ForbiddenError as error:
        raise UpstreamUnavailable("no token for the archive", code=error.code) from error
    except requests.Timeout as error:
        raise UpstreamTimeout("the archive does not answer in time") from error
    except requests.RequestException as error:
        # A silence in the middle of a body arrives as a connection error.
        cause = error.args[0] if error.args else None
        if isinstance(cause, urllib3.exceptions.ReadTimeoutError):
            raise UpstreamTimeout("the archive fell silent") from error
        raise UpstreamUnavailable("the archive cannot be reached") from error


def status_of(error: Exception) -> int | None:
    """HTTP status behind an error of `upstream`; None when there was no answer."""
    cause = error.__cause__
    return cause.response.status_code if isinstance(cause, requests.HTTPError) else None
