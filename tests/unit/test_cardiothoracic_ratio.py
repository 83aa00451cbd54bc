"""The cardiothoracic ratio on ellipses of known width; what it refuses, and how it is written."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from image_seg_samples import HEART, LUNG, image_seg, image_seg_dataset, read_back
from pydicom import Dataset
from result_samples import ISSUED, context, panel_of, resources, result
from said_samples import assert_words, with_words
from synthetic_cr import STUDY, computed, radiograph
from synthetic_cr import read as read_films

from fhir_ext.dicom.radiograph import Radiograph
from fhir_ext.dicom.seg_image import ImageSegmentation
from fhir_ext.dicom.sr import build_sr
from fhir_ext.resources.bundle import result_bundle
from fhir_ext.results import Measurement, Refusal, SeriesSource, ServiceResult
from fhir_ext.settings import LimitSettings
from models.cardiothoracic_ratio.draw_case import draw
from models.cardiothoracic_ratio.measure import Lungs, Mask, check_lungs, ratio
from models.cardiothoracic_ratio.service import CardiothoracicRatio, create
from models.manifest import Manifest, ManifestError
from models.registry import Registry
from models.runtime.host import Host
from models.runtime.options import Options
from models.service import ModelInput, ServiceOutput
from operations.model_registry.cases import run_cases

MANIFEST = Registry().manifest("cardiothoracic-ratio")
SERVICE = CardiothoracicRatio(MANIFEST)
SIZE = (200, 240)
PIXELS = np.zeros(SIZE, np.uint16)
LEFT = ("SCT", "39607008", "Lung left")
RIGHT = ("SCT", "39607008", "Lung right")


def ellipse(row: float, column: float, half_height: float, half_width: float) -> Mask:
    """All pixels whose centre lies inside."""
    y, x = np.indices(SIZE)
    return np.asarray(((y - row) / half_height) ** 2 + ((x - column) / half_width) ** 2 <= 1)


# Columns 40 to 80 and 160 to 200: the chest is 161 pixels wide. The heart is 71.
RIGHT_LUNG = ellipse(95, 60, 70, 20)
LEFT_LUNG = ellipse(95, 180, 70, 20)
BOTH = RIGHT_LUNG | LEFT_LUNG
HEART_MASK = ellipse(130, 125, 30, 35)


def sided(image: Dataset, masks: dict[Any, Mask]) -> ImageSegmentation:
    """A SEG whose lungs have a side as a modifier."""
    made = image_seg_dataset(image, masks)
    codes = {"Lung left": ("7771000", "Left"), "Lung right": ("24028007", "Right")}
    for item in made.SegmentSequence:
        side = codes.get(str(item.SegmentLabel))
        if side is not None:
            modifier = Dataset()
            modifier.CodeValue, modifier.CodeMeaning = side
            modifier.CodingSchemeDesignator = "SCT"
            kind = item.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return read_back(made)


def run(
    *images: Dataset, segments: list[ImageSegmentation] | None = None, **masks: Mask
) -> ServiceOutput:
    """The service on some films; heart and lungs are drawn on the first."""
    films = images or (radiograph("PA", PIXELS),)
    drawn = {HEART: masks.get("heart", HEART_MASK), LUNG: masks.get("lungs", BOTH)}
    given = [image_seg(films[0], drawn)] if segments is None else segments
    return SERVICE.run(
        ModelInput(radiographs=tuple(read_films(*films)), image_segmentations=tuple(given))
    )


def only(output: ServiceOutput) -> Measurement:
    (found,) = output.measurements
    return found


def refusal(output: ServiceOutput) -> Refusal:
    found = only(output).refusal
    assert found is not None
    return found


def test_the_widths_are_counted() -> None:
    output = run()
    found = only(output)
    assert (found.name, found.region, found.unit) == ("cardiothoracic-ratio", "heart", "1")
    assert found.value == round(71 / 161, 3) == 0.441
    assert output.issues == output.risks == ()
    assert output.main == SeriesSource(f"{STUDY}.1", (f"{STUDY}.1.1",))
    assert output.further == (SeriesSource("1.2.826.4.3", ("1.2.826.4.3.1",)),)
    assert output.notes == (("cardiothoracic-ratio", "Measured in a segment that a program drew."),)


@pytest.mark.parametrize("half", [20, 30, 40, 41, 55])
def test_against_the_truth_of_ellipses(half: int) -> None:
    value = only(run(heart=ellipse(130, 121, 30, half))).value
    assert value == round((2 * half + 1) / 161, 3)


def test_a_wide_heart_is_an_issue_for_a_human() -> None:
    output = run(heart=ellipse(130, 125, 30, 45))
    (issue,) = output.issues
    assert (issue.code, issue.severity) == ("cardiothoracic-ratio-high", "low")
    assert "is 0.565" in issue.detail
    again = Registry().derive(MANIFEST.identity(), output.measurements)
    assert again == (output.risks, output.issues)
    # Half of the chest exactly is not more than half of it.
    assert conclude_at(0.5) == ((), ())


def conclude_at(value: float) -> Any:
    found = Measurement("cardiothoracic-ratio", only(run()).region, "1", value=value)
    return Registry().derive(MANIFEST.identity(), (found,))


def test_the_heart_is_widest_where_it_is_and_the_chest_in_one_row() -> None:
    """Danzer's lines: left and right of the heart may be widest in different rows."""
    heart = ellipse(120, 110, 10, 15) | ellipse(150, 130, 10, 25)
    assert ratio(heart, Lungs(BOTH)) == (155 - 95 + 1) / 161
    slanted = ellipse(60, 60, 30, 20) | ellipse(140, 180, 30, 20)
    assert isinstance(ratio(HEART_MASK, Lungs(slanted)), float)
    # Nowhere are both lungs in one row, so the widest row is one lung's.
    assert ratio(HEART_MASK, Lungs(slanted)) == pytest.approx(71 / 41)


