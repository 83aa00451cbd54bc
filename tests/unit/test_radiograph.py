"""Radiographs: what the header says of projection, pixels and their size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.uid import DigitalXRayImageStorageForProcessing
from synthetic_cr import computed, radiograph, read, view_code
from synthetic_ct import ct_slice, encoded
from synthetic_mg import mammogram
from synthetic_projection import parts

from fhir_ext.dicom.projection import Spacing, stored_range
from fhir_ext.dicom.radiograph import Radiograph, grey_values, read_radiograph
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings

RAMP = np.arange(48, dtype=np.uint16).reshape(6, 8) * 80


def only(image: Any) -> Radiograph:
    (found,) = read(image)
    return found


def test_a_pa_film() -> None:
    found = only(radiograph("PA", RAMP))
    assert (found.views, found.intent, found.inverted) == (("PA",), "FOR PRESENTATION", False)
    assert (found.orientation, found.towards_left) == (("L", "F"), True)
    assert found.spacing == Spacing(0.14, 0.14, "detector")
    details = found.details
    assert (details.modality, details.body_part_examined) == ("DX", "CHEST")
    assert (details.photometric_interpretation, details.image_type) == (
        "MONOCHROME2", ("ORIGINAL", "PRIMARY"),
    )  # fmt: skip
    assert details.patient_age_years == pytest.approx(60.07, abs=0.01)
    assert np.array_equal(grey_values(found), RAMP)
    assert stored_range(found.format) == (0, 4095)
    assert found.evidence.PatientName == "Doe^John"


@pytest.mark.parametrize(
    ("changes", "views"),
    [
        ({}, ("PA",)),
        ({"ViewCodeSequence": None}, ("PA",)),
        ({"ViewPosition": None}, ("PA",)),
        ({"ViewPosition": "AP"}, ("PA", "AP")),
        ({"ViewPosition": None, "ViewCodeSequence": None}, ()),
        ({"ViewPosition": "LL", "ViewCodeSequence": view_code("LL")}, ("LL",)),
        ({"ViewPosition": None, "ViewCodeSequence": view_code("frontal")}, ("frontal",)),
    ],
)
def test_projection(changes: dict[str, Any], views: object) -> None:
    assert only(radiograph("PA", **changes)).views == views


@pytest.mark.parametrize(
    ("changes", "spacing"),
    [
        ({"ImagerPixelSpacing": None}, None),
        ({"PixelSpacing": ["0.14", "0.14"]}, Spacing(0.14, 0.14, "detector")),
        ({"PixelSpacing": ["0.12", "0.12"]}, Spacing(0.12, 0.12, "unstated")),
        (
            {"PixelSpacing": ["0.12", "0.13"], "PixelSpacingCalibrationType": "GEOMETRY"},
            Spacing(0.12, 0.13, "geometry"),
        ),
        (
            {"PixelSpacing": ["0.12", "0.12"], "PixelSpacingCalibrationType": "FIDUCIAL"},
            Spacing(0.12, 0.12, "fiducial"),
        ),
        (
            {"ImagerPixelSpacing": None, "PixelSpacing": ["0.2", "0.2"]},
            Spacing(0.2, 0.2, "unstated"),
        ),
        ({"ImagerPixelSpacing": ["0", "0.14"]}, None),
    ],
)
def test_which_pixel_size_is_which(changes: dict[str, Any], spacing: Spacing | None) -> None:
    """PS3.3 10.7.1.3: the size at the detector, unless Pixel Spacing says it was corrected."""
    found = only(radiograph("PA", **changes)).spacing
    assert found == spacing
    assert found is None or found.calibrated is (found.kind in ("geometry", "fiducial"))


def test_computed_radiography_says_less() -> None:
    found = only(computed("AP"))
    assert (found.details.modality, found.views, found.intent) == ("CR", ("AP",), "")
    raw = only(
        radiograph(SOPClassUID=DigitalXRayImageStorageForProcessing, PresentationIntentType=None)
    )
    assert raw.intent == "FOR PROCESSING"


def test_monochrome1_is_turned_over_inside_bits_stored() -> None:
    dark = radiograph("PA", 4095 - RAMP, PhotometricInterpretation="MONOCHROME1")
    found = only(dark)
    assert found.inverted
    assert np.array_equal(grey_values(found), RAMP)


def test_window_changes_nothing() -> None:
    windowed = radiograph("PA", RAMP, WindowCenter="2000", WindowWidth="100")
    assert np.array_equal(grey_values(only(windowed)), RAMP)


@pytest.mark.parametrize(
    ("orientation", "towards_left"),
    [(["R", "F"], False), (["A", "F"], None), ("L", None), (None, None)],
    ids=str,
)
def test_which_side_a_row_leads_to(orientation: Any, towards_left: bool | None) -> None:
    assert only(radiograph("PA", PatientOrientation=orientation)).towards_left is towards_left


def test_what_is_no_radiograph_is_refused() -> None:
    def refusal(part: bytes, limits: LimitSettings | None = None) -> str:
        with pytest.raises(RefusedInput) as caught:
            grey_values(read_radiograph(memoryview(part), limits or LimitSettings()))
        return caught.value.code

    assert refusal(encoded(ct_slice(0))) == "modality"
    assert refusal(parts(mammogram("L-CC"))[0]) == "modality"
    (whole,) = parts(radiograph("PA", RAMP))
    assert refusal(whole[:-3]) == "truncated"
    assert refusal(whole, LimitSettings(rows_columns=5)) == "too-large"
    assert refusal(parts(radiograph("PA", RAMP, PixelData=None))[0]) == "not-an-image"
