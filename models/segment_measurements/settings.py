"""The manifest's `settings` by topic."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from models.manifest import Manifest
from models.manifest.demands import checked
from models.segment_measurements.aorta import ArchSettings
from models.segment_measurements.calcium import CalciumSettings
from models.segment_measurements.conclusions import Thresholds
from models.segment_measurements.tubes import TubeSettings


class Numbers(BaseModel):
    """`settings` and `thresholds` of the manifest: exactly these.

    Attributes:
        blood_rim_mm, blood_min_ml: where blood is measured, and how much there must be.
        vertebra_rim_mm, vertebra_min_ml: core of a vertebra.
        organ_rim_mm, organ_min_ml: core of liver and spleen.
        fat_low_hu, fat_high_hu: closed bounds of fat.
        outside_limit: largest share of a segment outside of the images.
        cut_limit: largest share of a segment's widest cut on the edge of the images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    calcium: CalciumSettings
    tube: TubeSettings
    arch: ArchSettings
    thresholds: Thresholds
    blood_rim_mm: float
    blood_min_ml: float
    vertebra_rim_mm: float
    vertebra_min_ml: float
    organ_rim_mm: float
    organ_min_ml: float
    fat_low_hu: int
    fat_high_hu: int
    outside_limit: float
    cut_limit: float


def numbers_of(manifest: Manifest) -> Numbers:
    """Settings and thresholds, checked.

    Raises:
        ManifestError: one is missing, unknown or of the wrong type.
    """
    own: dict[str, object] = dict(manifest.settings)
    return checked(
        manifest,
        Numbers,
        {
            "calcium": {name: own.pop(name, None) for name in CalciumSettings.model_fields},
            "tube": _topic(own, "tube_"),
            "arch": _topic(own, "arch_"),
            "thresholds": dict(manifest.thresholds),
            **own,
        },
    )


def _topic(own: dict[str, object], prefix: str) -> Mapping[str, object]:
    names = [name for name in own if name.startswith(prefix)]
    return {name.removeprefix(prefix): own.pop(name) for name in names}
