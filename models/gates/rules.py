"""Every reason that `models` may give for withholding a result (CodeSystem `refusal-reason`)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

RULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "modality": "The modality is not one the model was made for.",
        "image-type": "The image type (localizer, secondary, projection) is not measurable.",
        "kernel": "The convolution kernel is not known to be smooth enough.",
        "slice-thickness": "The nominal slice thickness is outside the accepted range.",
        "spacing": "The distance of slices or pixels is outside the accepted range.",
        "slice-count": "The stack holds too few slices.",
        "coverage": "The stack does not cover the organ.",
        "gap": "Slices are missing inside the stack.",
        "irregular-spacing": "The distance of slices varies.",
        "duplicate-slices": "Several slices lie at the same place.",
        "single-slice": "The stack is a single slice.",
        "gantry-tilt": "The stack is sheared by a tilted gantry.",
        "slice-orientation": "The slices do not lie as they must.",
        "patient-position": "The patient lay otherwise than is accepted.",
        "contrast-agent": "A contrast agent was given, or none was.",
        "blood-pool-enhanced": "The attenuation of blood says that a contrast agent is in it.",
        "blood-pool-unenhanced": "The attenuation of blood says that no contrast agent is in it.",
        "blood-pool-unknown": "No segment shows blood, so that nothing is known of contrast.",
        "kvp": "The tube voltage is outside the accepted range.",
        "patient-age": "The patient's age is outside the accepted range.",
        "burned-in-annotation": "Text is burned into the pixels.",
        "photometric-interpretation": "The pixels are stored as other than the accepted values.",
        "image-size": "The image is smaller or larger than what the model looks at.",
        "pixel-spacing": "The size of a pixel is not stated, not calibrated, or out of range.",
        "view-position": "The projection is not stated, or not an accepted one.",
        "row-direction": "A row of pixels does not lead to an accepted side of the patient.",
        "presentation-intent": "Only raw images are there, not those made for reading.",
        "laterality": "The side is not stated, stated in two ways, or not accepted.",
        "mammography-view": "The view is not stated, stated in two ways, or not accepted.",
        "breast-implant": "A breast holds an implant.",
        "special-view": "In place of a standard view there is a special one.",
        "missing-view": "One of the views that are needed is missing.",
        "duplicate-view": "A view that is needed is there more than once.",
        "wrong-study": "The images are not of one study.",
        "lung-mask-implausible": "The lungs that were found cannot be believed.",
        "implausible-value": "The number is outside what a body can show.",
    }
)
