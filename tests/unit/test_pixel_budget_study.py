"""The images of a job are held from before they are fetched until all models have seen them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import synthetic_mg as mg
from analytic import volume_of

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.dicom.volume import Geometry
from fhir_ext.errors import UpstreamError
from fhir_ext.settings import ArchiveSettings, LimitSettings
from models.registry import Registry
from models.runtime.budget import PixelBudget
from models.service import ModelInput
from operations.analyze import infer
from operations.analyze.fetch import FetchedSeries
from operations.analyze.infer import Analyzer
from operations.analyze.pixel_bytes import expected_bytes, image_bytes, room_for
from operations.analyze.plan import SeriesJob, SeriesRef

URL = "http://127.0.0.1:9"
JOB = SeriesJob("1.2.3.4", 40, ())
#: 40 slices of 512 x 512 pixels of 16 bits.
EXPECTED = 40 * 512 * 512 * 2
AXES = Geometry((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), "1.9")
VOLUME = volume_of(np.zeros((40, 8, 8), np.int16), AXES)


def analyzer(budget: PixelBudget) -> Analyzer:
    settings = ArchiveSettings(qido_url=URL, wado_url=URL, stow_url=URL)
    return Analyzer(DicomWebClient(settings, LimitSettings()), Registry(), LimitSettings(), budget)


def test_what_is_expected_and_what_it_is() -> None:
    assert expected_bytes(JOB) == EXPECTED
    views = SeriesJob("1.2.3", 2, (), (SeriesRef("1.2.4", 2),), kind="mammograms")
    assert expected_bytes(views) == 4 * 4096 * 3328 * 2
    assert image_bytes(None) == 0
    assert image_bytes(ModelInput(VOLUME)) == 40 * 8 * 8 * 2
    (image,) = mg.read(mg.mammogram("L-CC"))
    assert image_bytes(ModelInput(mammograms=(image,))) == image.pixels.nbytes > 0


def test_a_job_holds_what_it_expects_and_then_what_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    budget, seen = PixelBudget(10**9), list[int]()

    def fetch(*_: Any) -> FetchedSeries:
        seen.append(budget.held)
        return FetchedSeries(VOLUME, 0, ("1.4",), {})

    def facts(given: ModelInput | None) -> dict[str, str]:
        seen.append(budget.held)
        return {}

    monkeypatch.setattr(infer, "fetch_series", fetch)
    monkeypatch.setattr(infer, "facts", facts)
    analyzer(budget).analyze("1.2.3", JOB)
    assert seen == [EXPECTED, 40 * 8 * 8 * 2]
    assert budget.held == 0


def test_a_job_that_fails_gives_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any) -> FetchedSeries:
        raise UpstreamError("down")

    budget = PixelBudget(10**9)
    monkeypatch.setattr(infer, "fetch_series", fetch)
    with pytest.raises(UpstreamError):
        analyzer(budget).analyze("1.2.3", JOB)
    assert budget.held == 0


def test_without_a_budget_nothing_is_held() -> None:
    with room_for(None, JOB, False) as hold:
        assert hold is None