def test_mirrored_and_flipped_images_have_the_same_ratio() -> None:
    first = ratio(HEART_MASK, Lungs(BOTH))
    assert ratio(HEART_MASK[:, ::-1], Lungs(BOTH[:, ::-1])) == first
    assert ratio(HEART_MASK[::-1], Lungs(BOTH[::-1])) == first


def test_lungs_of_two_sides_go_before_one_segment_of_both() -> None:
    film = radiograph("PA", PIXELS)
    masks = {HEART: HEART_MASK, LEFT: LEFT_LUNG, RIGHT: RIGHT_LUNG}
    assert only(run(film, segments=[sided(film, masks)])).value == 0.441


@pytest.mark.parametrize(
    ("film", "rule", "seen"),
    [
        (radiograph("AP", PIXELS), "view-position", "AP"),
        (computed("AP", PIXELS), "view-position", "AP"),
        (radiograph("LL", PIXELS), "view-position", "LL"),
        (
            radiograph("PA", PIXELS, ViewPosition=None, ViewCodeSequence=None),
            "view-position",
            "not stated",
        ),
        (radiograph("PA", PIXELS, ViewPosition="AP"), "view-position", "PA and AP"),
        (radiograph("PA", PIXELS, PatientBirthDate="20150101"), "patient-age", "outside the range"),
        (radiograph("PA", PIXELS, PatientBirthDate=""), "patient-age", "not stated"),
        (radiograph("PA", PIXELS, PatientOrientation=["F", "L"]), "row-direction", "F"),
        (
            radiograph("PA", PIXELS, ImageType=["DERIVED", "SECONDARY"]),
            "image-type",
            "SECONDARY",
        ),
    ],
    ids=range(9),
)
def test_refused_by_the_header(film: Dataset, rule: str, seen: str) -> None:
    output = run(film)
    found = refusal(output)
    assert (found.rule, found.seen) == (rule, seen)
    assert found.needed
    assert output.main is not None


def test_the_pa_film_is_measured_beside_others() -> None:
    pa = radiograph("PA", PIXELS, number=2)
    others = (radiograph("LL", PIXELS), radiograph("AP", PIXELS, number=3))
    drawn = image_seg(pa, {HEART: HEART_MASK, LUNG: BOTH})
    output = run(*others, pa, segments=[drawn])
    assert only(output).value == 0.441
    assert output.main == SeriesSource(f"{STUDY}.2", (f"{STUDY}.2.1",))


def test_segments_on_two_pa_films_are_not_chosen_between() -> None:
    films = [radiograph("PA", PIXELS, number=number) for number in (1, 2)]
    masks = {HEART: HEART_MASK, LUNG: BOTH}
    drawn = [image_seg(film, masks, instance=f"1.2.{at}") for at, film in enumerate(films)]
    assert refusal(run(*films, segments=drawn)).rule == "duplicate-view"
    assert only(run(*films, segments=drawn[1:])).value == 0.441


@pytest.mark.parametrize(
    ("masks", "needed"),
    [
        ({LUNG: BOTH}, "a segment of the heart on the PA image"),
        ({HEART: HEART_MASK}, "a segment of the lungs on the PA image"),
        ({HEART: HEART_MASK, RIGHT: RIGHT_LUNG}, "a segment of the lungs on the PA image"),
    ],
)
def test_missing_segments_are_named(masks: dict[Any, Mask], needed: str) -> None:
    film = radiograph("PA", PIXELS)
    found = refusal(run(film, segments=[sided(film, masks)]))
    assert found == Refusal("segment-missing", "none", needed)


def test_a_segmentation_of_another_image_is_none() -> None:
    other = image_seg(radiograph("PA", PIXELS, number=7), {HEART: HEART_MASK, LUNG: BOTH})
    assert refusal(run(segments=[other])).rule == "segment-missing"


def test_segments_of_another_size_are_refused() -> None:
    small = radiograph("PA", np.zeros((100, 120), np.uint16))
    drawn = image_seg(small, {HEART: HEART_MASK[::2, ::2], LUNG: BOTH[::2, ::2]})
    assert refusal(run(segments=[drawn])).rule == "seg-geometry"


