"""Codes of model versions: what a Device and its card say, and what a recall writes.

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
