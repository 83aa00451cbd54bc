"""Device of a model version: what it says, in which state, and that a recall stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from result_samples import MODEL, context, result
from review_samples import MemoryFhir

from fhir_ext.errors import NotFoundError
from fhir_ext.resources import codes
from fhir_ext.resources.device import (
    VersionFacts,
    in_state,
    is_recalled,
    model_device,
    published_device,
)
from fhir_ext.resources.ids import device_id, imaging_study_id, model_card_id
from fhir_ext.resources.result_reading import model_of
from models.lifecycle import State, VersionState
from models.registry import Registry
from operations.analyze.prepare import Prepared
from operations.analyze.write_fhir import ResultWriter
from operations.model_registry.publish import publish_version, publish_versions

Json = dict[str, Any]

FACTS = VersionFacts("Measuring.", "Diagnosis.", {"licence": "MIT", "citation": ""})
REGISTRY = Registry()


class Server(MemoryFhir):
    """Tells a resource that never was from one that was deleted."""

    def read(self, resource_type: str, resource_id: str) -> Json:
        if resource_id == "_history":
            raise NotFoundError("no such resource")
        return super().read(resource_type, resource_id)


def device_in(fhir: MemoryFhir, service: str = "lung-density") -> Json:
    return fhir.read("Device", device_id(REGISTRY.manifest(service).identity()))


def test_the_published_device_names_card_use_and_licence() -> None:
    device = published_device(MODEL, FACTS, "active")
    kind, card = device["extension"]
    assert kind["valueCodeableConcept"]["coding"][0]["code"] == "AI-for-Medical-Imaging-Data"
    assert card["valueReference"]["reference"] == f"DocumentReference/{model_card_id(MODEL)}"
    assert device["type"]["coding"][0]["code"] == "Artificial-Intelligence"
    assert [label["code"] for label in device["meta"]["security"]] == ["AIAST"]
    texts = [note["text"] for note in device["note"]]
    assert texts[:2] == ["Intended use: Measuring.", "Not for: Diagnosis."]
    (licence,) = device["property"]
    assert licence["type"]["coding"][0]["code"] == "licence"
    assert licence["valueCode"] == [{"text": "MIT"}]
    assert model_of(device) == replace(MODEL, review="always")


def test_a_network_of_the_site_has_no_manufacturer_of_ours() -> None:
    assert published_device(MODEL, FACTS, "draft")["manufacturer"] == codes.MANUFACTURER
    assert "manufacturer" not in published_device(MODEL, replace(FACTS, shipped=False), "draft")


@pytest.mark.parametrize("state", list(State))
def test_only_versions_that_write_are_active(state: State) -> None:
    device = in_state(model_device(MODEL), state.value, "why")
    assert (device["status"] == "active") == (state in (State.CANARY, State.ACTIVE))
    assert device["statusReason"][0]["text"] == "why"
    assert is_recalled(device) == (state is State.RECALLED)


def test_a_state_without_a_code_is_an_error() -> None:
    with pytest.raises(KeyError):
        in_state(model_device(MODEL), "resting")


def test_publishing_follows_the_state_and_stops_when_nothing_changes() -> None:
    fhir, installed = Server(), REGISTRY.find("lung-density")
    assert publish_version(fhir, installed.manifest, State.SHADOW)
    assert device_in(fhir)["status"] == "inactive"
    assert publish_version(fhir, installed.manifest, State.ACTIVE)
    assert not publish_version(fhir, installed.manifest, State.ACTIVE)
    assert device_in(fhir)["status"] == "active"
    assert [len(versions) for versions in fhir.store.values()] == [2, 1]


def test_nobody_brings_a_recalled_version_back() -> None:
    fhir, installed = Server(), REGISTRY.find("lung-density")
    recalled = in_state(model_device(installed.manifest.identity()), "recalled", "wrong")
    fhir.put(recalled)
    for state in (State.ACTIVE, State.RETIRED):
        publish_version(fhir, installed.manifest, state)
        found = device_in(fhir)
        assert (found["status"], found["statusReason"]) == ("inactive", recalled["statusReason"])
    assert device_in(fhir)["property"]


def test_a_version_recalled_while_it_is_published_stays_recalled() -> None:
    fhir, installed = Server(), REGISTRY.find("lung-density")
    fhir.put(model_device(installed.manifest.identity()))
    fhir.before_transaction.append(lambda: fhir.put(in_state(device_in(fhir), "recalled", "wrong")))
    publish_version(fhir, installed.manifest, State.ACTIVE)
    assert is_recalled(device_in(fhir))


def test_all_versions_are_published_but_those_whose_files_are_gone() -> None:
    fhir = Server()
    states = [
        VersionState("lung-density", "1.0.0", State.ACTIVE),
        VersionState("lung-density", "0.0.9", State.RETIRED),
        VersionState("breast-density", "1.0.0", State.SHADOW),
    ]
    assert publish_versions(fhir, REGISTRY, states) == 2
    assert publish_versions(fhir, REGISTRY, states) == 0
    assert {url.partition("/")[0] for url in fhir.store} == {"Device", "DocumentReference"}


def test_results_create_a_device_but_never_write_over_one() -> None:
    of = result()
    prepared = Prepared(
        "work",
        imaging_study_id(of.study_instance_uid),
        version="1",
        patient_reference="Patient/p",
    )
    fhir = Server()
    writer = ResultWriter(fhir)
    writer.write(prepared, [of], context(of).issued)
    assert fhir.read("Device", device_id(MODEL))["status"] == "active"

    fhir.put(in_state(fhir.read("Device", device_id(MODEL)), "recalled", "wrong"))
    other = result(series="1.2.3.4.5")
    writer.write(prepared, [other], context(other).issued)
    assert is_recalled(fhir.read("Device", device_id(MODEL)))
    assert len(fhir.search("Provenance", {})) == 2
    assert writer.writable([other]) == ()
    assert writer.writable([result(model=replace(MODEL, version="2.0.0"))])


def test_a_device_that_another_writes_first_makes_the_results_try_again() -> None:
    of = result()
    fhir = Server()
    fhir.before_transaction.append(lambda: fhir.put(in_state(model_device(MODEL), "canary")))
    study = imaging_study_id(of.study_instance_uid)
    prepared = Prepared("work", study, version="1", patient_reference="Patient/p")
    ResultWriter(fhir).write(prepared, [of], context(of).issued)
    device = fhir.read("Device", device_id(MODEL))
    assert device["statusReason"][0]["coding"][0]["code"] == "canary"
    assert len(fhir.search("Provenance", {})) == 1
