"""Codes of places that services find, of the parts of results, and of further panels."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fhir_ext.resources.codes.base import DCM, SCT, Coding, LocalSystem, local_codes
from fhir_ext.resources.codes.classification import MAMMOGRAPHY
from fhir_ext.resources.codes.standard import COMPUTED_TOMOGRAPHY

BREAST_DENSITY_PANEL: Final = "breast-density-panel"
NODULE_PANEL: Final = "nodule-detection-panel"

#: End of the name under which it is written how many places or segments were found.
COUNT_SUFFIX: Final = "-count"

# Standard codes: SNOMED CT and DCM in DICOM PS3.16

#: CID 225; TID 310 has its two halves.
MEASUREMENT_UNCERTAINTY: Final = Coding(SCT, "371884006", "+/-, range of measurement uncertainty")
#: CID 240.
PRESENT: Final = Coding(SCT, "52101004", "Present")
ABSENT: Final = Coding(SCT, "272519000", "Absent")
#: CID 7150.
ANATOMICAL_STRUCTURE: Final = Coding(SCT, "91723000", "Anatomical Structure")
MEASUREMENT_METHOD: Final = Coding(SCT, "370129005", "Measurement Method")
NODULE: Final = Coding(SCT, "27925004", "Nodule")
FRAME_OF_REFERENCE_UID: Final = Coding(DCM, "112227", "Frame of Reference UID")
COMMENT: Final = Coding(DCM, "121106", "Comment")
PLAIN_RADIOGRAPHY: Final = Coding(SCT, "168537006", "Plain radiography")

#: Procedure Reported of an SR, by the modality of the images it speaks of.
PROCEDURES: Final[Mapping[str, Coding]] = MappingProxyType(
    {
        "CT": COMPUTED_TOMOGRAPHY,
        "MG": MAMMOGRAPHY,
        "CR": PLAIN_RADIOGRAPHY,
        "DX": PLAIN_RADIOGRAPHY,
    }
)
#: CID 100, for all others.
IMAGING_PROCEDURE: Final = Coding(SCT, "363679005", "Imaging procedure")

# Standard codes: SNOMED CT, seen elsewhere

NODULE_OF_LUNG: Final = Coding(SCT, "786838002", "Nodule of lung")

DETECTION: Final = LocalSystem(
    "detection",
    "Places that services find",
    "What the services look for in images, and the classes of what they find.",
    local_codes(
        ("lung-nodule", "Lung nodule", "A place in the lungs that looks like a nodule."),
        ("nodule", "Nodule", "The only class of a detector of nodules."),
    ),
)

#: Standard codes of the same meaning.
STANDARD_DETECTION: Final[Mapping[str, Coding]] = MappingProxyType(
    {"lung-nodule": NODULE_OF_LUNG, "nodule": NODULE}
)

RESULT_PART: Final = LocalSystem(
    "result-part",
    "Parts of results",
    "Components of Observations for which no standard code was found.",
    local_codes(
        ("score", "Score of a detection", "The model's own number; no probability of disease."),
        *(
            (
                f"centre-{axis}",
                f"Centre along {axis}",
                f"Centre of the box along {axis} of the patient coordinate system of DICOM.",
            )
            for axis in "xyz"
        ),
        *(
            (
                f"size-{axis}",
                f"Size along {axis}",
                f"Full width of the box along {axis} of the patient coordinate system of DICOM.",
            )
            for axis in "xyz"
        ),
        (
            "confidence-level",
            "Confidence level",
            "Of the interval that the range of uncertainty is half of; without it the range is "
            "one standard deviation.",
        ),
    ),
)

#: Rows of the CodeSystem `measurement`.
FINDING_MEASUREMENTS: Final = local_codes(
    (
        BREAST_DENSITY_PANEL,
        "Breast density panel",
        "Which density category the mammograms of one study show.",
    ),
    (
        NODULE_PANEL,
        "Nodule detection panel",
        "Which places of one CT series look like lung nodules, and how many.",
    ),
    (
        f"lung-nodule{COUNT_SUFFIX}",
        "Number of lung nodules found",
        "How many places in the lungs look like nodules to the model.",
    ),
)
