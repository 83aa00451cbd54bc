"""Code systems of ours about images: what is measured, withheld, found, and asked of people."""

from __future__ import annotations

from typing import Final

from fhir_ext.resources.codes.base import LocalSystem, local_codes
from fhir_ext.resources.codes.findings import FINDING_MEASUREMENTS
from fhir_ext.resources.codes.models import (
    NETWORK_FAILURES,
    RECALL_REASONS,
    RECALL_TASKS,
    REGISTRY_ERRORS,
    REGISTRY_TASK_REASONS,
)
from fhir_ext.resources.codes.radiography import (
    RADIOGRAPHY_ISSUES,
    RADIOGRAPHY_MEASUREMENTS,
    RADIOGRAPHY_REFUSALS,
)
from fhir_ext.resources.codes.segments import (
    SEGMENT_ISSUES,
    SEGMENT_MEASUREMENTS,
    SEGMENT_REFUSALS,
)

_OTHER = ("other", "Other", "A reason that has no code of its own; the text says which.")

# Ours: what is measured

MEASUREMENT: Final = LocalSystem(
    "measurement",
    "Measurements on images",
    "Numbers that the services measure, and the panels that group them.",
    local_codes(
        (
            "lung-density-panel",
            "Lung density panel",
            "Volume and attenuation of both lungs and of each lung on one CT series.",
        ),
        (
            "lung-volume",
            "Lung volume",
            "Volume of the lung without trachea and main bronchi, as it was in the scan.",
        ),
        (
            "mean-lung-density",
            "Mean lung density",
            "Mean attenuation of the lung without trachea and main bronchi.",
        ),
        (
            "laa-950",
            "Low attenuation area below -950 HU",
            "Share of the lung's voxels with an attenuation of -950 HU or less.",
        ),
        (
            "perc15",
            "15th percentile of lung density",
            "Attenuation below which 15 percent of the lung's voxels lie.",
        ),
    )
    + SEGMENT_MEASUREMENTS
    + FINDING_MEASUREMENTS
    + RADIOGRAPHY_MEASUREMENTS,
)

# Ours: why something was not done

REFUSAL_REASON: Final = LocalSystem(
    "refusal-reason",
    "Reasons for withholding a number",
    "Why a service gives no number: what the images or the acquisition lack.",
    local_codes(
        ("modality", "Wrong modality", "The modality is not one the model was made for."),
        ("image-type", "Image type not measurable", "A localizer, projection or derived image."),
        ("kernel", "Kernel not accepted", "The convolution kernel is not known to be smooth."),
        ("slice-thickness", "Slice thickness out of range", "The nominal thickness of slices."),
        ("spacing", "Spacing out of range", "The distance of slices or of pixels."),
        ("slice-count", "Too few slices", "The stack holds too few slices."),
        ("coverage", "Organ not covered", "The stack does not cover the whole organ."),
        ("gap", "Slices missing", "Slices are missing inside the stack."),
        ("irregular-spacing", "Irregular spacing", "The distance of slices varies."),
        ("duplicate-slices", "Duplicate slices", "Several slices lie at the same place."),
        ("single-slice", "Single slice", "The stack is a single slice."),
        ("gantry-tilt", "Gantry tilt", "The stack is sheared by a tilted gantry."),
        ("contrast-agent", "Contrast agent given", "A contrast agent was given."),
        ("kvp", "Tube voltage out of range", "The tube voltage is outside the accepted range."),
        ("patient-age", "Age out of range", "The patient's age is outside the accepted range."),
        ("burned-in-annotation", "Burned-in text", "Text is burned into the pixels."),
        (
            "lung-mask-implausible",
            "Lungs not plausible",
            "The lungs that were found cannot be believed.",
        ),
        ("implausible-value", "Value not plausible", "Outside of what a body can show."),
        ("localizer", "Localizer", "The instance is a localizer, not a slice of the stack."),
        ("truncated", "Truncated", "The instance ends before its data do."),
        ("not-dicom", "Not DICOM", "The bytes are no DICOM instance."),
        ("missing-geometry", "Geometry missing", "Position, orientation or spacing is missing."),
        ("too-large", "Too large", "A size is over a limit of this installation."),
        ("not-an-image", "Not an image", "The instance has no pixel data."),
        (
            "unsupported-transfer-syntax",
            "Transfer syntax not supported",
            "The pixels are encoded in a way that cannot be decoded here.",
        ),
        ("unsupported-pixels", "Pixels not supported", "The pixel format is not a CT image's."),
        (
            "photometric-interpretation",
            "Photometric interpretation not supported",
            "The pixels are colours or inverted grey values.",
        ),
        ("not-hounsfield", "Not in Hounsfield units", "The pixels have no Hounsfield scale."),
        ("duplicate", "Duplicate instance", "The same instance came more than once."),
        ("corrupt-pixels", "Pixels corrupt", "The pixel data cannot be decoded."),
        ("wrong-study", "Wrong study", "The instance belongs to another study."),
        ("breast-implant", "Breast implant", "A breast holds an implant."),
        (
            "presentation-intent",
            "Raw image",
            "The images are made for processing, not for reading.",
        ),
        ("laterality", "Side unclear", "The side is not stated, or stated in two ways."),
        ("mammography-view", "View unclear", "The view is not stated, or stated in two ways."),
        (
            "special-view",
            "Special view",
            "In place of a standard view there is one with compression, magnification or another "
            "modifier.",
        ),
        ("missing-view", "View missing", "A view that is needed is not there."),
        ("duplicate-view", "View twice", "A view that is needed is there more than once."),
        (
            "image-size",
            "Image size",
            "The image is smaller or larger than what the model looks at.",
        ),
        (
            "patient-orientation",
            "Orientation contradicts",
            "The pixels lie otherwise than the header says.",
        ),
        ("blank-image", "Blank image", "All pixels are the same."),
        ("no-slices", "No slices", "The series holds no slice that can be used."),
        ("model-not-installed", "Model not installed", "The model or its weights are missing."),
    )
    + SEGMENT_REFUSALS
    + local_codes(
        (
            "patient-position",
            "Position of the patient",
            "The patient lay otherwise than is accepted.",
        ),
        (
            "blood-pool-unenhanced",
            "Blood is not enhanced",
            "The attenuation of blood says that no contrast agent is in it.",
        ),
        (
            "pixel-spacing",
            "Pixel size not usable",
            "The size of a pixel is not stated, not calibrated, or out of range.",
        ),
        (
            "view-position",
            "Projection not accepted",
            "The projection of a radiograph is not stated, or not an accepted one.",
        ),
    )
    + RADIOGRAPHY_REFUSALS
    + local_codes(_OTHER),
)

