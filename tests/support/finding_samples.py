"""Results of every kind for tests of the builders; nothing here comes from a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydicom import Dataset
from pydicom.uid import CTImageStorage, SegmentationStorage
from result_samples import KERNEL, result

from fhir_ext.results import (
    Classification,
    Detection,
    Measurement,
    ModelIdentity,
    Region,
    SeriesSource,
    ServiceResult,
    StandardCode,
    Uncertainty,
)

FRAME = "1.2.826.0.1.3680043.8.498.9"
SEG_SERIES = "1.2.826.0.1.3680043.8.498.1.8"
NODULES = ModelIdentity(
    "nodule-detection", "0.1.0", "Lung nodules (reference, not for diagnosis)", "0d" * 32, "always"
)
ACME = ModelIdentity("acme-liver", "2.1.0", "Acme liver", "ac" * 32, "rule")
SCT = "http://snomed.info/sct"
STEATOSIS = StandardCode(SCT, "197321007", "Steatosis of liver")

FOUND = (
    Detection("lung-nodule", Region.LUNGS, "nodule", 0.91, (-41.25, 12.5, -880.0), (8.0, 7.5, 9.0)),
    Detection("lung-nodule", Region.LUNGS, "nodule", 0.55, (60.0, -3.125, -700.5), (5, 5, 5)),
)


def detected(*, found: tuple[Detection, ...] = FOUND, **changes: Any) -> ServiceResult:
    """A detector that found something, or looked and found nothing."""
    count = Measurement("lung-nodule-count", Region.LUNGS, "1", value=float(len(found)))
    return result(
        service="nodule-detection",
        model=NODULES,
        measurements=(count,),
        risks=(),
        issues=(),
        detections=found,
        frame_of_reference_uid=FRAME if found else "",
        **changes,
    )


def refused_detection() -> ServiceResult:
    """A detector that did not look."""
    count = Measurement("lung-nodule-count", Region.LUNGS, "1", refusal=KERNEL)
    return replace(detected(found=()), measurements=(count,), status="refused")


def of_a_site(**changes: Any) -> ServiceResult:
    """Every kind of result under names that only a site knows, over two series."""
    return result(
        service="acme-liver",
        model=ACME,
        measurements=(
            Measurement(
                "liver-fat",
                Region.LIVER,
                "%",
                value=12.5,
                uncertainty=Uncertainty("interval", 2.5, 0.95),
                code=StandardCode("https://example.org/codes", "LF", "Liver fat fraction"),
            ),
            Measurement(
                "mean-fat", Region.LIVER, "mm", value=3.5, uncertainty=Uncertainty("sd", 0.25)
            ),
            Measurement("spleen-index", Region.SPLEEN, "1", refusal=KERNEL),
            Measurement("cyst-count", Region.LIVER, "1", value=1.0),
        ),
        classifications=(
            Classification(
                "grade",
                Region.LIVER,
                ("none", "mild-or-more"),
                (0.25, 0.75),
                "mild-or-more",
                category_codes=(None, STEATOSIS),
            ),
            Classification("iron", Region.LIVER, ("present", "absent"), (0.25, 0.75), "absent"),
            Classification("atrophy", Region.LEFT_KIDNEY, ("yes", "no"), refusal=KERNEL),
        ),
        detections=(
            Detection("cyst", Region.LIVER, "simple", 0.75, (1.0, -2.0, 3.5), (10.0, 11.0, 12.0)),
        ),
        risks=(),
        issues=(),
        further=(SeriesSource(SEG_SERIES, ("1.2.3.9",)),),
        notes=(("liver-fat", "The scan was not calibrated."), ("other", "Said of the whole.")),
        frame_of_reference_uid=FRAME,
        seg_instance_uid="2.25.17",
        seg_series_instance_uid="2.25.18",
        review=True,
        **changes,
    )


def headers(of: ServiceResult) -> list[Dataset]:
    """The source instances of a result as the archive describes them."""
    main = SeriesSource(of.series_instance_uid, of.sop_instance_uids)
    found = []
    for number, source in enumerate((main, *of.further), start=1):
        for uid in source.sop_instance_uids:
            header = Dataset()
            header.SOPClassUID = CTImageStorage if number == 1 else SegmentationStorage
            header.SOPInstanceUID, header.SeriesInstanceUID = uid, source.series_instance_uid
            header.StudyInstanceUID = of.study_instance_uid
            header.Modality = "CT" if number == 1 else "SEG"
            header.PatientID, header.PatientName = "MRN-1", "Doe^Jane"
            header.PatientBirthDate, header.PatientSex = "19600101", "F"
            header.StudyDate, header.StudyTime = "20260105", "101500"
            header.StudyID, header.AccessionNumber, header.ReferringPhysicianName = "1", "", ""
            header.SeriesNumber, header.Rows, header.Columns = number, 4, 4
            found.append(header)
    return found
