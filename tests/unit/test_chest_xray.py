"""Findings on chest radiographs: preprocessing, choice of the image, a real small network."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from pydicom import Dataset
from safetensors.torch import save_file
from synthetic_cr import STUDY, computed, radiograph
from synthetic_cr import read as read_films

from fhir_ext.dicom.radiograph import grey_values
from fhir_ext.results import Refusal, Region, SeriesSource
from models.chest_xray import preprocess
from models.chest_xray.network import FindingsNetwork
from models.chest_xray.preprocess import crop_square, prepare, resize
from models.chest_xray.service import ChestXray, create
from models.manifest import Manifest, ManifestError
from models.registry import Registry
from models.runtime.base import ModelFailure
from models.runtime.host import Host
from models.service import ModelInput, ServiceOutput

MANIFEST = Path(preprocess.__file__).with_name("manifest.yaml")
SIDE = 32
SMALL: dict[str, Any] = {"findings": 3, "growth": 4, "blocks": [1, 1, 1, 1], "features": 8}
NAMES = ("effusion", "nodule", "mass")

Image = npt.NDArray[np.uint16]


def drawn(rows: int = 80, columns: int = 64, seed: int = 5) -> Image:
    """Soft blobs in 12 bits."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 4096, (rows // 8, columns // 8)).astype(np.uint16)
    return np.kron(coarse, np.ones((8, 8), np.uint16))


def network() -> FindingsNetwork:
    """The same weights every time; the batch norms are those of an untrained network."""
    torch.manual_seed(3)
    made = FindingsNetwork(**SMALL).eval()
    made.operating_points.copy_(torch.tensor([0.2, 0.5, 0.8]))
    return made


def changed(**parts: Any) -> dict[str, Any]:
    """The shipped manifest for the small network, with parts replaced."""
    data: dict[str, Any] = yaml.safe_load(MANIFEST.read_text("utf-8"))
    data["runtime"]["arguments"] = SMALL
    data["runtime"]["inputs"][0]["shape"] = ["n", 1, SIDE, SIDE]
    data["runtime"]["outputs"][0]["shape"] = ["n", len(NAMES)]
    data["preprocessing"]["sizes"] = [[SIDE, SIDE]]
    for gate in data["gates"]:
        if gate["rule"] == "image-size":
            gate["min_rows"] = gate["min_columns"] = SIDE
    data["outputs"][0]["classes"] = [{"name": name} for name in NAMES]
    for path, value in parts.items():
        data[path] = value
    return data


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> ChestXray:
    folder = tmp_path_factory.mktemp("chest-xray")
    save_file(network().state_dict(), folder / "weights.safetensors")
    data = changed()
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    data["runtime"]["weights"]["sha256"] = digest
    return create(Manifest.model_validate(data), folder, Host())


def run(service: ChestXray, *images: Dataset) -> ServiceOutput:
    return service.run(ModelInput(radiographs=tuple(read_films(*images))))


def refusal(output: ServiceOutput) -> Refusal:
    found = {item.refusal for item in output.classifications}
    assert len(found) == 1
    (reason,) = found
    assert reason is not None
    return reason


def expected(image: Dataset) -> list[float]:
    """What torch gives for the image prepared by another way: by hand, pixel for pixel."""
    (film,) = read_films(image)
    values = grey_values(film).astype(np.float64)
    scaled = (2 * values / 4095 - 1) * 1024
    pixels = resize(crop_square(scaled.astype(np.float32)), (SIDE, SIDE))
    with torch.inference_mode():
        found: list[float] = network()(torch.from_numpy(pixels)[None, None])[0].tolist()
    return found


def test_each_finding_is_a_result_of_its_own(service: ChestXray) -> None:
    film = radiograph("PA", drawn())
    output = run(service, film)
    scores = expected(film)
    assert [item.name for item in output.classifications] == list(NAMES)
    assert {item.region for item in output.classifications} == {Region.CHEST}
    for item, score in zip(output.classifications, scores, strict=True):
        assert item.categories == ("present", "absent")
        assert item.probabilities[0] == pytest.approx(score, abs=1e-4)
        assert item.chosen == ("present" if score >= 0.5 else "absent")
    assert {item.chosen for item in output.classifications} == {"present", "absent"}
    assert output.main == SeriesSource(f"{STUDY}.1", (f"{STUDY}.1.1",))
    assert run(service, film) == output


def test_inverted_images_say_the_same(service: ChestXray) -> None:
    bright = run(service, radiograph("PA", drawn()))
    dark = radiograph("PA", 4095 - drawn(), PhotometricInterpretation="MONOCHROME1")
    assert run(service, dark).classifications == bright.classifications


def test_pa_goes_before_ap_and_laterals_are_set_aside(service: ChestXray) -> None:
    pa = radiograph("PA", drawn(), number=2)
    others = (radiograph("LL", drawn(seed=1)), computed("AP", drawn(seed=2), number=3))
    output = run(service, *others, pa)
    assert output.main == SeriesSource(f"{STUDY}.2", (f"{STUDY}.2.1",))
    assert output.classifications == run(service, pa).classifications
    alone = run(service, *others)
    assert alone.main == SeriesSource(f"{STUDY}.3", (f"{STUDY}.3.1",))