NOT_APPLIED_REASON: Final = LocalSystem(
    "not-applied-reason",
    "Reasons for not looking at a series",
    "Why the planning rules do not show a series to a service.",
    local_codes(
        ("modality", "Modality", "The modality is not one of the rule."),
        ("body-part", "Body part", "The body part is not one of the rule, or not known."),
        ("description", "Description", "The series description is excluded by the rule."),
        ("too-few-instances", "Too few instances", "The series has fewer instances than needed."),
        (
            "model-not-active",
            "Model not active",
            "No version of the model is switched on for studies like this one.",
        ),
        (
            "no-segmentation",
            "No segmentation",
            "The study holds no segmentation in the frame of reference of the series.",
        ),
        (
            "segmentation-recalled",
            "Segmentation recalled",
            "The model version that drew the segmentation was recalled.",
        ),
        (
            "segmentation-rejected",
            "Segmentation rejected",
            "A reviewer rejected the result that drew the segmentation.",
        ),
        ("not-preferred", "Not preferred", "The model prefers another series of the study."),
        ("age", "Age", "The age at the study is outside the rule, or not known."),
        ("program", "Program", "The patient is no member of the rule's program."),
        ("no-rule", "No rule", "No rule speaks of this series."),
        ("model-not-installed", "Model not installed", "The model or its weights are missing."),
        ("resource-gone", "Resource gone", "The ImagingStudy does not exist any more."),
        ("not-available", "Not available", "ImagingStudy.status is not available."),
        ("already-written", "Already written", "The same results stand in the server."),
        _OTHER,
    ),
)

# Ours: findings, outcomes and tasks

DETECTED_ISSUE: Final = LocalSystem(
    "detected-issue",
    "Issues found on images",
    "What a service found that a human should look at.",
    local_codes(
        (
            "emphysema-on-ct",
            "Emphysema on CT",
            "Low attenuation areas of the lungs reach the threshold of CT emphysema, and no "
            "emphysema is on the problem list.",
        ),
    )
    + SEGMENT_ISSUES
    + RADIOGRAPHY_ISSUES,
)

TASK_TYPE: Final = LocalSystem(
    "task-type",
    "Tasks for people",
    "What a Task of ours asks a human to do.",
    local_codes(
        ("review-ai-result", "Review AI result", "Accept, modify or reject a preliminary result."),
        ("incomplete-study", "Incomplete study", "Find out why a study stays incomplete."),
        ("stuck-work", "Stuck work", "A step gave up; resume it once the cause is removed."),
        *RECALL_TASKS,
    ),
)

