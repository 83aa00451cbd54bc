"""Codes of measurements on segmentations: where they are made, what they say, why not."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from fhir_ext.resources.codes.base import DCM, SCT, Coding, local_codes
from fhir_ext.resources.codes.standard import LEFT, MEAN_ATTENUATION, RIGHT, VOLUME
from fhir_ext.results import Region

SEGMENT_PANEL: Final = "segment-measurements-panel"

# Standard codes: SNOMED CT and DCM in DICOM PS3.16

SEGMENT_SITE: Final[Mapping[Region, Coding]] = MappingProxyType(
    {
        region: Coding(SCT, code, display)
        for region, code, display in (
            (Region.CORONARY_ARTERIES, "41801008", "Coronary artery"),
            (Region.LEFT_MAIN, "3227004", "Left Main Coronary Artery"),
            (
                Region.LEFT_ANTERIOR_DESCENDING,
                "59438005",
                "Left Anterior Descending Coronary Artery",
            ),
            (Region.CIRCUMFLEX, "57396003", "Circumflex Coronary Artery"),
            (Region.RIGHT_CORONARY, "13647002", "Right Coronary Artery"),
            (Region.PERICARDIUM, "76848001", "Pericardium"),
            (Region.ASCENDING_AORTA, "54247002", "Ascending aorta"),
            (Region.DESCENDING_AORTA, "281130003", "Descending aorta"),
            (Region.PULMONARY_TRUNK, "45341000", "Pulmonary trunk"),
            (Region.LIVER, "10200004", "Liver"),
            (Region.SPLEEN, "78961009", "Spleen"),
            (Region.PANCREAS, "15776009", "Pancreas"),
            (Region.LEFT_KIDNEY, "64033007", "Kidney"),
            (Region.RIGHT_KIDNEY, "64033007", "Kidney"),
            (Region.VERTEBRA_T11, "12989004", "T11 vertebra"),
            (Region.VERTEBRA_T12, "23215003", "T12 vertebra"),
            (Region.VERTEBRA_L1, "66794005", "L1 vertebra"),
            (Region.VERTEBRA_L2, "14293000", "L2 vertebra"),
            (Region.VERTEBRA_L3, "36470004", "L3 vertebra"),
            (Region.VERTEBRA_L4, "11994002", "L4 vertebra"),
        )
    }
)
SEGMENT_LATERALITY: Final[Mapping[Region, Coding]] = MappingProxyType(
    {Region.LEFT_KIDNEY: LEFT, Region.RIGHT_KIDNEY: RIGHT}
)
SEGMENT_TEXT: Final[Mapping[Region, str]] = MappingProxyType(
    {
        Region.CORONARY_ARTERIES: "Coronary arteries",
        Region.LEFT_MAIN: "Left main coronary artery",
        Region.LEFT_ANTERIOR_DESCENDING: "Left anterior descending artery",
        Region.CIRCUMFLEX: "Circumflex artery",
        Region.RIGHT_CORONARY: "Right coronary artery",
        Region.PERICARDIUM: "Pericardium",
        Region.ASCENDING_AORTA: "Ascending aorta",
        Region.DESCENDING_AORTA: "Descending aorta",
        Region.PULMONARY_TRUNK: "Pulmonary trunk",
        Region.LIVER: "Liver",
        Region.SPLEEN: "Spleen",
        Region.PANCREAS: "Pancreas",
        Region.LEFT_KIDNEY: "Left kidney",
        Region.RIGHT_KIDNEY: "Right kidney",
        Region.VERTEBRA_T11: "T11",
        Region.VERTEBRA_T12: "T12",
        Region.VERTEBRA_L1: "L1",
        Region.VERTEBRA_L2: "L2",
        Region.VERTEBRA_L3: "L3",
        Region.VERTEBRA_L4: "L4",
    }
)
SEGMENT_STANDARD: Final[Mapping[str, Coding]] = MappingProxyType(
    {
        "agatston-score": Coding(SCT, "450360000", "Coronary artery calcium score"),
        "calcium-volume": Coding(DCM, "122660", "Calcium Volume"),
        "trabecular-attenuation": MEAN_ATTENUATION,
        "organ-attenuation": MEAN_ATTENUATION,
        "vessel-diameter": Coding(SCT, "81827009", "Diameter"),
        "organ-volume": VOLUME,
    }
)

#: How a number was made, where its standard code does not tell: a score may be of mass or volume.
SEGMENT_METHOD: Final[Mapping[str, Coding]] = MappingProxyType(
    {"agatston-score": Coding(DCM, "112055", "Agatston scoring method")}
)

#: Refusals that follow from looking at the pixels.
SEGMENT_FAILED: Final = frozenset({"core-too-small", "vessel-shape", "blood-pool-enhanced"})

SEGMENT_MEASUREMENTS: Final = local_codes(
    (
        SEGMENT_PANEL,
        "Measurements on segmentations",
        "What was measured in the segmented organs and vessels of one CT series.",
    ),
    (
        "agatston-score",
        "Agatston score",
        "Calcium of the coronary arteries by the method of Agatston, scaled to slices 3 mm apart.",
    ),
    (
        "calcium-volume",
        "Calcium volume",
        "Volume of the coronary calcium that counts for the Agatston score.",
    ),
    (
        "trabecular-attenuation",
        "Trabecular attenuation",
        "Mean attenuation of the core of a vertebra.",
    ),
    (
        "organ-attenuation",
        "Organ attenuation",
        "Mean attenuation of the core of an organ.",
    ),
    (
        "liver-spleen-difference",
        "Liver minus spleen",
        "Mean attenuation of the core of the liver minus that of the spleen.",
    ),
    (
        "vessel-diameter",
        "Largest diameter of a vessel",
        "Largest diameter of a vessel across its centreline.",
    ),
    (
        "pa-aorta-ratio",
        "Pulmonary trunk to aorta",
        "Largest diameter of the pulmonary trunk over that of the ascending aorta.",
    ),
    ("organ-volume", "Organ volume", "Volume of an organ, by counting voxels."),
    (
        "epicardial-fat-volume",
        "Epicardial fat volume",
        "Volume of the fat inside the pericardium, by its attenuation.",
    ),
)

SEGMENT_REFUSALS: Final = local_codes(
    ("not-a-segmentation", "Not a segmentation", "The instance is no DICOM Segmentation."),
    (
        "seg-geometry",
        "Planes of the segmentation differ",
        "The frames of a segmentation are not parallel, or of different pixel size.",
    ),
    (
        "seg-frame-of-reference",
        "Other frame of reference",
        "The segmentation was not drawn in the frame of reference of the images.",
    ),
    ("seg-empty", "Segment empty", "The segment holds no pixel."),
    ("seg-outside-volume", "Segment outside", "The segment lies outside of the images."),
    (
        "segment-missing",
        "Segment missing",
        "No segmentation shows the structure that is needed.",
    ),
    (
        "blood-pool-enhanced",
        "Blood is enhanced",
        "The attenuation of blood says that a contrast agent is in it.",
    ),
    (
        "blood-pool-unknown",
        "Blood not segmented",
        "No segment shows blood, so that contrast cannot be excluded.",
    ),
    ("core-too-small", "Core too small", "Too little is left after the rim is taken off."),
    ("vessel-shape", "Vessel not measurable", "The segment does not have the shape of the vessel."),
    ("slice-orientation", "Not axial", "The slices are not axial."),
)

SEGMENT_ISSUES: Final = local_codes(
    (
        "coronary-calcium",
        "Coronary calcium",
        "The coronary arteries hold calcium.",
    ),
    (
        "thoracic-aorta-dilated",
        "Ascending aorta dilated",
        "The ascending aorta reaches the diameter from which it is called dilated.",
    ),
    (
        "pulmonary-trunk-dilated",
        "Pulmonary trunk dilated",
        "The pulmonary trunk is wide, by itself or beside the ascending aorta.",
    ),
    (
        "low-vertebral-attenuation",
        "Low vertebral attenuation",
        "The core of L1 is as dark as it is in osteoporosis.",
    ),
)
