"""Samples: what is kept of each result, and that nothing in it leads to a patient."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from drift_samples import DAY, FIRST, SERVICE, VERSION, samples
from result_samples import KERNEL, MODEL, SERIES_UID, STUDY_UID, result
from sqlalchemy.exc import OperationalError
from synthetic_mg import mammogram, read

from fhir_ext.dicom.volume import Acquisition, CTVolume, Geometry
from fhir_ext.results import Classification, Detection, Region, ServiceResult
from fhir_ext.store.engine import create_store_engine, migrate
from fhir_ext.store.sample_tables import ModelAlert, ModelSample
from fhir_ext.store.samples import SampledVersion, SampleStore
from fhir_ext.telemetry import Metrics
from models.registry import Registry
from models.service import ModelInput
from operations.analyze.facts import facts
from operations.analyze.infer import SeriesOutcome, VersionFailure
from operations.analyze.plan import SeriesJob, VersionRef
from subscriptions.samples import record_work, sample_of, samples_of

REGISTRY = Registry()
OF = SampledVersion(SERVICE, VERSION, MODEL.settings_hash)
SHADOW = replace(MODEL, version="1.1.0")
JOB = SeriesJob(
    SERIES_UID,
    2,
    (VersionRef(SERVICE, VERSION, "canary"), VersionRef(SERVICE, "1.1.0", "shadow")),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SampleStore]:
    engine = create_store_engine(f"sqlite:///{tmp_path}/t.sqlite")
    migrate(engine)
    yield SampleStore(engine)
    engine.dispose()


def outcome() -> SeriesOutcome:
    written = result(withheld={"laa-950": KERNEL})
    shadow = result(model=SHADOW)
    return SeriesOutcome(
        SERIES_UID,
        (written,),
        shadows=(shadow,),
        latency={written.inference_key: 1.5, shadow.inference_key: 2.5},
        facts={"scanner": "SOMATOM go.Top", "sex": "F"},
    )


def test_every_result_is_a_sample_with_role_rules_mix_and_latency() -> None:
    written, shadow = samples_of(JOB, outcome(), REGISTRY, FIRST)
    assert (written.role, shadow.role) == ("canary", "shadow")
    assert (written.version, shadow.version) == (VERSION, "1.1.0")
    assert (written.latency_seconds, shadow.latency_seconds) == (1.5, 2.5)
    assert written.rules == ["kernel"]
    assert written.mix == {"scanner": "SOMATOM go.Top", "sex": "F"}
    assert "laa-950/lungs" not in written.numbers
    assert shadow.numbers["laa-950/lungs"] == 7.25
    assert written.pair == shadow.pair, "both saw the same images"
    assert written.inference_key != shadow.inference_key


def test_only_a_shadow_keeps_its_result_and_neither_holds_a_uid() -> None:
    written, shadow = samples_of(JOB, outcome(), REGISTRY, FIRST)
    assert written.result is None
    assert shadow.result is not None
    assert shadow.result["measurements"][0]["value"] == 5123.4
    assert shadow.result["status"] == "done"
    for sample in (written, shadow):
        text = json.dumps(sample.model_dump(mode="json"))
        assert all(uid not in text for uid in (STUDY_UID, SERIES_UID, "1.2.3.1", "1.2.3.2"))


def test_categories_and_detections_are_sampled() -> None:
    found = Detection("lung-nodule", Region.LUNGS, "nodule", 0.8, (0, 0, 0), (5, 5, 5))
    said = Classification("breast-density", Region.BREASTS, ("a", "b"), (0.9, 0.1), "a")

    def of(**changes: object) -> ModelSample:
        made: ServiceResult = replace(result(), measurements=(), **changes)
        return sample_of(made, "active", FIRST, pair="p", searched=("lung-nodule",))

    assert of(classifications=(said,)).categories == {"breast-density/breasts": "a"}
    two = of(detections=(found, replace(found, score=0.4)))
    assert two.numbers == {"lung-nodule/count": 2, "lung-nodule/top-score": 0.8}
    assert of().numbers == {"lung-nodule/count": 0}, "none found is a number too"
    assert of(status="refused").numbers == {}


def test_the_same_work_is_one_row(store: SampleStore) -> None:
    first = samples_of(JOB, outcome(), REGISTRY, FIRST)
    store.record(first)
    store.record(samples_of(JOB, outcome(), REGISTRY, FIRST))
    assert len(store.between(OF, FIRST, FIRST + DAY)) == 1
    assert store.versions(FIRST) == [OF]
    assert [v.version for v in store.versions(FIRST, ("shadow",))] == ["1.1.0"]
    assert store.versions(FIRST + DAY) == []


def test_images_that_are_seen_again_count_once(store: SampleStore) -> None:
    (first,) = samples(1, pair="p")
    (again,) = samples(1, FIRST + timedelta(hours=1), seed=1, pair="p", role="shadow")
    store.record([first, again])
    (found,) = store.between(OF, FIRST, FIRST + DAY)
    assert found.inference_key == again.inference_key
    assert len(store.in_roles(OF, ("active",), FIRST)) == 1
    assert store.first(OF) == FIRST


def test_old_samples_and_alerts_are_forgotten(store: SampleStore) -> None:
    store.record(samples(10, days=10))
    values = {"service": "s", "version": "1", "settings_hash": "h", "title": "t", "kind": "k"}
    spans = dict.fromkeys(("reference_from", "reference_to", "window_from", "window_to"), FIRST)
    for number in range(2):
        at = FIRST + number * 5 * DAY
        alert = ModelAlert(id=str(number), severity="high", at=at, **values, **spans)
        assert store.add_alert(alert)
        assert not store.add_alert(ModelAlert(**alert.model_dump()))
    assert store.delete_before(FIRST + 4 * DAY) == 4
    assert store.first(OF) == FIRST + 4 * DAY
    assert [alert.id for alert in store.alerts(FIRST)] == ["1"]


def test_a_database_that_is_away_fails_no_study_and_metrics_count_on(store: SampleStore) -> None:
    class Away(SampleStore):
        def record(self, samples: object) -> None:
            raise OperationalError("insert", {}, Exception("locked"))

    metrics = Metrics()
    failed = VersionFailure(SERVICE, "1.2.0", "shadow", "model-hung", "no answer")
    work = replace(outcome(), failures=(failed,))
    record_work(Away(store._engine), metrics, REGISTRY, [JOB], [(work, FIRST)])
    record_work(store, metrics, REGISTRY, [JOB], [(work, FIRST)])
    assert len(store.between(OF, FIRST, FIRST + DAY)) == 1

    def counted(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"service": SERVICE, **labels})

    of = {"version": VERSION, "role": "canary"}
    assert counted("fhir_ext_model_results_total", **of, outcome="done") == 2
    assert counted("fhir_ext_model_refusals_total", **of, rule="kernel") == 2
    assert counted("fhir_ext_model_seconds_sum", version=VERSION) == 3
    of = {"version": "1.2.0", "role": "shadow"}
    assert counted("fhir_ext_model_results_total", **of, outcome="failed") == 2
    inputs = {"version": VERSION, "fact": "sex", "value": "F"}
    assert counted("fhir_ext_model_inputs_total", **inputs) == 2
    assert counted("fhir_ext_model_inputs_total", version=VERSION, fact="scanner") is None


def test_a_version_that_was_taken_off_the_disk_is_still_sampled() -> None:
    gone = replace(outcome(), shadows=(result(model=replace(MODEL, version="9.9.9")),))
    assert [s.version for s in samples_of(JOB, gone, REGISTRY, FIRST)] == [VERSION, "9.9.9"]


def acquired(**values: object) -> dict[str, str]:
    geometry = Geometry((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), "")
    volume = CTVolume(
        np.zeros((1, 1, 1), np.int16), geometry, Acquisition("CT", **values), "1", "2", ("3",)
    )
    return facts(ModelInput(volume))


def test_facts_are_bands_and_clean_names() -> None:
    found = acquired(
        manufacturer="GE\x00 MEDICAL\n SYSTEMS ",
        scanner_model="R" * 100,
        convolution_kernel="Br40f\\3",
        slice_thickness_mm=1.2499,
        patient_age_years=69.99,
        patient_sex="F",
    )
    assert found == {
        "manufacturer": "GE MEDICAL SYSTEMS",
        "scanner": "R" * 64,
        "kernel": "Br40f\\3",
        "slice-thickness": "1.2",
        "age-band": "60-69",
        "sex": "F",
    }


@pytest.mark.parametrize(
    ("age", "band"), [(0.0, "0-9"), (9.9, "0-9"), (90, "90+"), (104, "90+"), (-1, "unknown")]
)
def test_the_oldest_are_one_band(age: float, band: str) -> None:
    assert acquired(patient_age_years=age)["age-band"] == band


def test_of_several_films_the_first_speaks() -> None:
    first = mammogram("L-CC", SOPInstanceUID="1.2.1", ManufacturerModelName="Selenia")
    second = mammogram("R-CC", SOPInstanceUID="1.2.2", ManufacturerModelName="Lorad")
    found = facts(ModelInput(mammograms=tuple(read(second, first))))
    assert (found["manufacturer"], found["scanner"]) == ("ACME", "Selenia")
    assert (found["sex"], found["kernel"]) == ("F", "unknown")


def test_images_that_cannot_be_read_are_unknown() -> None:
    assert set(facts(None).values()) == {"unknown"}
    assert facts(None).keys() == acquired().keys()
    assert acquired(patient_sex="female", slice_thickness_mm=-1.0) == facts(None)
