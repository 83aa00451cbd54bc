"""Draws the cases of the manifest: a chest of two ellipses with a heart between them.

`python -m models.cardiothoracic_ratio.draw_case FOLDER` writes the same bytes every time. Nothing
in it comes from a patient; the ratio follows from counting pixels: a heart of 71 in a chest of 161.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import numpy as np
from pydicom import Dataset, Sequence
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    RLELossless,
    SegmentationStorage,
)

from fhir_ext.resources.ids import dicom_uid
from models.cardiothoracic_ratio.measure import Mask

SIZE: Final = (200, 240)
_KEY: Final = "cardiothoracic-ratio/case"


def draw(folder: Path) -> None:
    """Write `pa.dcm`, `ap.dcm`, and the segments of each: `pa-seg.dcm`, `ap-seg.dcm`."""
    folder.mkdir(parents=True, exist_ok=True)
    heart = _ellipse(130, 125, 30, 35)
    lungs = _ellipse(95, 60, 70, 20) | _ellipse(95, 180, 70, 20)
    for view in ("PA", "AP"):
        film = _film(view, heart, lungs)
        film.save_as(folder / f"{view.lower()}.dcm", enforce_file_format=True)
        drawn = _segments(film, {("80891009", "Heart"): heart, ("39607008", "Lung"): lungs})
        drawn.save_as(folder / f"{view.lower()}-seg.dcm", enforce_file_format=True)


def _ellipse(row: float, column: float, half_height: float, half_width: float) -> Mask:
    y, x = np.indices(SIZE)
    return np.asarray(((y - row) / half_height) ** 2 + ((x - column) / half_width) ** 2 <= 1)


def _film(view: str, heart: Mask, lungs: Mask) -> Dataset:
    pixels = np.full(SIZE, 120, np.uint8)
    pixels[lungs] = 40
    pixels[heart] = 200
    found = _common(f"{view}/film", DigitalXRayImageStorageForPresentation, "DX", view)
    found.PresentationIntentType = "FOR PRESENTATION"
    found.ImageType = ["ORIGINAL", "PRIMARY"]
    found.Manufacturer, found.BodyPartExamined = "Drawn", "CHEST"
    found.ViewPosition, found.PatientOrientation = view, ["L", "F"]
    found.BurnedInAnnotation, found.InstanceNumber = "NO", 1
    found.Rows, found.Columns = SIZE
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 8, 8, 7, 0
    found.PixelData = pixels.tobytes()
    found["PixelData"].VR = "OB"
    found.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return found


def _segments(film: Dataset, masks: dict[tuple[str, str], Mask]) -> Dataset:
    """Single bits, one frame a segment, each derived from the film (PS3.3 A.51)."""
    found = _common(f"{film.ViewPosition}/seg", SegmentationStorage, "SEG", film.ViewPosition)
    found.ImageType = ["DERIVED", "PRIMARY"]
    found.SegmentationType, found.ContentLabel = "BINARY", "DRAWN"
    found.ContentDate, found.ContentTime, found.InstanceNumber = "20200101", "120000", 1
    found.SegmentSequence = Sequence(
        [_segment(number, code) for number, code in enumerate(masks, start=1)]
    )
    found.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    found.PerFrameFunctionalGroupsSequence = Sequence(
        [_frame(number, film) for number in range(1, len(masks) + 1)]
    )
    found.NumberOfFrames = len(masks)
    found.Rows, found.Columns = SIZE
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 1, 1, 0, 0
    bits = np.concatenate([mask.ravel() for mask in masks.values()])
    found.PixelData = np.packbits(bits, bitorder="little").tobytes()
    found["PixelData"].VR = "OB"
    return found


def _segment(number: int, code: tuple[str, str]) -> Dataset:
    found = Dataset()
    found.SegmentNumber, found.SegmentLabel = number, code[1]
    found.SegmentAlgorithmType = "MANUAL"
    found.SegmentedPropertyCategoryCodeSequence = _code("123037004", "Anatomical Structure")
    found.SegmentedPropertyTypeCodeSequence = _code(*code)
    return found


def _frame(number: int, film: Dataset) -> Dataset:
    source = Dataset()
    source.ReferencedSOPClassUID = film.SOPClassUID
    source.ReferencedSOPInstanceUID = film.SOPInstanceUID
    source.SpatialLocationsPreserved = "YES"
    derived = Dataset()
    derived.SourceImageSequence = Sequence([source])
    segment = Dataset()
    segment.ReferencedSegmentNumber = number
    found = Dataset()
    found.DerivationImageSequence = Sequence([derived])
    found.SegmentIdentificationSequence = Sequence([segment])
    return found


def _code(value: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return Sequence([item])


def _common(name: str, sop_class: UID, modality: str, view: str) -> Dataset:
    found = Dataset()
    found.SOPClassUID, found.SOPInstanceUID = sop_class, UID(dicom_uid(_KEY, name))
    found.StudyInstanceUID = dicom_uid(_KEY, f"{view}/study")
    found.SeriesInstanceUID = dicom_uid(_KEY, f"{name}/series")
    found.SpecificCharacterSet = "ISO_IR 192"
    found.PatientName, found.PatientID = "Case^Drawn", "CASE"
    found.PatientBirthDate, found.PatientSex, found.PatientAge = "19600101", "O", "060Y"
    found.StudyDate, found.StudyTime = "20200101", "120000"
    found.StudyID, found.AccessionNumber, found.ReferringPhysicianName = "1", "", ""
    found.Modality, found.SeriesNumber = modality, 1
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, found.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta = meta
    return found


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
