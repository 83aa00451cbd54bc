"""Classifications for tests of the builders; nothing here comes from a model."""

from __future__ import annotations

from typing import Any

from pydicom import Dataset
from result_samples import result
from synthetic_mg import STUDY, study

from fhir_ext.results import Classification, ModelIdentity, Refusal, Region, ServiceResult

MODEL = ModelIdentity(
    id="breast-density",
    version="1.0.0",
    title="Breast density (BI-RADS a to d)",
    settings_hash="b1" * 32,
)
LETTERS = ("a", "b", "c", "d")
DENSITY = Classification(
    "breast-density", Region.BREASTS, LETTERS, (0.08194442, 0.78303975, 0.13350317, 0.00151266), "b"
)
WITHHELD = Classification(
    "breast-density",
    Region.BREASTS,
    LETTERS,
    refusal=Refusal("missing-view", "no L-MLO", "one each of L-CC, R-CC, L-MLO, R-MLO"),
)


def evidence() -> list[Dataset]:
    """The four views without their pixels."""
    images = list(study().values())
    for image in images:
        del image.PixelData
    return images


def work(**changes: Any) -> ServiceResult:
    """The work that a classification came from."""
    return result(
        study=STUDY,
        series=f"{STUDY}.1",
        instances=tuple(image.SOPInstanceUID for image in evidence()),
        model=MODEL,
        service="breast-density",
        measurements=(),
        risks=(),
        issues=(),
        **changes,
    )
