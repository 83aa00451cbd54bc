"""What is known of the images of a job, for the input mix of the versions that saw them."""

from __future__ import annotations

import re
from typing import Final

from fhir_ext.dicom.volume import Acquisition
from models.service import ModelInput

UNKNOWN: Final = "unknown"

#: Ages from here on are one band: there are too few people to tell them apart.
OLDEST_BAND: Final = 90

#: Longest name of a manufacturer, scanner or kernel that is kept: LO of DICOM (PS3.5 6.2).
LONGEST: Final = 64

_NOT_PRINTED: Final = re.compile(r"[\x00-\x20\x7f-\xa0]+")
_SEXES: Final = frozenset({"F", "M", "O"})


def facts(given: ModelInput | None) -> dict[str, str]:
    """Fact to value; the same facts for all images, `unknown` where the header is silent.

    `manufacturer`, `scanner` and `kernel` are names as the header has them, without odd
    spaces; `slice-thickness` is in mm to 0.1; `age-band` is ten years wide, `90+` the last;
    `sex` is `F`, `M` or `O`. Of single images the first one speaks.

    Args:
        given: what the versions were shown; None when nothing of it could be read.
    """
    seen = _acquisition(given)
    return {
        "manufacturer": _name(seen.manufacturer),
        "scanner": _name(seen.scanner_model),
        "kernel": _name(seen.convolution_kernel),
        "slice-thickness": _thickness(seen.slice_thickness_mm),
        "age-band": _age_band(seen.patient_age_years),
        "sex": seen.patient_sex if seen.patient_sex in _SEXES else UNKNOWN,
    }


def _acquisition(given: ModelInput | None) -> Acquisition:
    if given is not None and given.volume is not None:
        return given.volume.acquisition
    images = () if given is None else (*given.mammograms, *given.radiographs)
    if images:
        return min(images, key=lambda shown: shown.sop_instance_uid).details
    return Acquisition(modality="")


def _name(value: str | None) -> str:
    cleaned = _NOT_PRINTED.sub(" ", value or "").strip()[:LONGEST]
    return cleaned or UNKNOWN


def _thickness(value: float | None) -> str:
    return f"{round(value, 1):g}" if value is not None and 0 < value < 100 else UNKNOWN


def _age_band(years: float | None) -> str:
    if years is None or not 0 <= years < 150:
        return UNKNOWN
    decade = int(years // 10) * 10
    return f"{OLDEST_BAND}+" if decade >= OLDEST_BAND else f"{decade}-{decade + 9}"
