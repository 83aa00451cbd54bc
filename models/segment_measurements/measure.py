"""One study's numbers: each is measured, or says why it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

from fhir_ext.dicom.volume import CTVolume
from fhir_ext.results import Refusal, Region
from models.segment_measurements.aorta import split
from models.segment_measurements.calcium import Calcium, score_calcium
from models.segment_measurements.conclusions import (
    AGATSTON,
    ARTERIES,
    DIAMETER,
    RATIO,
    TRABECULAR,
)
from models.segment_measurements.placing import pixel_mm2, slice_distance_mm, whole
from models.segment_measurements.settings import Numbers
from models.segment_measurements.tissue import core, fat_ml, mean_hu, volume_ml
from models.segment_measurements.tubes import Sections, largest, sections
from models.segmentation.structures import Structure, Structures, united

#: Structures that hold blood and nothing else.
BLOOD: Final = (
    "aorta",
    "thoracic-aorta",
    "ascending-aorta",
    "descending-aorta",
    "left-ventricle",
    "left-atrium",
)
_AORTAS: Final = ("aorta", "thoracic-aorta")
#: Every structure that a number is measured in.
WANTED: Final = frozenset(
    {*BLOOD, *(region.value for region in Region)}
    - {
        Region.LUNGS,
        Region.LEFT_LUNG,
        Region.RIGHT_LUNG,
        Region.BREASTS,
        Region.HEART,
        Region.CHEST,
    }
)

Found = float | Refusal


class Study:
    """Structures on one volume, and the numbers in them.

    Args:
        volume: only read.
        structures: on its grid.
        numbers: settings.
    """

    def __init__(self, volume: CTVolume, structures: Structures, numbers: Numbers) -> None:
        self._volume = volume
        self._structures = structures
        self._numbers = numbers
        self._ml = volume.geometry.voxel_volume_ml
        self._measures: Mapping[str, Callable[[Region], Found]] = {
            AGATSTON: lambda region: self._calcium_number(region, "score"),
            "calcium-volume": lambda region: self._calcium_number(region, "volume_mm3"),
            TRABECULAR: self._trabecular,
            "organ-attenuation": self._organ,
            "liver-spleen-difference": lambda _: self._difference(),
            DIAMETER: self._diameter,
            RATIO: lambda _: self._ratio(),
            "organ-volume": self._organ_volume,
            "epicardial-fat-volume": self._fat,
        }
        # One study, one cache: the aorta is followed once for all that ask.
        self._cuts = cache(self._follow)
        self._core_hu = cache(self._measure_core)
        self._blood = cache(self._measure_blood)

    def number(self, name: str, region: Region) -> Found:
        """One output of the manifest, not rounded, or why there is none.

        Raises:
            KeyError: there is no measurement of that name.
        """
        return self._measures[name](region)

    def blood(self, structures: tuple[str, ...]) -> float | None:
        """Largest mean HU of blood, off the wall, for `models.gates.BLOOD_POOL`.

        Args:
            structures: which hold blood and nothing else.

        Returns:
            None when none of them has enough blood to be measured.
        """
        return self._blood(structures)

    def structure(self, name: str) -> Structure | Refusal:
        """A structure that lies in the images, or why there is none."""
        found = self._structures.found.get(name)
        if found is None:
            missing = Refusal("segment-missing", "none", f"a segment of {name.replace('-', ' ')}")
            return self._structures.refused.get(name) or self._structures.unusable or missing
        limit = self._numbers.outside_limit
        if found.outside > limit:
            seen = f"{100 * found.outside:.1f} % of the segment outside"
            return Refusal("coverage", seen, f"at most {100 * limit:g} %")
        return found

    def _whole(self, name: str) -> Structure | Refusal:
        """A structure that the edge of the images does not cut."""
        found = self.structure(name)
        if isinstance(found, Refusal):
            return found
        return whole(found, self._volume, self._numbers.cut_limit) or found

    # Attenuation

    def _measure_blood(self, structures: tuple[str, ...]) -> float | None:
        numbers, means = self._numbers, []
        for name in structures:
            found = self._structures.found.get(name)
            if found is None:
                continue
            inner = core(found.mask, numbers.blood_rim_mm, self._volume.geometry.spacing_mm)
            if volume_ml(inner, self._ml) >= numbers.blood_min_ml:
                means.append(mean_hu(found.voxels(self._volume), inner))
        return max(means, default=None)

    def _measure_core(self, name: str, rim_mm: float, least_ml: float) -> Found:
        found = self.structure(name)
        if isinstance(found, Refusal):
            return found
        inner = core(found.mask, rim_mm, self._volume.geometry.spacing_mm)
        left = volume_ml(inner, self._ml)
        if left < least_ml:
            return Refusal("core-too-small", f"{left:.2f} mL", f"at least {least_ml:g} mL")
        return mean_hu(found.voxels(self._volume), inner)

    def _trabecular(self, region: Region) -> Found:
        numbers = self._numbers
        return self._core_hu(region.value, numbers.vertebra_rim_mm, numbers.vertebra_min_ml)

    def _organ(self, region: Region) -> Found:
        return self._core_hu(region.value, self._numbers.organ_rim_mm, self._numbers.organ_min_ml)

    def _difference(self) -> Found:
        liver, spleen = self._organ(Region.LIVER), self._organ(Region.SPLEEN)
        if isinstance(liver, Refusal):
            return liver
        return spleen if isinstance(spleen, Refusal) else liver - spleen

    # Calcium

    def _calcium_number(self, region: Region, which: str) -> Found:
        found = self._calcium(region)
        if isinstance(found, Refusal):
            return found
        return found.score if which == "score" else found.volume_mm3

    def _calcium(self, region: Region) -> Calcium | Refusal:
        found = self._arteries() if region is Region.CORONARY_ARTERIES else self._whole(region)
        if isinstance(found, Refusal):
            return found
        geometry = self._volume.geometry
        return score_calcium(
            found.voxels(self._volume),
            found.mask,
            pixel_mm2(geometry),
            slice_distance_mm(geometry),
            self._numbers.calcium,
        )

    def _arteries(self) -> Structure | Refusal:
        """All coronary arteries: one segment, or all four."""
        together = self._whole(Region.CORONARY_ARTERIES)
        if not isinstance(together, Refusal) or together.rule != "segment-missing":
            return together
        parts = [self._whole(region) for region in ARTERIES]
        found = [part for part in parts if isinstance(part, Structure)]
        if len(found) == len(parts):
            return united(Region.CORONARY_ARTERIES, found)
        if not found:
            return together
        return next(part for part in parts if isinstance(part, Refusal))

    # Vessels

    def _follow(self, name: str) -> Sections | Refusal:
        found = self.structure(name)
        if isinstance(found, Refusal):
            return found
        return sections(found, self._volume.geometry, self._numbers.tube)

    def _sections(self, region: Region) -> Sections | Refusal:
        """Cuts of a vessel that has a segment, or of its part of the aorta."""
        own = self._cuts(region.value)
        if region is Region.PULMONARY_TRUNK or not isinstance(own, Refusal):
            return own
        for name in _AORTAS:
            aorta = self._cuts(name)
            if isinstance(aorta, Refusal):
                continue
            legs = split(aorta, self._numbers.arch)
            if legs is None:
                return Refusal("vessel-shape", "no arch", "an arch with two legs")
            return legs[0] if region is Region.ASCENDING_AORTA else legs[1]
        return own

    def _diameter(self, region: Region) -> Found:
        cuts = self._sections(region)
        if isinstance(cuts, Refusal):
            return cuts
        found = largest(cuts, self._numbers.tube)
        if found is not None:
            return found
        least = self._numbers.tube.min_sections
        return Refusal("vessel-shape", f"{len(cuts)} usable cuts", f"at least {least}")

    def _ratio(self) -> Found:
        trunk = self._diameter(Region.PULMONARY_TRUNK)
        aorta = self._diameter(Region.ASCENDING_AORTA)
        if isinstance(trunk, Refusal):
            return trunk
        return aorta if isinstance(aorta, Refusal) else trunk / aorta

    # Volumes

    def _organ_volume(self, region: Region) -> Found:
        found = self._whole(region)
        return found if isinstance(found, Refusal) else volume_ml(found.mask, self._ml)

    def _fat(self, region: Region) -> Found:
        found = self._whole(region)
        if isinstance(found, Refusal):
            return found
        bounds = (self._numbers.fat_low_hu, self._numbers.fat_high_hu)
        return fat_ml(found.voxels(self._volume), found.mask, bounds, self._ml)