@pytest.mark.parametrize(
    ("films", "rule"),
    [
        ((radiograph("LL", drawn()),), "view-position"),
        ((radiograph("PA", drawn()), radiograph("PA", drawn(), number=2)), "duplicate-view"),
        ((radiograph("PA", drawn(24, 64)),), "image-size"),
        ((radiograph("PA", drawn(), PatientBirthDate="20200101"),), "patient-age"),
        ((radiograph("PA", drawn(), PatientBirthDate=""),), "patient-age"),
        (
            (radiograph("PA", drawn(), PresentationIntentType="FOR PROCESSING"),),
            "presentation-intent",
        ),
        ((radiograph("PA", drawn(), ImageType=["DERIVED", "SECONDARY"]),), "image-type"),
        ((radiograph("PA", np.full((80, 64), 7, np.uint16)),), "blank-image"),
        ((radiograph("PA", drawn(), PixelData=b"\0\0"),), "corrupt-pixels"),
    ],
    ids=range(9),
)
def test_refused(service: ChestXray, films: tuple[Dataset, ...], rule: str) -> None:
    output = run(service, *films)
    assert refusal(output).rule == rule
    assert not output.stands
    assert output.main is not None


def test_the_range_is_that_of_the_bits_not_of_the_values() -> None:
    """12 bits: 0 becomes -1024 and 4095 becomes 1024, whatever else is in the image."""
    asked = Manifest.model_validate(changed()).preprocessing
    for value, became in ((0, -1024.0), (4095, 1024.0), (1000, -523.878)):
        pixels = np.full((SIDE, SIDE), value, np.uint16)
        (film,) = read_films(radiograph("PA", pixels))
        found = prepare(film, grey_values(film), asked)
        assert found.shape == (SIDE, SIDE)
        assert found == pytest.approx(became, abs=0.01)
    signed = np.full((SIDE, SIDE), -2048, np.int16)
    (film,) = read_films(radiograph("PA", signed, PixelRepresentation=1))
    assert prepare(film, grey_values(film), asked) == pytest.approx(-1024.0)


def test_the_square_is_cut_from_the_middle() -> None:
    wide = np.arange(7 * 4, dtype=np.float32).reshape(4, 7)
    assert crop_square(wide).tolist() == wide[:, 1:5].tolist()
    assert crop_square(wide.T).tolist() == wide.T[1:5].tolist()


def test_a_smaller_image_keeps_its_mean_and_its_sides() -> None:
    image = np.zeros((64, 64), np.float32)
    image[:, 32:] = 100
    small = resize(image, (16, 16))
    assert small[2:-2, 2:-2].mean() == pytest.approx(50, abs=1)
    assert small[8, 2] == pytest.approx(0, abs=0.5)
    assert small[8, 12] == pytest.approx(100, abs=0.5)
    assert resize(image, (64, 64)).tolist() == image.tolist()


def test_operating_points_become_one_half() -> None:
    made = network()
    for share, score in ((0.0, 0.0), (0.1, 0.25), (0.2, 0.5), (0.6, 0.75), (1.0, 1.0)):
        assert float(_score(made, share)) == pytest.approx(score, abs=1e-6)


def _score(made: FindingsNetwork, share: float) -> torch.Tensor:
    """The first score where the classifier says `share`, by its bias alone."""
    with torch.inference_mode():
        made.classifier.weight.zero_()
        made.classifier.bias.fill_(torch.logit(torch.tensor(share)))
        return made(torch.zeros(1, 1, SIDE, SIDE))[0, 0]


def test_the_whole_network_has_the_published_size() -> None:
    """DenseNet-121 of one channel and 18 findings, as `torchxrayvision.models.DenseNet` is."""
    made = FindingsNetwork()
    assert sum(item.numel() for item in made.parameters()) == 6_966_034
    assert tuple(made.features.conv0.weight.shape) == (64, 1, 7, 7)


def test_a_network_without_an_operating_point_says_nothing(tmp_path: Path) -> None:
    made = network()
    made.operating_points[1] = float("nan")
    save_file(made.state_dict(), tmp_path / "weights.safetensors")
    data = changed()
    digest = hashlib.sha256((tmp_path / "weights.safetensors").read_bytes()).hexdigest()
    data["runtime"]["weights"]["sha256"] = digest
    broken = create(Manifest.model_validate(data), tmp_path, Host())
    with pytest.raises(ModelFailure) as caught:
        run(broken, radiograph("PA", drawn()))
    assert caught.value.code == "model-not-finite"


def test_what_is_shipped_has_no_weights_and_is_not_switched_on() -> None:
    registry = Registry()
    manifest = registry.manifest("chest-xray")
    assert not manifest.switched_on
    assert manifest.cases == ()
    assert len(manifest.outputs[0].classes) == 18  # type: ignore[union-attr]
    film = radiograph("PA", drawn(240, 240))
    with pytest.raises(ModelFailure) as caught:
        registry.load("chest-xray").run(ModelInput(radiographs=tuple(read_films(film))))
    assert caught.value.code == "model-not-installed"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"inputs": {"modality": ["CT"]}, "gates": []}, "inputs.images"),
        ({"preprocessing": {}}, "sizes"),
        ({"preprocessing": {"sizes": [[SIDE, SIDE]], "spacing_mm": [1, 1]}}, "spacing_mm"),
        ({"settings": {"crop": "none"}}, "settings"),
        ({"runtime": {"kind": "operators"}, "outputs": [
            {"name": "mass", "region": "chest", "unit": "1", "valid": [0, 1]}]}, "runtime"),
        ({"gates": [{"rule": "kvp", "min": 1, "applies_to": ["chest-findings"]}]}, "applies_to"),
        ({"outputs": [
            {"name": "mass", "region": "chest", "unit": "1", "valid": [0, 1]}]}, "tensor"),
        ({"outputs": [{"kind": "segmentation", "name": "heart", "region": "heart",
            "tensor": "scores", "labels": [{"value": 1, "name": "heart"}]}]}, "kind"),
    ],
    ids=range(8),
)  # fmt: skip
def test_what_it_cannot_do_is_an_error(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        create(Manifest.model_validate(changed(**parts)), MANIFEST.parent, Host())
