"""What synthetic radiographs and mammograms have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from synthetic_ct import encoded

Pixels = npt.NDArray[Any]


def projection_image(
    study: str, number: int, pixels: Pixels, *attributes: Mapping[str, Any]
) -> Dataset:
    """One image for presentation of an adult, in a series of its own.

    Args:
        number: of the series.
        pixels: uint8, or uint16 of which 12 bits count.
        attributes: by keyword, later ones over earlier ones; None deletes one.
    """
    bits = 8 if pixels.dtype.itemsize == 1 else 12
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.{number}",
        "SOPInstanceUID": f"{study}.{number}.1",
        "PatientBirthDate": "19650203",
        "StudyDate": "20250301",
        "StudyTime": "101500",
        "StudyID": "7",
        "ReferringPhysicianName": "",
        "PresentationIntentType": "FOR PRESENTATION",
        "Manufacturer": "ACME",
        "SeriesNumber": number,
        "InstanceNumber": 1,
        "BurnedInAnnotation": "NO",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 8 * pixels.dtype.itemsize,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
        "PixelData": np.ascontiguousarray(pixels).tobytes(),
    }
    for further in attributes:
        values |= further
    made = Dataset()
    for keyword, value in values.items():
        if value is not None:
            setattr(made, keyword, value)
    if "PixelData" in made:
        made["PixelData"].VR = "OW"
    return made


def parts(*images: Dataset, syntax: str = ExplicitVRLittleEndian) -> list[bytes]:
    """PS3.10 files."""
    return [encoded(image, syntax) for image in images]