TASK_REASON: Final = LocalSystem(
    "task-reason",
    "Reasons of tasks",
    "Why a Task of ours exists.",
    local_codes(
        ("policy-always", "Review policy: always", "Every result of this model is reviewed."),
        (
            "policy-rule",
            "Review policy: by rule",
            "The result raised a risk or an issue, or a rule of the model asks for it.",
        ),
        ("incomplete-study", "Study incomplete", "The archive holds fewer instances than named."),
        ("not-in-archive", "Study not in the archive", "The archive has no such study."),
        ("unknown-patient", "Unknown patient", "The subject is no Patient of this server."),
        ("no-study-uid", "No Study Instance UID", "The ImagingStudy names no study in DICOM."),
        ("upstream-failed", "Server failed", "A server that is needed kept failing."),
        ("upstream-unavailable", "Server unavailable", "A server that is needed stayed away."),
        ("upstream-timeout", "Server too slow", "A server that is needed kept not answering."),
        ("fhir-server-error", "FHIR server failed", "The FHIR server kept answering errors."),
        ("fhir-refused", "FHIR server refused", "The FHIR server refuses a resource."),
        ("fhir-credentials", "FHIR credentials", "The FHIR server refuses our credentials."),
        ("resource-not-found", "Resource not found", "A resource that is needed is missing."),
        ("write-conflict", "Write conflict", "Others kept writing the same resources."),
        ("stow-failed", "Archive did not store", "The archive kept failing to store a result."),
        ("stow-refused", "Archive refused", "The archive refuses to store a result."),
        ("malformed-answer", "Nonsense answered", "A server keeps answering what is not DICOMweb."),
        ("short-series", "Series short", "The archive delivers fewer instances than it lists."),
        ("connection-dropped", "Connection dropped", "A server kept ending answers early."),
        ("archive-refused-us", "Archive credentials", "The archive refuses our credentials."),
        ("archive-not-orthanc", "Archive is no Orthanc", "The archive has no change feed."),
        ("malformed-multipart", "Multipart malformed", "An answer of the archive is no multipart."),
        (
            "malformed-metadata",
            "Metadata malformed",
            "The archive's description of a study or series cannot be read.",
        ),
        ("token-refused", "No token", "The token endpoint refuses our credentials."),
        ("worker-crashed", "Worker crashed", "The work ended its worker again and again."),
        ("model-not-installed", "Model not installed", "The model or its weights are missing."),
        *NETWORK_FAILURES,
        *REGISTRY_TASK_REASONS,
        *RECALL_REASONS,
        ("parked", "Parked", "The work cannot go on by itself."),
        ("internal", "Internal error", "An error in this software; the log names the incident."),
        _OTHER,
    ),
)

ERROR: Final = LocalSystem(
    "error",
    "Errors",
    "OperationOutcome.issue.details of errors that this service reports.",
    local_codes(
        ("bad-request", "Bad request", "The request is malformed."),
        ("unauthorized", "Unauthorized", "No token, or one that does not hold."),
        (
            "invalid-token",
            "Token not valid",
            "Malformed, not ours, not active, or its signature fails.",
        ),
        ("expired-token", "Token expired", "The token was valid once."),
        ("unknown-key", "Unknown key", "The issuer has no key that fits the token."),
        ("no-persona", "No role", "No role of the token is known here."),
        ("forbidden", "Forbidden", "Secret, scope or role does not allow it."),
        ("outgoing-address", "Address refused", "The address may not be called from here."),
        ("not-found", "Not found", "No such resource, study or model."),
        ("conflict", "Conflict", "The state does not allow it."),
        ("version-mismatch", "Version mismatch", "If-Match names another version."),
        ("if-match-missing", "If-Match missing", "The write must name the version it changes."),
        ("review-parameter", "Review parameter", "A parameter of the review is wrong."),
        ("review-target", "Review target", "A change names what cannot be changed."),
        ("review-decided", "Already decided", "The review was decided otherwise before."),
        ("review-claimed", "Claimed", "Somebody else has claimed the Task."),
        ("review-closed", "Closed", "The result was superseded or withdrawn."),
        ("not-a-review", "Not a review", "The Task does not ask for a review."),
        ("persona", "Wrong role", "The role of the caller does not allow it."),
        ("too-large", "Too large", "Over a limit of this installation."),
        ("unprocessable", "Unprocessable", "Well formed, but cannot be acted on."),
        ("throttled", "Throttled", "Too many requests of one client."),
        ("upstream-failed", "Server failed", "A server behind this one failed."),
        ("upstream-unavailable", "Server unavailable", "A server behind this one is down."),
        ("upstream-timeout", "Server too slow", "A server behind this one did not answer."),
        ("refused", "Refused", "The data may not be used."),
        ("unknown-model", "Unknown model", "There is no risk model of that code."),
        ("unknown-input", "Unknown input", "There is no input of that name."),
        ("invalid-input", "Invalid input", "An input is not of the kind that it must be."),
        ("unit-not-accepted", "Unit not accepted", "A unit that cannot be converted."),
        ("missing-input", "Missing input", "A risk model needs an input that nobody gave."),
        ("out-of-range", "Out of range", "An input for which a risk model does not hold."),
        ("not-applicable", "Not applicable", "A risk model is not for this person."),
        ("contradicting-inputs", "Contradiction", "Inputs that cannot both be true."),
        ("unusable-value", "Unusable value", "A recorded value that a risk model cannot use."),
        ("unsupported-media-type", "Format not read", "The body is in a format not read here."),
        (
            "audit-unavailable",
            "Audit not possible",
            "The access cannot be recorded, so it is not answered.",
        ),
        *REGISTRY_ERRORS,
        ("parked", "Parked", "The work waits for a human."),
        ("settings", "Settings", "The installation is configured wrongly."),
        ("internal", "Internal error", "An error in this software."),
    ),
    complete=False,
)
