"""What the names of `fhir_ext.results` mean in codes and words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fhir_ext.resources.codes.base import SCT, Coding
from fhir_ext.resources.codes.classification import BREAST
from fhir_ext.resources.codes.findings import BREAST_DENSITY_PANEL, NODULE_PANEL
from fhir_ext.resources.codes.radiography import (
    CARDIOTHORACIC_PANEL,
    RADIOGRAPHY_FAILED,
    RADIOGRAPHY_SITE,
    RADIOGRAPHY_TEXT,
)
from fhir_ext.resources.codes.segments import (
    SEGMENT_FAILED,
    SEGMENT_LATERALITY,
    SEGMENT_PANEL,
    SEGMENT_SITE,
    SEGMENT_STANDARD,
    SEGMENT_TEXT,
)
from fhir_ext.resources.codes.standard import (
    BILATERAL,
    EMPHYSEMA,
    LEFT,
    LUNG,
    MEAN_ATTENUATION,
    RIGHT,
    VOLUME,
)
from fhir_ext.results import Region

#: Standard codes that say what a measurement of ours says.
STANDARD_MEASUREMENT: Final[Mapping[str, Coding]] = MappingProxyType(
    {"lung-volume": VOLUME, "mean-lung-density": MEAN_ATTENUATION, **SEGMENT_STANDARD}
)

#: HU at and below which a voxel counts, by measurement.
THRESHOLD_HU: Final[Mapping[str, int]] = MappingProxyType({"laa-950": -950})

#: Panel of each service.
PANEL: Final[Mapping[str, str]] = MappingProxyType(
    {
        "lung-density": "lung-density-panel",
        "segment-measurements": SEGMENT_PANEL,
        "breast-density": BREAST_DENSITY_PANEL,
        "nodule-detection": NODULE_PANEL,
        "cardiothoracic-ratio": CARDIOTHORACIC_PANEL,
    }
)

#: Refusals that follow from looking at the pixels, not from the acquisition.
FAILED_ANALYSIS: Final = frozenset(
    {
        "lung-mask-implausible",
        "implausible-value",
        "blank-image",
        "patient-orientation",
        *SEGMENT_FAILED,
        *RADIOGRAPHY_FAILED,
    }
)

REGION_SITE: Final[Mapping[Region, Coding]] = MappingProxyType(
    {
        Region.LUNGS: LUNG,
        Region.LEFT_LUNG: LUNG,
        Region.RIGHT_LUNG: LUNG,
        Region.BREASTS: BREAST,
        **SEGMENT_SITE,
        **RADIOGRAPHY_SITE,
    }
)
#: Regions that are not one of a pair have no side.
REGION_LATERALITY: Final[Mapping[Region, Coding]] = MappingProxyType(
    {
        Region.LUNGS: BILATERAL,
        Region.LEFT_LUNG: LEFT,
        Region.RIGHT_LUNG: RIGHT,
        Region.BREASTS: BILATERAL,
        **SEGMENT_LATERALITY,
    }
)
REGION_TEXT: Final[Mapping[Region, str]] = MappingProxyType(
    {
        Region.LUNGS: "Both lungs",
        Region.LEFT_LUNG: "Left lung",
        Region.RIGHT_LUNG: "Right lung",
        Region.BREASTS: "Both breasts",
        **SEGMENT_TEXT,
        **RADIOGRAPHY_TEXT,
    }
)

#: Names of units for people; the codes are UCUM.
UNIT_TEXT: Final[Mapping[str, str]] = MappingProxyType(
    {"[hnsf'U]": "HU", "mL": "mL", "%": "%", "mm": "mm", "mm3": "mm³", "1": "1"}
)

#: Standard codes of the outcomes in `RISK_OUTCOME`.
STANDARD_OUTCOME: Final[Mapping[str, Coding]] = MappingProxyType({"emphysema": EMPHYSEMA})

#: Standard codes of what the issues in `DETECTED_ISSUE` found.
ISSUE_EVIDENCE: Final[Mapping[str, Coding]] = MappingProxyType({"emphysema-on-ct": EMPHYSEMA})

#: What to look for on the problem list before an issue is raised.
CONDITIONS: Final[Mapping[str, tuple[Coding, ...]]] = MappingProxyType({"emphysema": (EMPHYSEMA,)})

#: BodyPartExamined (0018,0015) to SNOMED CT, the CT regions of PS3.16 Annex L and CID 4031.
BODY_PARTS: Final[Mapping[str, Coding]] = MappingProxyType(
    {
        term: Coding(SCT, code, display)
        for term, code, display in (
            ("ABDOMEN", "818981001", "Abdomen"),
            ("BRAIN", "12738006", "Brain"),
            ("BREAST", "76752008", "Breast"),
            ("CHEST", "816094009", "Chest"),
            ("CHESTABDOMEN", "416550000", "Chest and Abdomen"),
            ("CHESTABDPELVIS", "416775004", "Chest, Abdomen and Pelvis"),
            ("CSPINE", "122494005", "Cervical spine"),
            ("HEAD", "69536005", "Head"),
            ("HEADNECK", "774007", "Head and Neck"),
            ("HEART", "80891009", "Heart"),
            ("LSPINE", "122496007", "Lumbar spine"),
            ("LUNG", "39607008", "Lung"),
            ("MEDIASTINUM", "72410000", "Mediastinum"),
            ("NECK", "45048000", "Neck"),
            ("NECKCHEST", "417437006", "Neck and Chest"),
            ("NECKCHESTABDOMEN", "416152001", "Neck, Chest and Abdomen"),
            ("NECKCHESTABDPELV", "416319003", "Neck, Chest, Abdomen and Pelvis"),
            ("PELVIS", "816092008", "Pelvis"),
            ("SKULL", "89546000", "Skull"),
            ("SPINE", "421060004", "Spine"),
            ("THORAX", "816094009", "Thorax"),
            ("TSPINE", "122495006", "Thoracic spine"),
            ("WHOLEBODY", "38266002", "Entire body"),
        )
    }
)
