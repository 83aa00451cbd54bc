"""Breast density: choice of the views, histogram, probabilities, refusals."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from pydicom import Dataset
from safetensors.numpy import load_file
from synthetic_mg import STANDARD, STUDY, acquired, mammogram, raw_twin, read, study, view_code

from fhir_ext.resources import codes
from fhir_ext.results import Classification, Refusal, Region
from models.breast_density import views
from models.breast_density.preprocess import CROP, crop, features, histogram, to_eight_bits
from models.breast_density.service import BreastDensity, create
from models.gates import Chosen
from models.manifest import Classification as ClassificationOutput
from models.manifest import Manifest, ManifestError
from models.manifest.evidence import TensorsInput
from models.runtime.base import ModelFailure
from models.runtime.host import Host
from models.service import ModelInput

MANIFEST = Path(views.__file__).with_name("manifest.yaml")
FOLDER = MANIFEST.parent

Image8 = npt.NDArray[np.uint8]


def manifest(runtime: dict[str, Any] | None = None, **settings: Any) -> Manifest:
    data = yaml.safe_load(MANIFEST.read_text("utf-8"))
    data["settings"] = settings
    data["runtime"] = runtime or data["runtime"]
    return Manifest.model_validate(data)


@cache
def service() -> BreastDensity:
    return create(manifest(), FOLDER, Host())


@cache
def breast(dense: float) -> Image8:
    """A half disc on darkness, of which a share is bright: 2600 x 2000, chest wall left."""
    generator = np.random.default_rng(7)
    rows, columns = np.ogrid[: CROP[0], : CROP[1]]
    inside = (rows - 1300) ** 2 + columns**2 < 1200**2
    tissue = np.where(generator.random(CROP) < dense, 170, 70) + generator.integers(0, 40, CROP)
    return np.where(inside, tissue, 0).astype(np.uint8)


def shown(dense: float, **changes: Any) -> dict[str, Dataset]:
    return study({view: acquired(breast(dense), view) for view in STANDARD}, **changes)


def run(images: dict[str, Dataset], *more: Dataset) -> Classification:
    return asked(*images.values(), *more)


def asked(*images: Dataset, of: BreastDensity | None = None) -> Classification:
    (found,) = (of or service()).run(ModelInput(mammograms=tuple(read(*images)))).classifications
    return found


def refused(*images: Dataset) -> Refusal | None:
    selected = service().select(read(*images))
    return selected if isinstance(selected, Refusal) else None


def test_more_bright_tissue_is_a_denser_category() -> None:
    sparse, dense = run(shown(0.1)), run(shown(0.8))
    assert (sparse.chosen, dense.chosen) == ("b", "c")
    for found in (sparse, dense):
        assert (found.name, found.region) == ("breast-density", Region.BREASTS)
        assert found.categories == ("a", "b", "c", "d")
        assert sum(found.probabilities) == pytest.approx(1, abs=1e-6)
        assert (
            max(found.probabilities)
            == dict(zip(found.categories, found.probabilities, strict=True))[found.chosen or ""]
        )


def test_order_orientation_and_inversion_change_nothing() -> None:
    images = shown(0.3)
    expected = run(images)
    shuffled = list(images.values())
    random.Random(3).shuffle(shuffled)
    assert asked(*shuffled) == expected
    mirrored = {
        view: mammogram(
            view,
            acquired(breast(0.3), view)[:, ::-1],
            PatientOrientation=["P", "L"] if view.startswith("L") else ["A", "R"],
        )
        for view in STANDARD
    }
    assert run(mirrored) == expected
    unsaid = {
        view: mammogram(view, acquired(breast(0.3), view), PatientOrientation=None)
        for view in STANDARD
    }
    assert run(unsaid) == expected
    inverted = {
        view: mammogram(
            view, 4095 - acquired(breast(0.3), view), PhotometricInterpretation="MONOCHROME1"
        )
        for view in STANDARD
    }
    assert run(inverted) == expected


def test_what_is_beside_the_point_is_set_aside() -> None:
    images = study()

    def other(view: str, number: int, **changes: Any) -> Dataset:
        return mammogram(view, SOPInstanceUID=f"1.2.{number}", **changes)

    others = (
        raw_twin(images["L-CC"]),
        other("L-CC", 1, ViewCodeSequence=view_code("CC", "spot compression")),
        other("R-CC", 2, EstimatedRadiographicMagnificationFactor="1.8"),
        other("R-CC", 3, PaddleDescription="10CM SPOT"),
        other("R-XCCL", 4, ViewCodeSequence=view_code("XCCL")),
        other("L-CC", 5, ImageType=["DERIVED", "PRIMARY", "", "GENERATED_2D"]),
    )
    selected = service().select(read(*others, *images.values()))
    assert isinstance(selected, Chosen)
    assert [image.sop_instance_uid for image in selected.images] == [
        f"{STUDY}.{number}.1" for number in (1, 2, 3, 4)
    ]
    assert selected.set_aside == {
        "presentation-intent": 1,
        "special-view": 3,
        "mammography-view": 1,
        "image-type": 1,
    }


@pytest.mark.parametrize(
    "modifier", ["cleavage", "magnification", "spot compression", "rolled lateral", "tangential"]
)
def test_a_special_view_stands_for_no_standard_one(modifier: str) -> None:
    images = study()
    images["R-CC"] = mammogram("R-CC", ViewCodeSequence=view_code("CC", modifier))
    found = refused(*images.values())
    assert found is not None
    assert (found.rule, found.seen) == ("special-view", f"R-CC: {modifier}")


def _without(view: str) -> list[Dataset]:
    return [image for name, image in study().items() if name != view]


REFUSED: dict[str, tuple[str, Callable[[], list[Dataset]]]] = {
    "three views": ("missing-view", lambda: _without("L-MLO")),
    "only synthetic images": (
        "image-type",
        lambda: list(study(ImageType=["DERIVED", "PRIMARY", "TOMOSYNTHESIS"]).values()),
    ),
    "one synthetic image": (
        "missing-view",
        lambda: [*_without("L-CC"), mammogram("L-CC", ImageType=["DERIVED", "PRIMARY", "TOMO_2D"])],
    ),
    "only raw images": (
        "presentation-intent",
        lambda: [raw_twin(image) for image in study().values()],
    ),
    "twice": (
        "duplicate-view",
        lambda: [*study().values(), mammogram("R-MLO", SOPInstanceUID="1.2.3")],
    ),
    "implant": (
        "breast-implant",
        lambda: [*_without("R-CC"), mammogram("R-CC", BreastImplantPresent="YES")],
    ),
    "implant displaced": (
        "breast-implant",
        lambda: [
            *study().values(),
            mammogram("R-CC", ViewCodeSequence=view_code("CC", "implant displaced")),
        ],
    ),
    "magnified": (
        "special-view",
        lambda: [
            *_without("R-CC"),
            mammogram("R-CC", EstimatedRadiographicMagnificationFactor="1.5"),
        ],
    ),
    "both sides": ("laterality", lambda: [*_without("L-CC"), mammogram("L-CC", Laterality="R")]),
    "no side": ("laterality", lambda: [*_without("L-CC"), mammogram("L-CC", ImageLaterality=None)]),
    "two views": (
        "mammography-view",
        lambda: [*_without("L-CC"), mammogram("L-CC", ViewPosition="MLO")],
    ),
    "two studies": (
        "wrong-study",
        lambda: [*_without("L-CC"), mammogram("L-CC", StudyInstanceUID="1.2.3")],
    ),
    "text in the pixels": (
        "burned-in-annotation",
        lambda: list(study(BurnedInAnnotation="YES").values()),
    ),
    "a child": ("patient-age", lambda: list(study(PatientBirthDate="20150101").values())),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_refused_by_the_header(case: str) -> None:
    rule, images = REFUSED[case]
    found = refused(*images())
    assert found is not None
    assert found.rule == rule
    withheld = asked(*images())
    assert (withheld.refusal, withheld.chosen, withheld.probabilities) == (found, None, ())


@pytest.mark.parametrize(
    ("rule", "pixels", "changes"),
    [
        ("image-size", np.zeros((2294, 1914), np.uint16), {}),
        ("blank-image", np.full((2600, 2000), 7, np.uint16), {}),
        ("patient-orientation", acquired(breast(0.3), "L-CC"), {"PatientOrientation": ["P", "L"]}),
        ("corrupt-pixels", np.zeros((2600, 2000), np.uint16), {"PixelData": b"\0\0"}),
    ],
    ids=["small", "blank", "contradiction", "short"],
)
def test_refused_by_the_pixels(
    rule: str, pixels: npt.NDArray[np.uint16], changes: dict[str, Any]
) -> None:
    images = study()
    images["L-CC"] = mammogram("L-CC", pixels, **changes)
    found = run(images).refusal
    assert found is not None
    assert found.rule == rule


def test_refusals_say_nothing_of_the_patient() -> None:
    found = refused(*study(ImageLaterality="DOE JANE").values())
    assert found == Refusal("laterality", "another value", "L or R")


def test_known_counts() -> None:
    """Grey level to bin by whole numbers: level 5.1 k begins bin k; 255 belongs to the last."""
    generator = np.random.default_rng(11)
    # Not the levels that lie on an edge, where float32 decides.
    levels = np.array([v for v in range(256) if v % 51 or v in (0, 255)])
    counts = generator.integers(0, 400, levels.size)
    counts[[0, -1]] = 50
    image = np.repeat(levels, counts).astype(np.uint8)
    expected = np.zeros(50, np.int64)
    for level, count in zip(levels, counts, strict=True):
        expected[min(level * 10 // 51, 49)] += count
    assert np.array_equal(histogram(image[None]), expected)
    assert features(image[None]).sum() == pytest.approx(1, abs=1e-6)
    rows = generator.permutation(image)[None]
    assert np.array_equal(histogram(rows), expected)


def test_crop_is_at_the_chest_wall_and_in_the_middle_of_the_rows() -> None:
    values = np.arange(2700 * 2100, dtype=np.int32).reshape(2700, 2100)
    left = crop(values, True)
    assert isinstance(left, np.ndarray)
    assert np.array_equal(left, values[50:2650, :2000])
    right = crop(values, False)
    assert isinstance(right, np.ndarray)
    assert np.array_equal(right, values[50:2650, :-2001:-1])


def test_eight_bits() -> None:
    values = np.array([[100, 1120, 4180]], np.int32)
    assert to_eight_bits(values, 12).tolist() == [[0, 64, 255]]
    assert to_eight_bits(np.array([[3, 200]], np.int32), 8).tolist() == [[3, 200]]


def test_settings_are_an_error() -> None:
    with pytest.raises(ManifestError, match="unheard_of"):
        create(manifest(unheard_of=1), FOLDER, Host())


def test_the_manifest_says_names_and_thresholds() -> None:
    """A version of its own with another name, in which `c` asks for much."""
    data = yaml.safe_load(MANIFEST.read_text("utf-8"))
    data["outputs"][0] |= {"name": "density"}
    del data["evaluation"]
    data["outputs"][0]["classes"][2]["threshold"] = 1
    other = create(Manifest.model_validate(data), FOLDER, Host())
    before, after = run(shown(0.8)), asked(*shown(0.8).values(), of=other)
    assert (before.chosen, after.name, after.chosen) == ("c", "density", "b")
    assert after.probabilities == before.probabilities


def test_a_refusal_speaks_of_the_images_in_one_order() -> None:
    images = [*study().values()][:3]
    said = [
        service().run(ModelInput(mammograms=tuple(read(*order))))
        for order in (images, images[::-1])
    ]
    assert said[0] == said[1]
    assert said[0].main is not None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"thresholds": {"dense": 0.5}}, "dense is not known"),
        ({"inputs": {"images": "radiographs", "modality": ["DX"]}, "gates": []}, "mammograms"),
    ],
)
def test_what_nobody_looks_at_is_an_error(change: dict[str, Any], reason: str) -> None:
    data = yaml.safe_load(MANIFEST.read_text("utf-8")) | change
    with pytest.raises(ManifestError, match=reason):
        create(Manifest.model_validate(data), FOLDER, Host())


def test_gates_speak_of_all_outputs() -> None:
    data = yaml.safe_load(MANIFEST.read_text("utf-8"))
    data["gates"][-1]["applies_to"] = ["breast-density"]
    with pytest.raises(ManifestError, match="applies_to"):
        create(Manifest.model_validate(data), FOLDER, Host())


def test_other_views_than_the_network_takes_are_an_error() -> None:
    data = yaml.safe_load(MANIFEST.read_text("utf-8"))
    (gate,) = (item for item in data["gates"] if item["rule"] == "required-views")
    gate["views"].reverse()
    with pytest.raises(ManifestError, match="required-views"):
        create(Manifest.model_validate(data), FOLDER, Host())


def test_other_weights_than_the_manifest_names_are_not_installed() -> None:
    changes = {"weights-hash": {"sha256": "0" * 64}, "model-not-installed": {"file": "no.file"}}
    for code, change in changes.items():
        runtime = yaml.safe_load(MANIFEST.read_text("utf-8"))["runtime"]
        runtime["weights"] |= change
        other = create(manifest(runtime), FOLDER, Host())
        with pytest.raises(ModelFailure) as caught:
            asked(*shown(0.3).values(), of=other)
        assert caught.value.code == code


def test_another_runtime_is_an_error() -> None:
    data = yaml.safe_load(MANIFEST.read_text("utf-8"))
    del data["cases"], data["outputs"][0]["tensor"]
    data["runtime"] = {"kind": "operators"}
    with pytest.raises(ManifestError, match="network"):
        create(Manifest.model_validate(data), FOLDER, Host())


def test_the_case_of_the_manifest_holds() -> None:
    """The network by itself, on the histograms of the authors' example."""
    (case,) = manifest().cases
    (expected,) = case.expect
    assert isinstance(case.input, TensorsInput)
    assert expected.tensors is not None
    shares = load_file(FOLDER / case.input.file)["shares"]
    wanted = load_file(FOLDER / expected.tensors.file)["probabilities"]
    found = Host().run(manifest(), FOLDER, {"shares": shares})["probabilities"]
    assert np.abs(found - wanted).max() <= expected.absolute


def test_the_manifest_says_the_codes_that_are_written() -> None:
    (output,) = manifest().outputs
    assert isinstance(output, ClassificationOutput)
    assert output.code is not None
    assert output.code.code == codes.STANDARD_CLASSIFICATION[output.name].code
    named = {item.name: item.code and item.code.code for item in output.classes}
    assert named == {
        letter: coding.code for letter, coding in codes.STANDARD_CATEGORY[output.name].items()
    }
    assert tuple(named) == ("a", "b", "c", "d")
