"""Whether the FHIR server knows a model version, or what drew a SEG, as recalled."""

from __future__ import annotations

from pydicom import Dataset

from fhir_ext.clients.fhir import FhirClient
from fhir_ext.dicom.seg_author import drawn_by
from fhir_ext.resources.device import is_recalled
from fhir_ext.resources.ids import device_id
from fhir_ext.results import ModelIdentity


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
