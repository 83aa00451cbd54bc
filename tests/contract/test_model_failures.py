"""A version that fails beside one that does not, on pixels that really came over DICOMweb."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from hostile import encoded, hostile_archive, multipart
from pydantic import TypeAdapter

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.errors import UpstreamTimeout
from fhir_ext.phantom import PhantomSpec, build, write_series
from fhir_ext.settings import ArchiveSettings, LimitSettings
from models.manifest import ManifestError
from models.registry import MANIFEST, NotInstalledError, Registry
from models.runtime.base import ModelFailure
from models.service import ModelInput, Service, ServiceOutput
from operations.analyze.infer import Analyzer, SeriesOutcome
from operations.analyze.plan import SeriesJob, VersionRef
from operations.analyze.prepare import Prepared
from subscriptions.workflow import outcome_rows, told, writing_failures

SHIPPED = Registry()
VERSION = SHIPPED.manifest("lung-density").version


@pytest.fixture(scope="module")
def series() -> list[pydicom.Dataset]:
    return write_series(
        build(PhantomSpec(shape=(50, 170, 232), spacing_mm=(5.0, 1.5, 1.5))), "soft"
    )


class _Broken:
    def run(self, given: ModelInput) -> ServiceOutput:
        raise ModelFailure("model-hung", "after 5 s")


class _Stalled:
    def run(self, given: ModelInput) -> ServiceOutput:
        raise UpstreamTimeout("the model server did not answer in time")


class _Versions(Registry):
    """The shipped service, and a version 9.9.9 of it that hangs or whose server does."""

    broken: Service = _Broken()

    def load(self, service: str, version: str | None = None) -> Service:
        return self.broken if version == "9.9.9" else super().load(service, version)


def registry(folder: Path) -> _Versions:
    shipped = SHIPPED.find("lung-density").folder / MANIFEST
    target = folder / "lung-density" / "9.9.9" / MANIFEST
    target.parent.mkdir(parents=True)
    text = shipped.read_text("utf-8")
    target.write_text(text.replace(f"version: {VERSION}", "version: 9.9.9", 1), "utf-8")
    return _Versions(site=folder)


def analyzed(
    series: list[pydicom.Dataset], installed: Registry, *versions: VersionRef
) -> SeriesOutcome:
    study, uid = str(series[0].StudyInstanceUID), str(series[0].SeriesInstanceUID)
    listed = [str(item.SOPInstanceUID) for item in series]
    body = multipart([encoded(instance) for instance in series])
    with hostile_archive(study, uid, listed, body) as root:
        settings = ArchiveSettings(qido_url=root, wado_url=root, stow_url=root)
        analyzer = Analyzer(DicomWebClient(settings, LimitSettings()), installed, LimitSettings())
        return analyzer.analyze(study, SeriesJob(uid, len(listed), versions))


@pytest.mark.parametrize("role", ["active", "shadow"])
def test_the_others_results_stand(series: list[pydicom.Dataset], tmp_path: Path, role: str) -> None:
    good = VersionRef("lung-density", VERSION)
    bad = VersionRef("lung-density", "9.9.9", role)  # type: ignore[arg-type]
    outcome = analyzed(series, registry(tmp_path), bad, good)
    (result,) = outcome.results
    assert result.status == "done"
    assert result.model.version == VERSION
    (failure,) = outcome.failures
    assert (failure.version, failure.role, failure.code) == ("9.9.9", role, "model-hung")

    raw = TypeAdapter(SeriesOutcome).dump_python(outcome, mode="json")
    raw["issued"] = "2026-11-24T12:00:00+00:00"
    # A study waits for a human only when something is missing from the record.
    failures = writing_failures([raw, raw])
    assert (failures == []) == (role == "shadow")
    if failures:
        # Two series, one thing to mend; a code alone would not say which model it is.
        assert (
            told(failures)
            == "lung-density 9.9.9: the network did not answer in time and was stopped: after 5 s"
        )

    prepared = Prepared("work", "study", study_instance_uid=result.study_instance_uid)
    rows = outcome_rows("run", prepared, [raw])
    assert [row.status for row in rows] == (["done"] if role == "shadow" else ["done", "failed"])


@pytest.mark.parametrize("role", ["active", "shadow"])
def test_nobody_waits_for_the_server_of_another_model(
    series: list[pydicom.Dataset], tmp_path: Path, role: str
) -> None:
    installed = registry(tmp_path)
    installed.broken = _Stalled()
    bad = VersionRef("lung-density", "9.9.9", role)  # type: ignore[arg-type]
    outcome = analyzed(series, installed, bad, VersionRef("lung-density", VERSION))
    assert [result.status for result in outcome.results] == ["done"]
    assert [(item.code, item.again) for item in outcome.failures] == [("upstream-timeout", True)]


def test_a_version_that_is_gone_takes_no_other_result_away(
    series: list[pydicom.Dataset], tmp_path: Path
) -> None:
    installed = Registry(site=tmp_path)
    good, gone = VersionRef("lung-density", VERSION), VersionRef("lung-density", "3.0.0", "shadow")
    with pytest.raises(NotInstalledError):
        installed.manifest("lung-density", "3.0.0")
    outcome = analyzed(series, installed, gone, good)
    assert [item.code for item in outcome.failures] == ["model-not-installed"]
    assert outcome.results[0].status == "done"


def test_a_version_that_was_spoiled_on_the_disk_is_a_failure(
    series: list[pydicom.Dataset], tmp_path: Path
) -> None:
    path = tmp_path / "lung-density" / "3.0.0" / MANIFEST
    path.parent.mkdir(parents=True)
    path.write_text("id: [", "utf-8")
    installed = Registry(site=tmp_path)
    with pytest.raises(ManifestError):
        installed.manifest("lung-density", "3.0.0")
    outcome = analyzed(series, installed, VersionRef("lung-density", "3.0.0", "shadow"))
    assert [item.code for item in outcome.failures] == ["manifest-invalid"]
