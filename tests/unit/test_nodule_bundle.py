"""A detector of MONAI in the layout of its model zoo, with and without harm in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nodule_bundle import AT_MOST, Json, detector, write_bundle

from models.runtime.base import ModelFailure
from models.runtime.opening import open_session
from models.runtime.options import Options


@pytest.fixture(scope="module")
def built() -> Any:
    return detector()


def test_gives_what_monai_gives(built: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(2).random((2, 1, 32, 32, 16), dtype=np.float32)
    session = open_session(
        write_bundle(tmp_path, built.network.state_dict()), tmp_path, Options(max_batch=1)
    )
    found = session.run({"image": image})
    session.close()
    built.set_box_selector_parameters(
        score_thresh=0.02, topk_candidates_per_level=50, nms_thresh=0.22, detections_per_img=20
    )
    built.set_target_keys("box", "label")
    with torch.inference_mode():
        wanted = built(torch.from_numpy(image))
    for index, item in enumerate(wanted):
        count = int(found["count"][index])
        assert 0 < count == min(AT_MOST, len(item["box"]))
        scores, order = item["label_scores"].sort(descending=True, stable=True)
        np.testing.assert_allclose(found["scores"][index, :count], scores[:count], atol=1e-5)
        np.testing.assert_allclose(
            found["boxes"][index, :count], item["box"][order][:count], atol=1e-3
        )
        assert (found["labels"][index, :count] == 1).all()
        assert not found["scores"][index, count:].any()


def _selection(text: str) -> Callable[[Json], None]:
    def change(config: Json) -> None:
        config["detector_ops"] = [f"$@detector.set_box_selector_parameters({text})"]

    return change


def _target(config: Json) -> None:
    config["detector"]["_target_"] = "scripts.detector.Detector"


def _no_detector(config: Json) -> None:
    config["detector"] = "@network"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (_selection("score_thresh=__import__('os').getpid()"), "weights-unsafe"),
        (_selection("score_thresh='low'"), "weights-unsafe"),
        (_selection("inferer=1"), "weights-unsafe"),
        (_selection("0.5"), "weights-unsafe"),
        (_selection("score_thresh=0.5) or (1"), "weights-unsafe"),
        (_target, "weights-unsafe"),
        (_no_detector, "weights-corrupt"),
    ],
)
def test_what_is_no_detector_is_refused(
    built: Any, tmp_path: Path, change: Callable[[Json], None], code: str
) -> None:
    runtime = write_bundle(tmp_path, built.network.state_dict(), change)
    with pytest.raises(ModelFailure) as caught:
        open_session(runtime, tmp_path, Options())
    assert caught.value.code == code


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    runtime = write_bundle(tmp_path, {"weight": torch.zeros(3)})
    with pytest.raises(ModelFailure) as caught:
        open_session(runtime, tmp_path, Options())
    assert caught.value.code == "weights-corrupt"


def test_other_tensors_are_refused(built: Any, tmp_path: Path) -> None:
    runtime = write_bundle(tmp_path, built.network.state_dict())
    less = runtime.model_copy(update={"outputs": runtime.outputs[:2]})
    with pytest.raises(ModelFailure) as caught:
        open_session(less, tmp_path, Options())
    assert caught.value.code == "model-output"
