"""Draws the case of the manifest: two kidneys, an aorta, and calcium in the coronary arteries.

`python -m models.segment_measurements.draw_case FOLDER` writes the same bytes every time. Nothing
in it comes from a patient; the expected numbers follow from counting voxels.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

from fhir_ext.dicom.assemble import VolumeAssembler
from fhir_ext.resources.codes import REGION_SITE
from fhir_ext.resources.ids import dicom_uid
from fhir_ext.results import ModelIdentity, Region
from fhir_ext.settings import LimitSettings

#: Slices, rows, columns; 3 mm by 1 mm by 1 mm.
SHAPE: Final = (20, 60, 60)
SPACING: Final = (3.0, 1.0, 1.0)

TISSUE_HU, CALCIUM_HU = 30, 450

Box = tuple[slice, slice, slice]

#: 4 slices of 8 x 8 mm above 400 HU: 4 * 64 mm2 * weight 4 = 1024.
CALCIUM: Final[Box] = (slice(8, 12), slice(30, 38), slice(40, 48))
#: Segment numbers and where they are; a kidney is 16 * 22 * 24 voxels of 3 mm3.
SEGMENTS: Final[dict[Region, Box]] = {
    Region.LEFT_KIDNEY: (slice(2, 18), slice(4, 26), slice(32, 56)),
    Region.RIGHT_KIDNEY: (slice(2, 18), slice(4, 26), slice(4, 28)),
    Region.CORONARY_ARTERIES: (slice(6, 14), slice(28, 50), slice(30, 56)),
    # Whose blood says that no contrast agent was given.
    Region.DESCENDING_AORTA: (slice(2, 18), slice(34, 54), slice(4, 24)),
}

_KEY: Final = "segment-measurements/case"


def draw(folder: Path) -> None:
    """Write `ct-NN.dcm` and `seg.dcm`."""
    folder.mkdir(parents=True, exist_ok=True)
    voxels = np.full(SHAPE, TISSUE_HU, np.int16)
    voxels[CALCIUM] = CALCIUM_HU
    limits = LimitSettings()
    with VolumeAssembler(
        SHAPE[0],
        limits,
        study_instance_uid=dicom_uid(_KEY, "study"),
        series_instance_uid=dicom_uid(_KEY, "ct"),
    ) as assembler:
        for index, plane in enumerate(voxels):
            path = folder / f"ct-{index + 1:02}.dcm"
            _slice(index, plane).save_as(path, enforce_file_format=True)
            assembler.add(memoryview(path.read_bytes()))
        (volume,) = assembler.finish().volumes

    from fhir_ext.dicom.seg_write import Segment, build_segmentation

    labels = np.zeros(SHAPE, np.uint8)
    drawn = []
    for number, (region, box) in enumerate(SEGMENTS.items(), start=1):
        labels[box] = number
        drawn.append(Segment(region.value, (REGION_SITE[region],), region, labels, number))
    drawer = ModelIdentity("drawn-by-hand", "1.0.0", "Drawn by hand", "0" * 64)
    made = build_segmentation(drawer, _KEY, volume, drawn)
    assert made is not None
    made.save_as(folder / "seg.dcm", enforce_file_format=True)


def _slice(index: int, plane: npt.NDArray[np.int16]) -> Dataset:
    found = Dataset()
    found.SOPClassUID = CTImageStorage
    found.SOPInstanceUID = dicom_uid(_KEY, f"ct/{index}")
    found.StudyInstanceUID = dicom_uid(_KEY, "study")
    found.SeriesInstanceUID = dicom_uid(_KEY, "ct")
    found.FrameOfReferenceUID = dicom_uid(_KEY, "frame")
    found.SpecificCharacterSet = "ISO_IR 192"
    found.PatientName, found.PatientID = "Case^Drawn", "CASE"
    found.PatientBirthDate, found.PatientSex, found.PatientAge = "19600101", "O", "060Y"
    found.StudyDate, found.StudyTime = "20200101", "120000"
    found.ContentDate, found.ContentTime = "20200101", "120000"
    found.StudyID, found.AccessionNumber, found.ReferringPhysicianName = "1", "", ""
    found.Modality, found.SeriesNumber, found.InstanceNumber = "CT", 1, index + 1
    found.PatientPosition, found.PositionReferenceIndicator = "HFS", ""
    found.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    found.Manufacturer, found.ConvolutionKernel = "SIEMENS", "B30f"
    found.KVP, found.SliceThickness, found.AcquisitionNumber = 120, SPACING[0], 1
    found.ImagePositionPatient = [0, 0, SPACING[0] * index]
    found.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    found.PixelSpacing = [SPACING[1], SPACING[2]]
    found.Rows, found.Columns = plane.shape
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 16, 16, 15, 1
    found.RescaleIntercept, found.RescaleSlope, found.RescaleType = 0, 1, "HU"
    found.PixelData = plane.astype("<i2").tobytes()
    found["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        found.SOPClassUID,
        found.SOPInstanceUID,
    )
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta = meta
    # Even planes shrink to almost nothing.
    found.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return found


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
