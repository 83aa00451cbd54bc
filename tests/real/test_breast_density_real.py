"""Breast density on the authors' example: their probabilities, by their README, to its digits."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load
from synthetic_mg import STANDARD, acquired, mammogram, read

from fhir_ext.dicom.mammography import Mammogram
from fhir_ext.results import Classification
from models.breast_density import network
from models.breast_density.convert import main, read_published
from models.breast_density.preprocess import features
from models.breast_density.service import BreastDensity
from models.registry import Registry
from models.service import ModelInput

Image8 = npt.NDArray[np.uint8]

FOLDER = Path(network.__file__).parent
WEIGHTS = FOLDER / "weights.safetensors"


@pytest.fixture(scope="module")
def example(real_data: Path) -> Path:
    return real_data / "mammo_nyu_density"


@pytest.fixture(scope="module")
def images(example: Path) -> dict[str, Image8]:
    return {view: imagecodecs.imread(example / f"{view}.png") for view in STANDARD}


@pytest.fixture(scope="module")
def service() -> BreastDensity:
    loaded = Registry().load("breast-density")
    assert isinstance(loaded, BreastDensity)
    return loaded


def published(example: Path) -> list[str]:
    """The four numbers of the histogram model, as the README writes them."""
    text = (example / "README.md").read_text("utf-8")
    (block,) = re.findall(r"With `histogram`:\s*```(.*?)```", text, re.DOTALL)
    return re.findall(r"\([0-3]\):\s*([0-9.]+)", block)


def classify(service: BreastDensity, images: Sequence[Mammogram]) -> Classification:
    (found,) = service.run(ModelInput(mammograms=tuple(images))).classifications
    return found


def shown(found: Classification) -> list[str]:
    return [f"{value:.6g}" for value in found.probabilities]


def test_the_shipped_weights_are_the_published_ones(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "weights.safetensors"
    monkeypatch.setattr(sys, "argv", ["convert", str(example / "model.p"), str(target)])
    main()
    assert target.read_bytes() == WEIGHTS.read_bytes()
    data = bytearray((example / "model.p").read_bytes())
    data[-1] ^= 1
    with pytest.raises(ValueError, match="sha256"):
        read_published(bytes(data))


def test_the_licence_is_the_published_one(example: Path) -> None:
    shipped = WEIGHTS.with_name("LICENSE.weights").read_text("utf-8")
    assert shipped == (example / "LICENSE").read_text("utf-8")


def test_the_same_probabilities_as_published(
    example: Path, images: dict[str, Image8], service: BreastDensity
) -> None:
    expected = published(example)
    assert expected == ["0.0819444", "0.78304", "0.133503", "0.00151265"]
    found = classify(service, read(*(_as_published(view, image) for view, image in images.items())))
    assert shown(found) == expected
    assert found.chosen == "b"


def test_the_case_of_the_manifest_is_the_example(example: Path, images: dict[str, Image8]) -> None:
    def tensors(name: str) -> npt.NDArray[np.float32]:
        (found,) = load((FOLDER / "cases" / name).read_bytes()).values()
        first: npt.NDArray[np.float32] = found[0]
        return first

    shares = np.concatenate([features(images[view]) for view in STANDARD])
    assert np.array_equal(tensors("example-shares.safetensors"), shares)
    expected = [f"{value:.6g}" for value in tensors("example-probabilities.safetensors").tolist()]
    assert expected == published(example)


def test_a_detectors_image_around_the_example_gives_the_same(
    example: Path, images: dict[str, Image8], service: BreastDensity
) -> None:
    """12 bits, 3328 x 2560, right breasts the other way round, once inverted."""
    whole = {view: acquired(image, view) for view, image in images.items()}
    as_is = read(*(mammogram(view, pixels) for view, pixels in whole.items()))
    assert shown(classify(service, as_is)) == published(example)
    inverted = read(
        *(
            mammogram(view, 4095 - pixels, PhotometricInterpretation="MONOCHROME1")
            for view, pixels in whole.items()
        )
    )
    assert classify(service, inverted) == classify(service, as_is)


def test_views_that_trade_places_change_the_answer(
    images: dict[str, Image8], service: BreastDensity
) -> None:
    """Why side and view are asked twice: the network does not notice, it answers otherwise."""
    traded = {
        view: images[view.replace("CC", "x").replace("MLO", "CC").replace("x", "MLO")]
        for view in STANDARD
    }
    found = classify(service, read(*(_as_published(view, image) for view, image in traded.items())))
    assert found.chosen == "c"


def _as_published(view: str, image: Image8) -> object:
    """The 8 bit image as it is; the authors turned right breasts over."""
    return mammogram(view, image, PatientOrientation=["A", "R"])
