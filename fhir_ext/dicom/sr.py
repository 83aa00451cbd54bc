"""A service result as DICOM SR: TID 1500 Measurement Report in a Comprehensive 3D SR.

    Imaging Measurement Report                                  (TID 1500)
    ├── language, device observer (the model version)           (TID 1001, 1004)
    ├── procedure reported
    └── Imaging Measurements
        └── Measurement Group, one per region                   (TID 1501)
            ├── tracking identifier and UID, algorithm          (TID 4108, 4019)
            ├── finding site with laterality
            ├── numbers                                         (TID 300)
            ├── withheld numbers: measurement = coded reason
            └── source images (first group; they are those of all groups)

highdicom takes about a second to import: import this module only where an SR is built.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DA, DT, TM

from fhir_ext.resources import codes
from fhir_ext.resources.codes import MANUFACTURER, Coding
from fhir_ext.resources.ids import dicom_uid
from fhir_ext.resources.observation import tracking_uid
from fhir_ext.results import Region, ServiceResult

#: SeriesNumber (0020,0011) of the SR of a series without a number; else it is added to it.
SERIES_NUMBER_BASE: Final = 9000

_SCHEME: Final = {codes.SCT: "SCT", codes.DCM: "DCM"}
_UNITS: Final = {"%": "Percent", "[hnsf'U]": "Hounsfield unit", "mL": "milliliter"}

#: Type 2 attributes that highdicom wants to find in the evidence.
_TYPE_2: Final = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
#: References of the patient and study modules; an item needs both UIDs (PS3.3 Table 10-11).
_REFERENCES: Final = ("ReferencedPatientSequence", "ReferencedStudySequence")
_SEXES: Final = frozenset({"", "M", "F", "O"})


def build_sr(result: ServiceResult, evidence: Sequence[Dataset], issued: datetime) -> Dataset:
    """The SR of one result; the same arguments give the same bytes.

    Args:
        result: at least one measurement.
        evidence: the source instances (headers suffice); patient and study modules are
            copied from the first.
        issued: content date and time; aware.

    Returns:
        A Comprehensive 3D SR with file meta information, Explicit VR Little Endian, UTF-8.

    Raises:
        ValueError: no evidence, no measurement, or `issued` is naive.
        KeyError: a measurement has no code.
    """
    if not evidence or not result.measurements:
        raise ValueError("an SR needs evidence and measurements")
    if issued.tzinfo is None:
        raise ValueError("an SR needs an aware time")
    first = evidence[0]
    usable = [_usable(first), *evidence[1:]]
    local = issued.astimezone(_time_zone(first))
    sr = Comprehensive3DSR(
        evidence=usable,
        content=_report(result, usable),
        series_instance_uid=dicom_uid(result.inference_key, "sr-series"),
        series_number=_series_number(first),
        sop_instance_uid=dicom_uid(result.inference_key, "sr"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=result.model.title[:64],
        software_versions=result.model.version[:64],
        device_serial_number=result.model.settings_hash[:64],
        series_description=f"{result.model.title}: measurements"[:64],
        is_complete=True,
        is_final=False,
        is_verified=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set="ISO_IR 192",
        content_date=local.date(),
        content_time=local.time().replace(microsecond=0),
        series_date=local.date(),
        series_time=local.time().replace(microsecond=0),
        coding_schemes=[
            CodingSchemeIdentificationItem(
                designator=codes.PRIVATE_SCHEME,
                name="fhir-ext local codes",
                responsible_organization="fhir-ext developers",
            )
        ],
    )
    _restore(sr, first, usable[0])
    _fix_clock(sr, local)
    if first.get("TimezoneOffsetFromUTC"):
        sr.TimezoneOffsetFromUTC = local.strftime("%z")
    return sr


def _report(result: ServiceResult, evidence: Sequence[Dataset]) -> MeasurementReport:
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
    regions = list(dict.fromkeys(item.region for item in result.measurements))
    groups = [
        _group(result, region, evidence if at == 0 else None) for at, region in enumerate(regions)
    ]
    return MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=_concept(codes.COMPUTED_TOMOGRAPHY),
        imaging_measurements=groups,
        title=dictionary.DCM.ImagingMeasurementReport,
    )


def _group(
    result: ServiceResult, region: Region, sources: Sequence[Dataset] | None
) -> MeasurementsAndQualitativeEvaluations:
    """TID 1501 of one region: a whole organ, so no coordinates."""
    mine = [item for item in result.measurements if item.region is region]
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=tracking_uid(result, region), identifier=codes.REGION_TEXT[region]
        ),
        algorithm_id=AlgorithmIdentification(
            name=result.model.id,
            version=result.model.version,
            parameters=[f"settings sha256 {result.model.settings_hash}"],
            manufacturer=MANUFACTURER,
        ),
        finding_sites=[
            FindingSite(
                anatomic_location=_concept(codes.REGION_SITE[region]),
                laterality=_concept(codes.REGION_LATERALITY[region]),
            )
        ],
        measurements=[
            _number(item.name, item.value, item.unit) for item in mine if item.value is not None
        ],
        qualitative_evaluations=[
            QualitativeEvaluation(
                name=_concept(codes.MEASUREMENT.coding(item.name)),
                value=_concept(codes.REFUSAL_REASON.coding_or_other(item.refusal.rule)),
            )
            for item in mine
            if item.refusal is not None
        ],
        source_images=(
            None
            if sources is None
            else [
                SourceImageForMeasurementGroup(
                    referenced_sop_class_uid=image.SOPClassUID,
                    referenced_sop_instance_uid=image.SOPInstanceUID,
                )
                for image in sources
            ]
        ),
    )


def _number(name: str, value: float, unit: str) -> Measurement:
    """TID 300: a standard concept where there is one, else ours."""
    return Measurement(
        name=_concept(codes.STANDARD_MEASUREMENT.get(name) or codes.MEASUREMENT.coding(name)),
        value=value,
        unit=CodedConcept(value=unit, meaning=_UNITS.get(unit, unit), scheme_designator="UCUM"),
    )


def _concept(coding: Coding) -> CodedConcept:
    return CodedConcept(
        value=coding.code,
        meaning=coding.display[:64],
        scheme_designator=_SCHEME.get(coding.system, codes.PRIVATE_SCHEME),
    )


def _usable(source: Dataset) -> Dataset:
    """A copy that highdicom accepts: type 2 attributes present, and valid where it checks.

    Incomplete references, which de-identification leaves behind, are dropped for good: an
    object that holds them is not valid.
    """
    found = copy.deepcopy(source)
    for keyword in _REFERENCES:
        if keyword in found:
            found[keyword].value = [item for item in found[keyword].value if _complete(item)]
            if not found[keyword].value:
                del found[keyword]
    for keyword in _TYPE_2:
        # highdicom warns about a name of one component, and quotes it.
        if keyword not in found or keyword == "PatientName":
            setattr(found, keyword, "")
    if str(found.PatientSex or "") not in _SEXES:
        found.PatientSex = ""
    for keyword, representation in (
        ("PatientBirthDate", DA),
        ("StudyDate", DA),
        ("StudyTime", TM),
    ):
        try:
            representation(found.get(keyword))
        except ValueError:
            setattr(found, keyword, "")
    return found


def _complete(reference: Dataset) -> bool:
    return bool(
        reference.get("ReferencedSOPClassUID") and reference.get("ReferencedSOPInstanceUID")
    )


def _restore(sr: Dataset, source: Dataset, usable: Dataset) -> None:
    """Patient and study attributes exactly as the source has them, valid or not."""
    for keyword in _TYPE_2:
        if keyword in source and source[keyword] != usable[keyword]:
            element: DataElement = source[keyword]
            sr.add(element)


def _series_number(source: Dataset) -> int:
    number = source.get("SeriesNumber")
    return SERIES_NUMBER_BASE + (max(0, int(number)) if number is not None else 0)


def _time_zone(source: Dataset) -> timezone:
    """The zone in which the source states its times; UTC where it states none."""
    offset = str(source.get("TimezoneOffsetFromUTC", "") or "").strip()
    if len(offset) == 5 and offset[0] in "+-" and offset[1:].isdigit():
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
    return UTC


def _fix_clock(sr: Dataset, local: datetime) -> None:
    """Replace the instants that highdicom takes from the clock by the given one."""
    sr.InstanceCreationDate = local.strftime("%Y%m%d")
    sr.InstanceCreationTime = local.strftime("%H%M%S")
    for item in sr.ContributingEquipmentSequence:
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = DT(local.strftime("%Y%m%d%H%M%S%z"))
