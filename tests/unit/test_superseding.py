"""Newer work replaces what the same service said of the same images; nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from finding_samples import detected, of_a_site
from result_samples import ISSUED, STUDY_UID, result
from review_samples import MemoryFhir, stored

from fhir_ext.resources.ids import imaging_study_id
from fhir_ext.results import ServiceResult
from operations.analyze.prepare import Prepared
from operations.analyze.write_fhir import ResultWriter

OTHER_SERIES = "1.2.826.0.1.3680043.8.498.1.77"


def prepared() -> Prepared:
    return Prepared(
        "work",
        imaging_study_id(STUDY_UID),
        version="3",
        study_instance_uid=STUDY_UID,
        patient_reference="Patient/example",
        has_earlier=True,
    )


def statuses_after(earlier: ServiceResult, newer: ServiceResult) -> set[str]:
    """Statuses of the earlier Observations once the newer result is written."""
    fhir = stored(earlier)
    ResultWriter(fhir).write(prepared(), [newer], ISSUED)
    return {
        str(versions[-1]["status"])
        for url, versions in fhir.store.items()
        if url.startswith("Observation/") and _key(versions[-1]) == earlier.inference_key
    }


def _key(resource: dict[str, Any]) -> str:
    return str(resource["identifier"][0]["value"])


def grown(of: Any, **changes: Any) -> ServiceResult:
    """The same service on the same series, with one more instance."""
    made: ServiceResult = of(instances=("1.2.3.1", "1.2.3.2", "1.2.3.3"))
    return replace(made, **changes)


@pytest.mark.parametrize("of", [result, detected, of_a_site])
def test_a_grown_series_replaces(of: Any) -> None:
    assert statuses_after(of(), grown(of)) == {"cancelled"}


@pytest.mark.parametrize("of", [result, of_a_site])
def test_another_series_does_not(of: Any) -> None:
    assert statuses_after(of(), grown(of, series_instance_uid=OTHER_SERIES)) == {"preliminary"}


@pytest.mark.parametrize("of", [result, of_a_site])
def test_what_speaks_of_the_study_replaces_whatever_series_it_began_with(of: Any) -> None:
    newer = grown(of, series_instance_uid=OTHER_SERIES, whole_study=True)
    assert statuses_after(of(), newer) == {"cancelled"}


def test_another_service_does_not() -> None:
    assert statuses_after(result(), detected(instances=("1.2.3.9",))) == {"preliminary"}
    other = replace(grown(of_a_site), service="acme-spleen")
    assert statuses_after(of_a_site(), other) == {"preliminary"}


def test_the_store_holds_what_the_test_looks_at() -> None:
    fhir: MemoryFhir = stored(result())
    assert sum(url.startswith("Observation/") for url in fhir.store) == 13
