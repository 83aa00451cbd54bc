"""Codes of model versions: Device and card, recalls, refused changes, failures, alerts.

AI Transparency on FHIR is taken as it was balloted: 1.0.0-ballot (STU1 ballot, January 2026).
"""

from __future__ import annotations

from typing import Final

from fhir_ext.resources.codes.base import Coding, LocalSystem, local_codes

_IG: Final = "http://hl7.org/fhir/uv/aitransparency"

#: Extensions of Device: the kind of technique, and the card that describes it.
AI_KIND_EXTENSION: Final = f"{_IG}/StructureDefinition/aitransparency.AIKind"
MODEL_CARD_EXTENSION: Final = f"{_IG}/StructureDefinition/aitransparency.modelCardDescription"

#: True of networks and of deterministic operators alike, unlike the IG's other kinds.
AI_FOR_IMAGES: Final = Coding(
    f"{_IG}/CodeSystem/AIdeviceTypeCS",
    "AI-for-Medical-Imaging-Data",
    "AI for Medical Imaging Data",
)
MODEL_CARD: Final = Coding(f"{_IG}/CodeSystem/AImodelCardCS", "AIModelCard", "AI Model-Card")
MODEL_CARD_MARKDOWN: Final = Coding(
    f"{_IG}/CodeSystem/AImodelCardCS", "AImodelCardMarkdownFormat", "Markdown Format"
)

MODEL_STATE: Final = LocalSystem(
    "model-state",
    "States of model versions",
    "Device.statusReason of a model version; `recalled` also tags what a recall withdrew.",
    local_codes(
        ("draft", "Draft", "Installed, and shown no study."),
        ("shadow", "Shadow", "Shown studies; its results are in no record."),
        ("canary", "Canary", "Writes results of a share of the studies."),
        ("active", "Active", "Writes results of all studies."),
        ("retired", "Retired", "Writes no results any more; those it wrote stand."),
        ("recalled", "Recalled", "Withdrawn, and with it everything that nobody has signed."),
    ),
)

MODEL_PROPERTY: Final = LocalSystem(
    "model-property",
    "Properties of model versions",
    "Device.property.type of a model version.",
    local_codes(
        ("licence", "Licence", "SPDX expression of code and weights."),
        ("citation", "Citation", "Where the method is published."),
        ("review", "Review policy", "When a human must look before results count."),
        ("runtime", "Runtime", "What runs the model."),
    ),
)

RECALL_OUTPUT: Final = LocalSystem(
    "recall-output",
    "Outputs of a recall",
    "Task.output.type of the Task of a recall; each is a count, none names a patient.",
    local_codes(
        ("groups", "Pieces of work", "Pieces of work of the version that were looked at."),
        ("withdrawn", "Withdrawn", "Resources that became entered-in-error."),
        ("signed", "Signed", "Resources that a human had signed; they stand, and are listed."),
        ("reviews", "Reviews asked for", "Tasks that ask a human about signed results or scores."),
    ),
)

#: Kinds of Task (`task-type`).
RECALL_TASKS: Final = (
    ("model-recall", "Model recall", "A model version is withdrawn; the outputs count how far."),
    (
        "recall-review",
        "Review after a recall",
        "Decide what becomes of signed results, or of scores, that rest on a recalled version.",
    ),
)

#: Why such a Task exists (`task-reason`).
RECALL_REASONS: Final = (("model-recalled", "Model recalled", "The model version was withdrawn."),)

#: Why a network parks a study (`task-reason`).
NETWORK_FAILURES: Final = (
    ("weights-hash", "Weights exchanged", "A file of the model is not the one it names."),
    ("weights-size", "Weights too large", "A file of the model is over the size limit."),
    ("weights-corrupt", "Weights damaged", "A file of the model cannot be read."),
    ("weights-unsafe", "Weights unsafe", "A file of the model holds code that is not loaded."),
    ("model-input", "Input not declared", "A network was shown what it does not declare."),
    ("model-output", "Output not declared", "A network answered what it does not declare."),
    ("model-not-finite", "Output not finite", "A network answered NaN or infinity."),
    ("model-failed", "Network failed", "A network raised an error."),
    ("model-crashed", "Network crashed", "The process of a network ended."),
    ("model-hung", "Network hung", "A network did not answer in time and was stopped."),
    ("model-memory", "Network too greedy", "A network wanted more memory than it may have."),
    ("model-answer", "Nonsense of a model server", "A model server answered nonsense."),
    ("model-disagrees", "Runtimes disagree", "Two runtimes of one network differ too much."),
    ("device-memory", "Too little memory", "The device has too little memory for a network."),
)

#: Why a change of a version is refused (`error`).
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

#: Why studies wait until versions are put in order (`task-reason`).
REGISTRY_TASK_REASONS: Final = (
    (
        "two-versions-active",
        "Two versions active",
        "The database says of two versions of one model that they are active.",
    ),
)

MODEL_ALERT: Final = LocalSystem(
    "model-alert",
    "Alerts about models",
    "What monitoring found about one model version, over many results and about no patient.",
    local_codes(
        (
            "model-drift",
            "Model drift",
            "What a model version sees, says or is told differs from its reference.",
        ),
        ("input-drift", "Input mix changed", "Scanners, protocols or people are not as before."),
        ("output-drift", "Output changed", "Numbers or categories are distributed differently."),
        ("refusal-drift", "Refusals changed", "More or fewer results are withheld than before."),
        (
            "agreement-drift",
            "Agreement changed",
            "Reviewers accept, modify or reject more or less often than before.",
        ),
    ),
)
