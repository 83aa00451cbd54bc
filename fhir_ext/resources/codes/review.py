"""Codes of the review: what a human decided, why, and how far the work on it is."""

from __future__ import annotations

from typing import Final

from fhir_ext.resources.codes.base import DCM, HL7, Coding, LocalSystem, local_codes

#: Who answers for a result that a machine asserted.
VERIFIER: Final = Coding(f"{HL7}/provenance-participant-type", "verifier", "Verifier")

#: Integrity label of a value that a human typed, in place of `AI_ASSERTED`.
CLINICIAN_ASSERTED: Final = Coding(f"{HL7}/v3-ObservationValue", "CLINAST", "clinician asserted")

REJECTED_FOR_QUALITY: Final = Coding(DCM, "113001", "Rejected for Quality Reasons")

REVIEW_OUTCOME: Final = LocalSystem(
    "review-outcome",
    "Outcomes of a review",
    "What a human decided about the preliminary result of a model.",
    local_codes(
        ("accept", "Accepted", "The result stands as the model gave it."),
        ("modify", "Modified", "Some numbers were replaced by the reviewer's."),
        ("reject", "Rejected", "The result was entered in error."),
    ),
)

REVIEW_REASON: Final = LocalSystem(
    "review-reason",
    "Reasons of a review",
    "Why a reviewer changed or rejected a result; other systems and text are accepted too.",
    local_codes(
        ("wrong-outline", "Outline wrong", "The organ or lesion was not outlined rightly."),
        ("wrong-number", "Number wrong", "The number does not follow from the images."),
        ("number-supplied", "Number supplied", "A number that was withheld was measured by hand."),
        ("image-quality", "Image quality", "Motion, artefact or noise make the number worthless."),
        ("wrong-series", "Wrong series", "Another series should have been measured."),
        ("wrong-patient", "Wrong patient", "The images are not those of the patient."),
        ("disease-outside", "Outside of the model's use", "The anatomy or disease is excluded."),
        ("other", "Other", "A reason that has no code of its own; the text says which."),
    ),
)

REVIEW_STATUS: Final = LocalSystem(
    "review-status",
    "Progress of a review",
    "Task.businessStatus of a review Task.",
    local_codes(
        ("claimed", "Claimed", "A reviewer has taken the Task."),
        ("sr-pending", "DICOM pending", "Decided; the archive does not hold what follows yet."),
        ("done", "Done", "Decided, and the archive holds what follows from it."),
    ),
)

REVIEW_OUTPUT: Final = LocalSystem(
    "review-output",
    "Outputs of a review",
    "Task.output.type of a review Task.",
    local_codes(
        ("outcome", "Outcome", "What was decided."),
        ("trail", "Trail", "The Provenance that names reviewer, reason and the machine's values."),
        ("request-digest", "Request digest", "sha256 of outcome and changes, to know a repeat."),
    ),
)

HUMAN_VALUE: Final = LocalSystem(
    "value-origin",
    "Origins of numbers",
    "Measurement method of a number in an SR that no model gave.",
    local_codes(("human-value", "Value given by a reviewer", "A human replaced the number.")),
)