def test_by_hand_goes_before_by_program() -> None:
    film = radiograph("PA", PIXELS)
    masks = {HEART: HEART_MASK, LUNG: BOTH}
    narrow = {HEART: ellipse(130, 125, 30, 25), LUNG: BOTH}
    by_hand = image_seg(film, narrow, instance="1.2.1", drawn="MANUAL")
    output = run(film, segments=[image_seg(film, masks, instance="1.2.9"), by_hand])
    assert only(output).value == round(51 / 161, 3)
    assert output.notes == ()


@pytest.mark.parametrize(
    ("masks", "rule"),
    [
        ({"lungs": ellipse(95, 20, 70, 20) | LEFT_LUNG}, "coverage"),
        ({"heart": ellipse(130, 195, 30, 35)}, "heart-position"),
        ({"lungs": LEFT_LUNG}, "heart-position"),
        ({"heart": ellipse(130, 121, 30, 5)}, "implausible-value"),
        ({"lungs": ellipse(50, 120, 30, 60) | ellipse(150, 120, 30, 60)}, "patient-orientation"),
    ],
)
def test_refused_by_the_pixels(masks: dict[str, Mask], rule: str) -> None:
    assert refusal(run(**masks)).rule == rule


def test_lungs_in_each_others_place_contradict_the_header() -> None:
    lungs = Lungs(BOTH, LEFT_LUNG, RIGHT_LUNG)
    assert check_lungs(lungs, True, 0.5) is None
    assert check_lungs(lungs, None, 0.5) is None
    found = check_lungs(lungs, False, 0.5)
    assert found is not None
    assert found.rule == "patient-orientation"
    mirrored = Lungs(*(mask[:, ::-1] for mask in (BOTH, LEFT_LUNG, RIGHT_LUNG)))
    assert check_lungs(mirrored, False, 0.5) is None


def test_what_the_manifest_says_of_a_number_is_said() -> None:
    film = read_films(radiograph("PA", PIXELS))
    drawn = image_seg(radiograph("PA", PIXELS), {HEART: HEART_MASK, LUNG: BOTH})
    service = CardiothoracicRatio(with_words(MANIFEST))
    assert_words(service.run(ModelInput(radiographs=tuple(film), image_segmentations=(drawn,))))


def test_a_number_that_is_not_measured_is_an_error() -> None:
    data = MANIFEST.model_dump()
    data["outputs"] = [*data["outputs"], {**data["outputs"][0], "name": "heart-width"}]
    with pytest.raises(ManifestError, match="heart-width is not measured"):
        CardiothoracicRatio(Manifest.model_validate(data))


def test_wrong_settings_are_an_error() -> None:
    data = MANIFEST.model_dump()
    for change in ({"side_by_side": "much"}, {"side_by_side": 0.5, "more": 1}, {}):
        with pytest.raises(ManifestError):
            create(Manifest.model_validate({**data, "settings": change}), None, Host())  # type: ignore[arg-type]


def written(output: ServiceOutput) -> ServiceResult:
    return result(
        service="cardiothoracic-ratio",
        model=MANIFEST.identity(),
        study=STUDY,
        series=f"{STUDY}.1",
        instances=(f"{STUDY}.1.1",),
        measurements=output.measurements,
        risks=output.risks,
        issues=output.issues,
        status="done" if output.stands else "refused",
    )


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_observation_and_sr(view: str) -> None:
    film = radiograph(view, PIXELS)
    of = written(run(film, heart=ellipse(130, 125, 30, 45)))
    bundle = result_bundle(of, context(of))
    assert panel_of(bundle)["code"]["coding"][0]["code"] == "cardiothoracic-ratio-panel"
    member = next(item for item in resources(bundle, "Observation") if "hasMember" not in item)
    assert member["bodySite"]["coding"][0]["code"] == "80891009"
    assert member["code"]["coding"][0]["code"] == "cardiothoracic-ratio"
    if view == "PA":
        assert member["valueQuantity"]["value"] == 0.565
    else:
        assert member["dataAbsentReason"]["coding"][-1]["code"] == "view-position"
    source: Radiograph = read_films(film)[0]
    output = BytesIO()
    pydicom.dcmwrite(output, build_sr(of, [source.evidence], ISSUED), enforce_file_format=True)
    text = {str(item.value) for item in pydicom.dcmread(BytesIO(output.getvalue())).iterall()}
    assert "Cardiothoracic ratio" in text
    assert "Plain radiography" in text


def test_the_shipped_cases_are_what_is_drawn(tmp_path: Path) -> None:
    draw(tmp_path)
    shipped = Registry().find("cardiothoracic-ratio").folder / "cases"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in shipped.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (shipped / name).read_bytes(), name


def test_the_shipped_cases_hold() -> None:
    registry = Registry()
    installed = registry.find("cardiothoracic-ratio")
    report = run_cases(installed, registry, Host(), LimitSettings(), Options())
    assert [item.name for item in report.cases] == ["drawn-pa-film", "drawn-ap-film"]
    assert report.passed, report
