"""SEG objects as another program writes them: by highdicom, on any grid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from fhir_ext.dicom.seg import Segmentation, read_segmentation
from fhir_ext.dicom.volume import Geometry
from fhir_ext.settings import LimitSettings

LIMITS = LimitSettings()
STUDY, SERIES = "1.2.826.3", "1.2.826.3.2"
LIVER = ("SCT", "10200004", "Liver")
SPLEEN = ("SCT", "78961009", "Spleen")
ORGAN = ("SCT", "123037004", "Anatomical Structure")


def ct_header(geometry: Geometry, shape: tuple[int, int, int], index: int) -> Dataset:
    """A CT slice of a grid, without pixels."""
    found = Dataset()
    found.SOPClassUID = CTImageStorage
    found.SOPInstanceUID = f"{SERIES}.{index + 1}"
    found.StudyInstanceUID, found.SeriesInstanceUID = STUDY, SERIES
    found.FrameOfReferenceUID = geometry.frame_of_reference_uid
    found.PatientID, found.PatientName = "P1", "Phantom^A"
    found.PatientBirthDate, found.PatientSex = "19600101", "O"
    found.StudyID, found.AccessionNumber, found.ReferringPhysicianName = "1", "", ""
    found.StudyDate, found.StudyTime = "20260101", "120000"
    found.Modality, found.SeriesNumber, found.InstanceNumber = "CT", 1, index + 1
    found.Rows, found.Columns = shape[1:]
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated = found.BitsStored = 16
    found.HighBit, found.PixelRepresentation = 15, 0
    position = np.array(geometry.origin) + index * np.array(geometry.slice_step)
    found.ImagePositionPatient = [float(round(value, 6)) for value in position]
    column, row = np.array(geometry.column_step), np.array(geometry.row_step)
    cosines = [*(column / np.linalg.norm(column)), *(row / np.linalg.norm(row))]
    found.ImageOrientationPatient = [float(round(value, 9)) for value in cosines]
    thickness, row_mm, column_mm = geometry.spacing_mm
    found.PixelSpacing = [row_mm, column_mm]
    found.SliceThickness = thickness
    return found


def segment(
    number: int,
    kind: tuple[str, str, str] = LIVER,
    *,
    label: str = "first",
    category: tuple[str, str, str] = ORGAN,
    region: tuple[str, str, str] | None = None,
    side: tuple[str, str, str] | None = None,
    drawn: str = "AUTOMATIC",
) -> Any:
    """highdicom's description of one segment."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    def coded(entry: tuple[str, str, str]) -> CodedConcept:
        return CodedConcept(scheme_designator=entry[0], value=entry[1], meaning=entry[2])

    algorithm = AlgorithmIdentificationSequence("net", codes.DCM.ArtificialIntelligence, "1")
    found = SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=coded(category),
        segmented_property_type=coded(kind),
        algorithm_type=drawn,
        algorithm_identification=None if drawn == "MANUAL" else algorithm,
        anatomic_regions=None if region is None else [coded(region)],
    )
    if side is not None:
        found.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            coded(side)
        ]
    return found


def seg_dataset(
    geometry: Geometry,
    pixels: npt.NDArray[Any],
    segments: Sequence[Any],
    *,
    kind: str = "BINARY",
    instance: str = "1.2.826.3.3.1",
    keep_empty: bool = False,
) -> Dataset:
    """A SEG on a grid of its own.

    Args:
        geometry: the grid.
        pixels: (slices, rows, columns) labels or fractions, or with a last axis of segments.
        segments: from `segment`.
    """
    shape = pixels.shape[:3]
    sources = [ct_header(geometry, shape, index) for index in range(shape[0])]
    return write_seg(
        sources,
        pixels,
        segments,
        series="1.2.826.3.3",
        instance=instance,
        kind=kind,
        omit_empty_frames=not keep_empty,
    )


def write_seg(
    sources: Sequence[Dataset],
    pixels: npt.NDArray[Any],
    segments: Sequence[Any],
    *,
    series: str,
    instance: str,
    kind: str = "BINARY",
    **how: Any,
) -> Dataset:
    """A SEG of highdicom, as another program would write it, on the grid of its sources."""
    from highdicom.seg import Segmentation as Writer

    return Writer(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=list(segments),
        series_instance_uid=series,
        series_number=3,
        sop_instance_uid=instance,
        instance_number=1,
        manufacturer="ACME",
        manufacturer_model_name="net",
        software_versions="1",
        device_serial_number="1",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **how,
    )


def compress(dataset: Dataset, syntax: str) -> Dataset:
    """The same SEG of one byte a pixel with its frames in JPEG-LS, JPEG 2000 or RLE.

    By imagecodecs and pydicom: the encoders of gdcm and pyjpegls end the process at frames as
    small as these.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    planes = np.frombuffer(dataset.PixelData, np.uint8)[
        : int(dataset.NumberOfFrames) * rows * columns
    ]
    frames = list(planes.reshape(-1, rows, columns))
    if syntax == RLELossless:
        dataset.compress(RLELossless, np.stack(frames), encoding_plugin="pydicom")
        return dataset
    write = {
        JPEGLSLossless: imagecodecs.jpegls_encode,
        JPEG2000Lossless: partial(imagecodecs.jpeg2k_encode, codecformat="j2k"),
    }[syntax]
    dataset.PixelData = encapsulate([write(frame) for frame in frames])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def encoded(dataset: Dataset) -> bytes:
    output = BytesIO()
    dcmwrite(output, dataset, enforce_file_format=True)
    return output.getvalue()


def read(dataset: Dataset, limits: LimitSettings = LIMITS) -> Segmentation:
    return read_segmentation(encoded(dataset), limits)


def seg(geometry: Geometry, pixels: npt.NDArray[Any], *segments: Any, **how: Any) -> Segmentation:
    """Written and read back."""
    return read(seg_dataset(geometry, pixels, segments or [segment(1)], **how))
