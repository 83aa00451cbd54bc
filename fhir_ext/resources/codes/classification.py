"""What images are sorted into: our names, and the standard codes of the same meaning."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fhir_ext.resources.codes.base import SCT, Coding, LocalSystem, local_codes
from fhir_ext.results import Region

# Standard codes: SNOMED CT in DICOM PS3.16

BREAST: Final = Coding(SCT, "76752008", "Breast")
#: CID 6022.
BOTH_BREASTS: Final = Coding(SCT, "63762007", "Both breasts")
MAMMOGRAPHY: Final = Coding(SCT, "71651007", "Mammography")

CLASSIFICATION: Final = LocalSystem(
    "classification",
    "Classifications of images",
    "What the services decide between categories, and the probabilities of the categories.",
    local_codes(
        (
            "breast-density",
            "Breast density (BI-RADS)",
            "Which of the four density categories of BI-RADS the breasts belong to.",
        ),
        *(
            (
                f"breast-density-{letter}-probability",
                f"Probability of breast density {letter}",
                f"What the model gives for category {letter}, 0 to 1.",
            )
            for letter in "abcd"
        ),
    ),
)

BREAST_DENSITY: Final = LocalSystem(
    "breast-density",
    "Breast density categories",
    "Density categories of BI-RADS, 5th edition, by their letter.",
    local_codes(
        ("a", "BI-RADS density a", "The breasts are almost entirely fatty."),
        ("b", "BI-RADS density b", "There are scattered areas of fibroglandular density."),
        ("c", "BI-RADS density c", "The breasts are heterogeneously dense."),
        ("d", "BI-RADS density d", "The breasts are extremely dense."),
    ),
)

#: CodeSystem of the categories of each classification.
CATEGORIES: Final[Mapping[str, LocalSystem]] = MappingProxyType({"breast-density": BREAST_DENSITY})

#: Standard code of what is classified (CID 6014).
STANDARD_CLASSIFICATION: Final[Mapping[str, Coding]] = MappingProxyType(
    {"breast-density": Coding(SCT, "129715009", "Breast composition")}
)

#: Standard codes of the categories (CID 6001).
STANDARD_CATEGORY: Final[Mapping[str, Mapping[str, Coding]]] = MappingProxyType(
    {
        "breast-density": MappingProxyType(
            {
                "a": Coding(SCT, "129716005", "Almost entirely fat"),
                "b": Coding(SCT, "129717001", "Scattered fibroglandular densities"),
                "c": Coding(SCT, "129718006", "Heterogeneously dense"),
                "d": Coding(SCT, "129719003", "Extremely dense"),
            }
        )
    }
)

#: What was classified, as `Observation.bodySite`.
CLASSIFIED_SITE: Final[Mapping[Region, Coding]] = MappingProxyType({Region.BREASTS: BOTH_BREASTS})
