"""Whether a version may look at studies: its files are what they were, its cases hold."""

from __future__ import annotations

from fhir_ext.errors import ConflictError
from models.registry import Installed
from operations.model_registry.folder import digest_of
from operations.model_registry.rows import VersionRow


def require_unchanged(row: VersionRow, installed: Installed) -> None:
    """Raise when files differ from those that were installed.

    Raises:
        ConflictError: `model-files-changed`.
    """
    if _digest(installed) != row.digest:
        raise ConflictError(
            "files of this version differ from those that were installed; "
            "a change needs a new version",
            code="model-files-changed",
        )


def require_tested(row: VersionRow, installed: Installed, *, needs_cases: bool) -> None:
    """Raise unless the cases of a version held, for the files that are there now.

    Args:
        needs_cases: a version without any is refused.

    Raises:
        ConflictError: `model-without-cases`, `model-not-tested`, `model-test-failed` or
            `model-files-changed`.
    """
    require_unchanged(row, installed)
    if not installed.manifest.cases:
        if needs_cases:
            raise ConflictError(
                "the manifest has no cases; it may be a shadow only", code="model-without-cases"
            )
        return
    command = f"fhir-ext model test {row.service} {row.version}"
    if row.test_passed is None:
        raise ConflictError(f"its cases were never run: `{command}`", code="model-not-tested")
    if not row.test_passed:
        raise ConflictError("its cases did not hold", code="model-test-failed")
    if row.tested_digest != row.digest:
        raise ConflictError(
            f"its files changed since its cases were run: `{command}`", code="model-files-changed"
        )


def _digest(installed: Installed) -> str:
    try:
        return digest_of(installed.folder)
    except OSError as error:
        raise ConflictError(
            "files of this version cannot be read", code="model-files-changed"
        ) from error
