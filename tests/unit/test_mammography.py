"""Mammograms: what the header says of the view, and bright values where the breast is dense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import (
    BreastTomosynthesisImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from synthetic_ct import ct_slice, encoded
from synthetic_mg import mammogram, raw_twin, read, view_code
from synthetic_projection import parts

from fhir_ext.dicom.mammography import grey_values, read_mammogram
from fhir_ext.errors import RefusedInput
from fhir_ext.settings import LimitSettings

RAMP = np.arange(24, dtype=np.uint16).reshape(4, 6) * 170


def only(image: Dataset) -> Any:
    (found,) = read(image)
    return found


def refusal(part: bytes, limits: LimitSettings | None = None) -> str:
    with pytest.raises(RefusedInput) as caught:
        grey_values(read_mammogram(memoryview(part), limits or LimitSettings()))
    return caught.value.code


def test_a_standard_view() -> None:
    found = only(mammogram("R-MLO", RAMP))
    assert (found.lateralities, found.views, found.modifiers) == (("R",), ("MLO",), ())
    assert found.intent == "FOR PRESENTATION"
    assert (found.implant, found.inverted, found.anterior) == (False, False, False)
    assert found.details.modality == "MG"
    assert found.evidence.PatientName == "Doe^Jane"
    assert found.evidence.SeriesInstanceUID == found.series_instance_uid
    assert np.array_equal(grey_values(found), RAMP)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ImageLaterality": None, "Laterality": "L"}, ("L",)),
        ({"Laterality": "L"}, ("L",)),
        ({"Laterality": "R"}, ("L", "R")),
        ({"ImageLaterality": None}, ()),
        ({"ImageLaterality": ""}, ()),
        ({"ImageLaterality": "B"}, ("B",)),
    ],
    ids=str,
)
def test_both_places_of_the_side_are_read(changes: dict[str, Any], expected: object) -> None:
    assert only(mammogram("L-CC", **changes)).lateralities == expected


@pytest.mark.parametrize(
    ("changes", "views", "modifiers"),
    [
        ({"ViewCodeSequence": None}, ("CC",), ()),
        ({"ViewPosition": None}, ("CC",), ()),
        ({"ViewPosition": "MLO"}, ("CC", "MLO"), ()),
        ({"ViewPosition": None, "ViewCodeSequence": None}, (), ()),
        ({"ViewCodeSequence": view_code("CC", "cleavage")}, ("CC",), ("cleavage",)),
        (
            {"ViewCodeSequence": view_code("CC", "magnification", "spot compression")},
            ("CC",),
            ("magnification", "spot compression"),
        ),
        ({"ViewCodeSequence": view_code("CC", scheme="99X")}, ("unknown", "CC"), ()),
        ({"ViewPosition": "XCCL", "ViewCodeSequence": view_code("XCCL")}, ("XCCL",), ()),
    ],
)
def test_view_and_modifiers(changes: dict[str, Any], views: object, modifiers: object) -> None:
    found = only(mammogram("L-CC", **changes))
    assert (found.views, found.modifiers) == (views, modifiers)


@pytest.mark.parametrize(
    ("scheme", "value", "view"),
    [("SRT", "R-10242", "CC"), ("SNM3", "R-10226", "MLO"), ("SCT", "399162004", "CC")],
)
def test_older_objects_name_the_view_in_snomed_rt(scheme: str, value: str, view: str) -> None:
    sequence = view_code("CC")
    sequence[0].CodingSchemeDesignator, sequence[0].CodeValue = scheme, value
    assert only(mammogram("L-CC", ViewCodeSequence=sequence, ViewPosition=None)).views == (view,)


@pytest.mark.parametrize(
    ("orientation", "anterior"),
    [(["A", "FR"], True), (["P", "L"], False), (["L", "F"], None), ("A", None), (None, None)],
    ids=str,
)
def test_where_the_nipple_is(orientation: Any, anterior: bool | None) -> None:
    assert only(mammogram("L-CC", PatientOrientation=orientation)).anterior is anterior


def test_raw_images_are_told_by_intent_or_sop_class() -> None:
    twin = raw_twin(mammogram("L-CC"))
    assert only(twin).intent == "FOR PROCESSING"
    del twin.PresentationIntentType
    assert only(twin).intent == "FOR PROCESSING"
    assert only(mammogram("L-CC", PresentationIntentType=None)).intent == "FOR PRESENTATION"


def test_monochrome1_is_turned_over_inside_bits_stored() -> None:
    dark = mammogram("L-CC", 4095 - RAMP, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(grey_values(only(dark)), RAMP)
    signed = (2047 - RAMP.astype(np.int32)).astype(np.int16)
    dark = mammogram("L-CC", signed, PhotometricInterpretation="MONOCHROME1", PixelRepresentation=1)
    assert np.array_equal(grey_values(only(dark)), RAMP.astype(np.int32) - 2048)


def test_window_and_padding_change_nothing() -> None:
    windowed = mammogram(
        "L-CC",
        RAMP,
        WindowCenter=["2000", "500"],
        WindowWidth=["100", "50"],
        VOILUTFunction="SIGMOID",
        PixelPaddingValue=0,
    )
    assert np.array_equal(grey_values(only(windowed)), RAMP)


def test_bits_beside_the_sample_are_dropped() -> None:
    high = mammogram("L-CC", (RAMP << 4) | 9, HighBit=15)
    assert np.array_equal(grey_values(only(high)), RAMP)
    overlaid = mammogram("L-CC", RAMP | 0x8000)
    assert np.array_equal(grey_values(only(overlaid)), RAMP)
    eight = mammogram("L-CC", (RAMP // 17).astype(np.uint8))
    assert np.array_equal(grey_values(only(eight)), RAMP // 17)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_encodings_say_the_same(syntax: str) -> None:
    part = encoded(mammogram("L-CC", RAMP, ViewPosition=None), syntax)
    found = read_mammogram(memoryview(part), LimitSettings())
    assert found.views == ("CC",)
    assert np.array_equal(grey_values(found), RAMP)


def test_compressed_pixels() -> None:
    image = mammogram("L-CC", RAMP)
    image.file_meta = Dataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.set_original_encoding(False, True)
    image["PixelData"].VR = "OW"
    image.compress(RLELossless, generate_instance_uid=False)
    part = encoded(image, RLELossless)
    assert np.array_equal(grey_values(read_mammogram(memoryview(part), LimitSettings())), RAMP)


def test_what_is_no_mammogram_is_refused() -> None:
    image = mammogram("L-CC", RAMP)
    (whole,) = parts(image)
    assert refusal(b"\0" * 400) == "not-dicom"
    assert refusal(whole[:-3]) == "truncated"
    assert refusal(encoded(ct_slice(0))) == "modality"
    assert refusal(whole, LimitSettings(rows_columns=5)) == "too-large"
    for code, changes in (
        ("modality", {"SOPClassUID": BreastTomosynthesisImageStorage}),
        ("modality", {"Modality": "CR"}),
        ("not-an-image", {"PixelData": None}),
        ("unsupported-pixels", {"NumberOfFrames": 2, "Rows": 2}),
        ("photometric-interpretation", {"PhotometricInterpretation": "RGB"}),
        ("corrupt-pixels", {"PixelData": b""}),
    ):
        (part,) = parts(mammogram("L-CC", RAMP, **changes))
        assert refusal(part) == code, changes
