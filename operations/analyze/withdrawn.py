"""Whether a model version, or what it drew in a study, was withdrawn; the FHIR server knows."""

from __future__ import annotations

from pydicom import Dataset

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.dicom.seg_author import drawn_by
from fhir_ext.resources.device import is_recalled
from fhir_ext.resources.ids import device_id, dicom_uid
from fhir_ext.resources.recall import inference_key_of
from fhir_ext.results import ModelIdentity
from operations.analyze.plan import SEGMENTATION_RECALLED, SEGMENTATION_REJECTED


def recalled(fhir: FhirClient, model: ModelIdentity) -> bool:
    """Whether a version was recalled; one that the server does not know was not.

    Raises:
        UpstreamError: HAPI is down.
    """
    return is_recalled(fhir.find("Device", device_id(model)) or {})


def drawn_by_recalled(fhir: FhirClient, header: Dataset) -> bool:
    """Whether a recalled version drew a SEG.

    No rejection note is looked for: it may come later, and where a human has signed the
    result of the segmenter there is none.

    Args:
        header: of any DICOM object.
    """
    model = drawn_by(header)
    return model is not None and recalled(fhir, model)


def why_withdrawn(fhir: FhirClient, imaging_study_id: str, header: Dataset) -> str | None:
    """Why nothing more may be measured in a SEG: a code of `not-applied-reason`, or None.

    Archives go on to list what a note rejects, so the FHIR server is asked.

    Args:
        imaging_study_id: of the SEG's study.
        header: of any DICOM object.

    Raises:
        UpstreamError: HAPI is down.
    """
    model = drawn_by(header)
    if model is None:
        return None
    if recalled(fhir, model):
        return SEGMENTATION_RECALLED
    asked = {
        "derived-from": f"ImagingStudy/{imaging_study_id}",
        "device": f"Device/{device_id(model)}",
        "status": "entered-in-error",
    }
    keys = {inference_key_of(item) for item in fhir.search("Observation", asked)}
    drawn = {dicom_uid(key, "seg-series") for key in keys if key}
    return SEGMENTATION_REJECTED if header.get("SeriesInstanceUID") in drawn else None
