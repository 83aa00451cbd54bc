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

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
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
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DT

from fhir_ext.dicom.inherit import finish, local_time, restore, usable_header
from fhir_ext.resources import codes
from fhir_ext.resources.codes import MANUFACTURER, Coding
from fhir_ext.resources.ids import dicom_uid
from fhir_ext.resources.observation import tracking_uid
from fhir_ext.results import Region, ServiceResult

#: SeriesNumber (0020,0011) of the SR of a series without a number; else it is added to it.
SERIES_NUMBER_BASE: Final = 9000

_SCHEME: Final = {codes.SCT: "SCT", codes.DCM: "DCM"}
_UNITS: Final = {
    "%": "Percent",
    "[hnsf'U]": "Hounsfield unit",
    "mL": "milliliter",
    "mm3": "cubic millimeter",
    "1": "no units",
}


@dataclass(frozen=True, slots=True)
class Correction:
    """What makes an SR the successor of another (PS3.3 C.17.2).

    Attributes:
        sop_instance_uid: of the successor.
        predecessor: the SR that it replaces; SOP class and the UIDs down to the instance
            are needed.
        observer: Verifying Observer Name (0040,A075).
        organization: Verifying Organization (0040,A027).
        by_hand: (name, region) of the numbers that a human gave.
    """

    sop_instance_uid: str
    predecessor: Dataset
    observer: str
    organization: str
    by_hand: frozenset[tuple[str, Region]] = frozenset()


def build_sr(
    result: ServiceResult,
    evidence: Sequence[Dataset],
    issued: datetime,
    correction: Correction | None = None,
) -> Dataset:
    """The SR of one result; the same arguments give the same bytes.

    Args:
        result: at least one measurement.
        evidence: the source instances (headers suffice); patient and study modules are
            copied from the first.
        issued: content date and time, and with `correction` the time of verification; aware.
        correction: makes it the verified, final successor of another SR, in its series.

    Returns:
        A Comprehensive 3D SR with file meta information, Explicit VR Little Endian, UTF-8.

    Raises:
        ValueError: no evidence, no measurement, or `issued` is naive.
        KeyError: a measurement has no code.
    """
    if not evidence or not result.measurements:
        raise ValueError("an SR needs evidence and measurements")
    by_hand = correction.by_hand if correction else frozenset()
    regions = list(dict.fromkeys(item.region for item in result.measurements))
    groups = [
        _group(result, region, evidence if at == 0 else None, by_hand)
        for at, region in enumerate(regions)
    ]
    content = report(result, groups, codes.COMPUTED_TOMOGRAPHY)
    return document(result, content, evidence, issued, correction)


def document(
    result: ServiceResult,
    content: MeasurementReport,
    evidence: Sequence[Dataset],
    issued: datetime,
    correction: Correction | None = None,
) -> Dataset:
    """The SR around a report; arguments and errors as `build_sr`."""
    if not evidence:
        raise ValueError("an SR needs evidence")
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
        coding_schemes=[
            CodingSchemeIdentificationItem(
                designator=codes.PRIVATE_SCHEME,
                name="fhir-ext local codes",
                responsible_organization="fhir-ext developers",
            )
        ],
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
    groups: Sequence[MeasurementsAndQualitativeEvaluations],
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
        imaging_measurements=groups,
        title=dictionary.DCM.ImagingMeasurementReport,
    )


def _group(
    result: ServiceResult,
    region: Region,
    sources: Sequence[Dataset] | None,
    by_hand: frozenset[tuple[str, Region]],
) -> MeasurementsAndQualitativeEvaluations:
    """TID 1501 of one region: a whole organ, so no coordinates."""
    side = codes.REGION_LATERALITY.get(region)
    mine = [item for item in result.measurements if item.region is region]
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=tracking_uid(result, region), identifier=codes.REGION_TEXT[region]
        ),
        algorithm_id=algorithm(result),
        finding_sites=[
            FindingSite(
                anatomic_location=concept(codes.REGION_SITE[region]),
                laterality=None if side is None else concept(side),
            )
        ],
        measurements=[
            _number(item.name, item.value, item.unit, (item.name, region) in by_hand)
            for item in mine
            if item.value is not None
        ],
        qualitative_evaluations=[
            QualitativeEvaluation(
                name=concept(codes.MEASUREMENT.coding(item.name)),
                value=concept(codes.REFUSAL_REASON.coding_or_other(item.refusal.rule)),
            )
            for item in mine
            if item.refusal is not None
        ],
        source_images=None if sources is None else source_images(sources),
    )


def algorithm(result: ServiceResult) -> AlgorithmIdentification:
    """TID 4019: the model version and its settings."""
    return AlgorithmIdentification(
        name=result.model.id,
        version=result.model.version,
        parameters=[f"settings sha256 {result.model.settings_hash}"],
        manufacturer=MANUFACTURER,
    )


def source_images(sources: Sequence[Dataset]) -> list[SourceImageForMeasurementGroup]:
    """References to the images that a group was made from."""
    return [
        SourceImageForMeasurementGroup(
            referenced_sop_class_uid=image.SOPClassUID,
            referenced_sop_instance_uid=image.SOPInstanceUID,
        )
        for image in sources
    ]


def _number(name: str, value: float, unit: str, by_hand: bool) -> Measurement:
    """TID 300: a standard concept where there is one, else ours; a human's number says so."""
    return Measurement(
        name=concept(codes.STANDARD_MEASUREMENT.get(name) or codes.MEASUREMENT.coding(name)),
        value=value,
        unit=CodedConcept(value=unit, meaning=_UNITS.get(unit, unit), scheme_designator="UCUM"),
        method=concept(codes.HUMAN_VALUE.coding("human-value")) if by_hand else None,
    )


def concept(coding: Coding) -> CodedConcept:
    """A coding of ours or of a standard as SR writes it."""
    return CodedConcept(
        value=coding.code,
        meaning=coding.display[:64],
        scheme_designator=_SCHEME.get(coding.system, codes.PRIVATE_SCHEME),
    )


def _series_number(source: Dataset) -> int:
    number = source.get("SeriesNumber")
    return SERIES_NUMBER_BASE + (max(0, int(number)) if number is not None else 0)
