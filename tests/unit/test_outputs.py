"""What the manifest adds to a service's output: codes, counts, and reasons for no count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from fhir_ext.results import Classification, Detection, Measurement, Refusal, Region, StandardCode
from models.manifest.base import Code
from models.manifest.outputs import (
    Category,
    Detections,
    MeasurementOutput,
    Segmentation,
    SegmentLabel,
)
from models.manifest.outputs import Classification as ClassificationOutput
from models.service import MaskOutput, ServiceOutput
from operations.analyze.outputs import complete

KERNEL = Refusal("kernel", "B70f", "a smooth kernel")
LF = Code(system="https://example.org/codes", code="LF", display="Liver fat")
STATED = StandardCode(LF.system, LF.code, LF.display)


@dataclass
class Manifest:
    """As much of a manifest as is looked at."""

    outputs: tuple[Any, ...]

    @property
    def measurements(self) -> tuple[Any, ...]:
        return tuple(item for item in self.outputs if isinstance(item, MeasurementOutput))


NUMBER = MeasurementOutput(name="liver-fat", region=Region.LIVER, unit="%", valid=(0, 100), code=LF)
CYSTS = Detections(
    name="cyst",
    kind="detections",
    region=Region.LIVER,
    score=0.5,
    code=LF,
    classes=(Category(name="simple", code=LF), Category(name="other")),
)
LOBES = Segmentation(
    name="lobes",
    kind="segmentation",
    region=Region.LIVER,
    labels=(SegmentLabel(value=1, name="left"), SegmentLabel(value=4, name="right")),
)
GRADE = ClassificationOutput(
    name="grade",
    kind="classification",
    region=Region.LIVER,
    code=LF,
    classes=(Category(name="none"), Category(name="mild", code=LF)),
)
SIGNS = ClassificationOutput(
    name="signs",
    kind="classification",
    region=Region.LIVER,
    exclusive=False,
    classes=(Category(name="iron", code=LF), Category(name="ascites")),
)
CYST = Detection("cyst", Region.LIVER, "simple", 0.9, (0, 0, 0), (1, 1, 1))


def counts(output: ServiceOutput) -> dict[str, float | str]:
    return {
        item.name: item.value if item.refusal is None else item.refusal.rule
        for item in output.measurements
        if item.name.endswith("-count")
    }


def test_codes_of_the_manifest_reach_every_kind_of_result() -> None:
    manifest = Manifest((NUMBER, CYSTS, GRADE, SIGNS))
    given = ServiceOutput(
        measurements=(Measurement("liver-fat", Region.LIVER, "%", value=3.0),),
        classifications=(
            Classification("grade", Region.LIVER, ("none", "mild"), (0.25, 0.75), "mild"),
            Classification("iron", Region.LIVER, ("present", "absent"), (0.25, 0.75), "absent"),
            Classification("ascites", Region.LIVER, ("present", "absent"), refusal=KERNEL),
        ),
        detections=(CYST, replace(CYST, category="other")),
        searched=True,
    )
    found = complete(manifest, given)
    assert found.measurements[0].code == STATED
    grade, iron, ascites = found.classifications
    assert (grade.code, grade.category_codes) == (STATED, (None, STATED))
    assert (iron.code, iron.category_codes) == (STATED, ())
    assert ascites.code is None
    assert [d.code for d in found.detections] == [STATED, STATED]
    assert [d.category_code for d in found.detections] == [STATED, None]


def test_a_code_of_the_service_stands() -> None:
    own = StandardCode("https://example.org/other", "x", "X")
    item = Measurement("liver-fat", Region.LIVER, "%", value=3.0, code=own)
    found = complete(Manifest((NUMBER,)), ServiceOutput(measurements=(item,)))
    assert found.measurements == (item,)


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({"detections": (CYST, CYST), "searched": True}, 2.0),
        ({"searched": True}, 0.0),
        ({"withheld": (("cyst", KERNEL),)}, "kernel"),
        ({"withheld": (("cyst", KERNEL),), "searched": True}, "kernel"),
        ({}, "other"),
    ],
)
def test_places_are_counted_or_the_reason_is_said(
    given: dict[str, Any], count: float | str
) -> None:
    assert counts(complete(Manifest((CYSTS,)), ServiceOutput(**given))) == {"cyst-count": count}


def test_segments_count_when_they_hold_a_voxel() -> None:
    labels = np.zeros((2, 3, 4), np.uint8)
    labels[0, 0, 0], labels[1, 1, 1] = 4, 7
    masks = (MaskOutput("lobes", labels),)
    assert counts(complete(Manifest((LOBES,)), ServiceOutput(masks=masks))) == {"lobes-count": 1.0}
    nothing = (MaskOutput("lobes", np.zeros_like(labels)),)
    assert counts(complete(Manifest((LOBES,)), ServiceOutput(masks=nothing))) == {
        "lobes-count": 0.0
    }


def test_a_count_of_the_service_itself_stands() -> None:
    own = Measurement("cyst-count", Region.LIVER, "1", value=17.0)
    found = complete(Manifest((CYSTS,)), ServiceOutput(measurements=(own,), searched=True))
    assert found.measurements == (own,)
