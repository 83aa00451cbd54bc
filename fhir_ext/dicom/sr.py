"""A service result as DICOM SR: TID 1500 Measurement Report in a Comprehensive 3D SR.

    Imaging Measurement Report                                  (TID 1500)
    ├── language, device observer (the model version)           (TID 1001, 1004)
    ├── procedure reported
    └── Imaging Measurements
        ├── Measurement Group, one per region                   (TID 1501)
        │   ├── tracking identifier and UID, algorithm          (TID 4108, 4019)
        │   ├── finding site with laterality
        │   ├── numbers, probabilities of categories            (TID 300)
        │   ├── categories; what is withheld = coded reason
        │   ├── comments
        │   └── source images (first group; they are those of all groups)
        └── Measurement Group, one per place that was found     (TID 1411)
            ├── tracking identifier and UID, finding, algorithm, finding site
            ├── volume surface: an ellipsoid in patient coordinates
            └── score and size

highdicom takes about a second to import: import this module only where an SR is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from highdicom.sr import (
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DT

from fhir_ext.dicom.inherit import finish, local_time, restore, usable_header
from fhir_ext.dicom.sr_groups import Group, Key, groups
from fhir_ext.dicom.sr_items import concept, our_scheme
from fhir_ext.resources import codes
from fhir_ext.resources.codes import MANUFACTURER, Coding
from fhir_ext.resources.ids import dicom_uid
from fhir_ext.results import ServiceResult

#: SeriesNumber (0020,0011) of the SR of a series without a number; else it is added to it.
SERIES_NUMBER_BASE: Final = 9000


@dataclass(frozen=True, slots=True)
class Correction:
    """What makes an SR the successor of another (PS3.3 C.17.2).

    Attributes:
        sop_instance_uid: of the successor.
        predecessor: the SR that it replaces; SOP class and the UIDs down to the instance
            are needed.
        observer: Verifying Observer Name (0040,A075).
        organization: Verifying Organization (0040,A027).
        by_hand: (name, region) of the numbers and categories that a human gave.
    """

    sop_instance_uid: str
    predecessor: Dataset
    observer: str
    organization: str
    by_hand: frozenset[Key] = frozenset()


def build_sr(
    result: ServiceResult,
    evidence: Sequence[Dataset],
    issued: datetime,
    correction: Correction | None = None,
) -> Dataset:
    """The SR of one result; the same arguments give the same bytes.

    Args:
        result: at least one number, category or place.
        evidence: the source instances (headers suffice), of one series or several; patient and
            study modules are copied from the first.
        issued: content date and time, and with `correction` the time of verification; aware.
        correction: makes it the verified, final successor of another SR, in its series.

    Returns:
        A Comprehensive 3D SR with file meta information, Explicit VR Little Endian, UTF-8.

    Raises:
        ValueError: no evidence, nothing to say, or `issued` is naive.
        KeyError: a region has no code.
    """
    said = result.measurements or result.classifications or result.detections
    if not evidence or not said:
        raise ValueError("an SR needs evidence and something to say")
    found = groups(result, evidence, correction.by_hand if correction else frozenset())
    modality = str(evidence[0].get("Modality", ""))
    content = report(result, found, codes.PROCEDURES.get(modality, codes.IMAGING_PROCEDURE))
    return document(result, content, evidence, issued, correction)


def document(
    result: ServiceResult,
    content: MeasurementReport,
    evidence: Sequence[Dataset],
    issued: datetime,
    correction: Correction | None = None,
) -> Dataset:
    """The SR around a report; arguments and errors as `build_sr`."""
    if issued.tzinfo is None:
        raise ValueError("an SR needs an aware time")
    first = evidence[0]
    sources = [usable_header(first), *evidence[1:]]
    local = local_time(issued, first)
    sr = Comprehensive3DSR(
        evidence=sources,
        content=content,
        series_instance_uid=dicom_uid(result.inference_key, "sr-series"),
        series_number=_series_number(first),
        sop_instance_uid=(
            correction.sop_instance_uid if correction else dicom_uid(result.inference_key, "sr")
        ),
        instance_number=2 if correction else 1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=result.model.title[:64],
        software_versions=result.model.version[:64],
        device_serial_number=result.model.settings_hash[:64],
        series_description=f"{result.model.title}: measurements"[:64],
        is_complete=True,
        is_final=correction is not None,
        is_verified=correction is not None,
        # highdicom warns about a name of one component, and quotes it; ours is set below.
        verifying_observer_name="^" if correction else None,
        verifying_organization=correction.organization[:64] if correction else None,
        previous_versions=[correction.predecessor] if correction else None,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
        content_date=local.date(),
        content_time=local.time().replace(microsecond=0),
        series_date=local.date(),
        series_time=local.time().replace(microsecond=0),
        coding_schemes=[our_scheme()],
    )
    restore(sr, first, sources[0])
    finish(sr, first, local)
    if correction:
        (verifying,) = sr.VerifyingObserverSequence
        verifying.VerifyingObserverName = correction.observer
        verifying.VerificationDateTime = DT(local.strftime("%Y%m%d%H%M%S%z"))
    return sr


def report(
    result: ServiceResult,
    found: Sequence[Group],
    procedure: Coding,
) -> MeasurementReport:
    """TID 1500 around measurement groups, observed by the model version."""
    model = result.model
    observer = ObserverContext(
        observer_type=dictionary.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=dicom_uid(result.inference_key, "observer"),
            name=model.title[:64],
            manufacturer_name=MANUFACTURER,
            model_name=f"{model.id} {model.version}",
            serial_number=model.settings_hash,
        ),
    )
    return MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=concept(procedure),
        imaging_measurements=found,
        title=dictionary.DCM.ImagingMeasurementReport,
    )


def _series_number(source: Dataset) -> int:
    number = source.get("SeriesNumber")
    return SERIES_NUMBER_BASE + (max(0, int(number)) if number is not None else 0)
