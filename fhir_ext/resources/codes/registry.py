"""Codes of ours about changing model versions: why a change is refused."""

from __future__ import annotations

from typing import Final

#: Codes of the CodeSystem `error`: (code, display, definition).
REGISTRY_ERRORS: Final = (
    ("model-not-installed", "Model not installed", "No such model version is installed."),
    ("model-invalid", "Model not valid", "The folder of a model cannot be installed as it is."),
    ("model-folder", "No such folder", "The inbox of models has no such folder."),
    ("model-exists", "Version installed", "The version is installed with other files."),
    ("model-changed", "Changed meanwhile", "Somebody else changed the same model versions."),
    ("model-state", "State not allowed", "A model version cannot go to that state from its own."),
    ("model-share", "Share not valid", "The share of a canary is not above 0 and at most 1."),
    ("model-without-cases", "No cases", "The manifest has no cases, without which it may not run."),
    ("model-not-tested", "Not tested", "The cases of the model version were not run."),
    ("model-test-failed", "Test failed", "The cases of the model version did not hold."),
    ("model-files-changed", "Files changed", "Files are others than those that count."),
    ("model-no-earlier", "No earlier version", "There is no version to go back to."),
    ("model-reason", "Reason missing", "The change needs a reason in words."),
)

#: Codes of the CodeSystem `task-reason`.
REGISTRY_TASK_REASONS: Final = (
    (
        "two-versions-active",
        "Two versions active",
        "The database says of two versions of one model that they are active.",
    ),
)
