"""Numbers and categories that a network gives, and what is made of a bad answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import network_samples as samples
import numpy as np
import pytest
import torch
from network_samples import MEASURED, SEGMENTED, Above, Answer, Mean, Softmax
from torch import nn

from fhir_ext.dicom.volume import CTVolume
from fhir_ext.phantom import PhantomSpec, build, orient
from fhir_ext.results import Refusal, Region, Uncertainty
from models.manifest import ManifestError
from models.runtime.base import ModelFailure
from models.runtime.host import Host

#: From HU to 0...1, as many networks want it, and back.
TO_ONE: dict[str, Any] = {"input": [-1000, 400], "output": [0, 1], "clip": True}
CLASSES: dict[str, Any] = {
    "name": "look",
    "kind": "classification",
    "region": "lungs",
    "tensor": "classes",
    "classes": [{"name": "plain"}, {"name": "bright"}, {"name": "dark"}],
}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    found = Host()
    yield found
    found.close()


@pytest.fixture(scope="module")
def phantom() -> CTVolume:
    spec = PhantomSpec(shape=(60, 128, 128), spacing_mm=(5.0, 2.9, 2.9))
    return samples.volume_of(*orient(build(spec).render("soft"), spec.spacing_mm, "FFP"))


def one(value: float, modality: str = "CT") -> CTVolume:
    """4 x 5 x 6 voxels of one value."""
    geometry = samples.geometry_of((4, 5, 6), (1, 1, 1))
    return samples.volume_of(np.full((4, 5, 6), value), geometry, modality)


def test_the_mean_of_the_phantom_is_counted(phantom: CTVolume, host: Host, tmp_path: Path) -> None:
    service = samples.service_of(
        tmp_path,
        Mean(),
        [{**MEASURED, "valid": [0, 1], "unit": "1"}],
        host,
        preprocessing={"orientation": "RAS", "window": TO_ONE},
    )
    (found,) = samples.run(service, phantom).measurements
    truth = (np.clip(phantom.voxels, -1000, 400).astype(np.float64) + 1000).mean() / 1400
    assert found.value == pytest.approx(truth, abs=2e-6)
    assert (found.name, found.region, found.unit) == ("mean-density", Region.LUNGS, "1")


def test_window_normalisation_and_padding_in_this_order(host: Host, tmp_path: Path) -> None:
    """Padding is a value of what the network sees: 120 of 4000 voxels hold the image."""
    service = samples.service_of(
        tmp_path,
        Mean(),
        [{**MEASURED, "valid": [-50, 50]}],
        host,
        preprocessing={
            "window": {"input": [-1000, 1000], "output": [0, 10], "clip": True},
            "normalise": {"mean": 2.0, "sd": 4.0},
            "sizes": [[30, 30, 30], [10, 20, 20], [20, 20, 20]],
            "pad_value": -1.0,
        },
    )
    for value, seen in ((0.0, 0.75), (3000.0, 2.0), (-1024.0, -0.5)):
        (found,) = samples.run(service, one(value)).measurements
        assert found.value == pytest.approx((120 * seen - 3880) / 4000, abs=1e-5)


def test_values_outside_of_the_window_may_stay(host: Host, tmp_path: Path) -> None:
    window = {"input": [0, 100], "output": [0, 1], "clip": False}
    service = samples.service_of(
        tmp_path, Mean(), [MEASURED], host, preprocessing={"window": window}
    )
    assert samples.run(service, one(250)).measurements[0].value == pytest.approx(2.5)


def test_an_image_larger_than_every_size_is_refused(host: Host, tmp_path: Path) -> None:
    sizes = [[4, 5, 5], [5, 5, 5], [3, 9, 9]]
    service = samples.service_of(tmp_path, Mean(), [MEASURED], host, preprocessing={"sizes": sizes})
    said = samples.run(service, one(0))
    wanted = Refusal("image-size", "4 x 5 x 6 voxels", "at most 3 x 9 x 9 voxels")
    assert said.measurements[0].refusal == wanted
    assert not said.stands


def test_a_header_cannot_ask_for_any_number_of_voxels(host: Host, tmp_path: Path) -> None:
    service = samples.service_of(
        tmp_path, Mean(), [MEASURED], host, preprocessing={"spacing_mm": [0.001] * 3}
    )
    refusal = samples.run(service, one(0)).measurements[0].refusal
    assert refusal is not None
    assert (refusal.rule, refusal.seen) == ("image-size", "4000 x 5000 x 6000 voxels")


def test_what_gates_refuse_is_not_shown_to_the_network(host: Host, tmp_path: Path) -> None:
    gate = {"rule": "kvp", "min": 100, "applies_to": ["mean-density"]}
    other = {**MEASURED, "name": "spread", "tensor": "sd"}
    service = samples.service_of(tmp_path, Mean(), [MEASURED, other], host, gates=[gate])
    first, second = samples.run(service, one(7)).measurements
    assert first.refusal is not None and first.refusal.rule == "kvp"
    assert second.value == pytest.approx(0, abs=1e-5)
    # A file that is not there would park the study.
    (tmp_path / "net.ts").unlink()
    alone = Host()
    service = samples.create(service._manifest, tmp_path, alone)
    said = samples.run(service, one(7, "MR"))
    assert [m.refusal and m.refusal.rule for m in said.measurements] == ["modality"] * 2
    with pytest.raises(ModelFailure) as caught:
        samples.run(service, one(7))
    assert caught.value.code == "model-not-installed"
    alone.close()


@pytest.mark.parametrize(
    ("stated", "wanted"),
    [
        (None, None),
        ({"kind": "sd", "value": 3.5}, Uncertainty("sd", 3.5)),
        ({"kind": "interval", "value": 8, "level": 0.95}, Uncertainty("interval", 8, 0.95)),
        ({"kind": "network", "tensor": "sd"}, Uncertainty("sd", 2.0)),
    ],
)
def test_uncertainty(
    stated: dict[str, Any] | None, wanted: Uncertainty | None, host: Host, tmp_path: Path
) -> None:
    output = {**MEASURED, **({"uncertainty": stated} if stated else {})}
    service = samples.service_of(tmp_path, Mean(), [output], host)
    voxels = np.zeros((2, 4, 4))
    voxels[:, :, ::2] = 2 * np.sqrt(31 / 32) * 1000
    geometry = samples.geometry_of((2, 4, 4), (1, 1, 1))
    (found,) = samples.run(service, samples.volume_of(voxels, geometry)).measurements
    if stated and stated["kind"] == "network":
        assert found.uncertainty is not None and wanted is not None
        assert found.uncertainty.kind == "sd"
        assert found.uncertainty.value == pytest.approx(np.std(voxels, ddof=1), rel=1e-3)
    else:
        assert found.uncertainty == wanted


def test_numbers_of_one_tensor_and_thresholds(host: Host, tmp_path: Path) -> None:
    answers = torch.tensor([3.0, 5000.0])
    reached = {"name": "low", "at": 3, "side": "at-or-below", "because": "A guideline."}
    missed = {"name": "lowest", "at": 2, "side": "at-or-below"}
    first = {**MEASURED, "thresholds": [reached, missed]}
    second = {**MEASURED, "name": "other", "index": 1}
    service = samples.service_of(
        tmp_path,
        Answer(answers),
        [first, second],
        host,
        tensors=[{"name": "mean", "shape": ["n", 2]}],
    )
    said = samples.run(service, one(0))
    assert said.measurements[0].value == 3.0
    assert said.measurements[1].refusal == Refusal("implausible-value", "5000", "-1024 to 3071")
    assert said.notes == (("mean-density", "low: at or below 3 [hnsf'U]. A guideline."),)


def test_the_most_probable_class_is_chosen(host: Host, tmp_path: Path) -> None:
    service = samples.service_of(
        tmp_path,
        Softmax(),
        [CLASSES],
        host,
        preprocessing={"window": {"input": [-1000, 1000], "output": [-5, 5]}},
    )
    volume = one(0)
    volume.voxels[0, 0, 0] = 500
    (found,) = samples.run(service, volume).classifications
    assert (found.name, found.categories) == ("look", ("plain", "bright", "dark"))
    assert found.chosen == "bright"
    exact = np.exp([2.5 / 120, 2.5, 0])
    assert found.probabilities == pytest.approx(exact / exact.sum(), abs=1e-6)


@pytest.mark.parametrize(("least", "chosen"), [(0.55, "bright"), (0.65, "plain")])
def test_a_class_below_its_threshold_gives_way(
    least: float, chosen: str, host: Host, tmp_path: Path
) -> None:
    classes = [{"name": "plain"}, {"name": "bright", "threshold": least}]
    service = samples.service_of(
        tmp_path,
        Answer(torch.tensor([0.4, 0.6])),
        [{**CLASSES, "classes": classes}],
        host,
        tensors=[{"name": "classes", "shape": ["n", 2]}],
    )
    assert samples.run(service, one(0)).classifications[0].chosen == chosen


def test_classes_beside_each_other_are_results_of_their_own(host: Host, tmp_path: Path) -> None:
    classes = [{"name": "effusion"}, {"name": "nodule", "threshold": 0.8}, {"name": "stent"}]
    output = {**CLASSES, "classes": classes, "exclusive": False}
    gate = {"rule": "kvp", "min": 100, "applies_to": ["look"]}
    made = samples.manifest_of(
        tmp_path,
        Answer(torch.tensor([0.9, 0.7, 0.5])),
        [output],
        tensors=[{"name": "classes", "shape": ["n", 3]}],
        gates=[gate],
    )
    service = samples.create(made, tmp_path, host)
    volume = one(0)
    seen = replace(volume, acquisition=replace(volume.acquisition, kvp=120.0))
    found = samples.run(service, seen).classifications
    assert [(c.name, c.chosen) for c in found] == [
        ("effusion", "present"),
        ("nodule", "absent"),
        ("stent", "present"),
    ]
    assert found[1].categories == ("present", "absent")
    assert found[1].probabilities == pytest.approx((0.7, 0.3))
    refused = samples.run(service, volume).classifications
    assert [(c.name, c.refusal and c.refusal.rule) for c in refused] == [
        ("effusion", "kvp"),
        ("nodule", "kvp"),
        ("stent", "kvp"),
    ]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [([0.5, 0.4, 0.0], "sum to 1"), ([2.0, -0.5, -0.5], "between"), ([4.0, 1.0, 2.0], "between")],
)
def test_logits_are_no_probabilities(
    answer: list[float], reason: str, host: Host, tmp_path: Path
) -> None:
    tensors = [{"name": "classes", "shape": ["n", 3]}]
    service = samples.service_of(
        tmp_path, Answer(torch.tensor(answer)), [CLASSES], host, tensors=tensors
    )
    with pytest.raises(ModelFailure, match=reason) as caught:
        samples.run(service, one(0))
    assert caught.value.code == "model-output"


@pytest.mark.parametrize("finite", [True, False])
def test_not_a_number_parks_the_study(finite: bool, host: Host, tmp_path: Path) -> None:
    tensors = [{"name": "mean", "shape": ["n", 1], "finite": finite}]
    service = samples.service_of(
        tmp_path, Answer(torch.tensor([float("nan")])), [MEASURED], host, tensors=tensors
    )
    with pytest.raises(ModelFailure) as caught:
        samples.run(service, one(0))
    assert caught.value.code == "model-not-finite"


def test_another_shape_than_declared_parks_the_study(host: Host, tmp_path: Path) -> None:
    tensors = [{"name": "mean", "shape": ["n", 2]}]
    service = samples.service_of(
        tmp_path, Answer(torch.zeros(3)), [MEASURED], host, tensors=tensors
    )
    with pytest.raises(ModelFailure) as caught:
        samples.run(service, one(0))
    assert caught.value.code == "model-output"


FIXED = [{"name": "image", "shape": ["n", 1, 8, 8, 8]}]
PLANES = [{"name": "image", "shape": ["n", 1, "h", "w"]}]
DOUBT = {"kind": "sd", "value": 1}


@pytest.mark.parametrize(
    ("network", "outputs", "changes", "reason"),
    [
        (Mean(), [MEASURED], {"inputs_of_network": FIXED}, "needs sizes or patches"),
        (
            Mean(),
            [MEASURED],
            {"inputs_of_network": FIXED, "preprocessing": {"sizes": [[8, 8, 9]]}},
            "not those of the network",
        ),
        (Mean(), [MEASURED], {"inputs_of_network": PLANES}, "outputs.0.kind: is one for the whole"),
        (
            Mean(),
            [MEASURED],
            {"preprocessing": {"patches": {"size": [4, 4, 4]}}},
            "outputs.0.kind: is one for the whole",
        ),
        (Mean(), [MEASURED], {"preprocessing": {"sizes": [[8, 8]]}}, "three axes"),
        (Mean(), [{**MEASURED, "tensor": None}], {}, "outputs.0.tensor: is needed"),
        (Above(), [{**SEGMENTED, "uncertainty": DOUBT}], {}, "is for numbers only"),
        (
            Softmax(),
            [{**CLASSES, "classes": [{"name": c, "threshold": 0.5} for c in "abc"]}],
            {},
            "one must have no threshold",
        ),
        (
            Above(),
            [{**SEGMENTED, "labels": [{"value": 300, "name": "many"}]}],
            {},
            "at most 255",
        ),
        (
            Mean(),
            [MEASURED],
            {"inputs_of_network": [FIXED[0], {"name": "second", "shape": ["n", 1]}]},
            "must be one tensor",
        ),
        (
            Mean(),
            [MEASURED],
            {"inputs": {"modality": ["CT"], "images": "segmented-volume"}},
            "inputs.images: must be volume",
        ),
        (Mean(), [MEASURED], {"thresholds": {"large": 5}}, "thresholds: large is not known"),
    ],
)
def test_manifests_that_say_too_little_are_refused_at_once(
    network: nn.Module,
    outputs: list[Any],
    changes: dict[str, Any],
    reason: str,
    host: Host,
    tmp_path: Path,
) -> None:
    with pytest.raises(ManifestError, match=reason):
        samples.service_of(tmp_path, network, outputs, host, **changes)
