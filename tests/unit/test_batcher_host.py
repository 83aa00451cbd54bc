"""The host: batches over studies, who gets which error, several devices, the end."""

from __future__ import annotations

import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_networks as tiny
from batching import FOLDER, VECTOR, Callers, Session, hosting, items, manifest_of, until

from fhir_ext.errors import SettingsError, UpstreamError
from fhir_ext.settings import Settings
from models.runtime.base import Array, ModelFailure
from models.runtime.device import CPU, Device
from models.runtime.host import Host, HostOptions
from models.runtime.lane import BatchRan

GPUS = (Device("cuda", 0), Device("cuda", 1))
#: Outputs of size about 1 in float32, in another order of the sums at most.
CLOSE = 1e-5


def refusing(bad: float, code: str = "model-failed") -> Session:
    """Fails when a batch holds a number."""

    def answer(image: Array) -> Array:
        if (image == bad).any():
            raise ModelFailure(code)
        return image * 2

    return Session(answer)


def blocked(host: Host, callers: Callers, session: Session, manifest: Any) -> None:
    """Occupy the device until `session.gate` is set."""
    session.gate.clear()
    callers.start("first", lambda: host.run(manifest, FOLDER, items(0), study="first"))
    until(lambda: bool(session.batches))


def test_studies_share_batches_and_get_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    session, callers, ran = Session(), Callers(), list[BatchRan]()
    manifest = manifest_of(max_size=8)
    with hosting(monkeypatch, lambda *_: session, ran=ran) as host:
        blocked(host, callers, session, manifest)
        for number in range(4):
            values = [10 * number + k for k in range(3)]
            callers.start(
                str(number),
                lambda v=values, n=number: host.run(manifest, FOLDER, items(*v), study=str(n)),
            )
        until(lambda: len(host._batchers) == 1 and waiting(host) == 12)
        session.gate.set()
        callers.join()
        for number in range(4):
            expected = [20 * number + 2 * k for k in range(3)]
            assert callers.got[str(number)]["pred"][:, 0].tolist() == expected
        assert session.sizes == [1, 8, 4]
        assert session.threads == {"device cpu"}
        assert [(item.items, item.studies, item.failed) for item in ran] == [
            (1, 1, False),
            (8, 4, False),
            (4, 4, False),
        ]
        (counts,) = host.statistics().values()
        assert (counts.batches, counts.items) == (3, 13)
        assert host.busy_seconds() == pytest.approx(sum(item.busy_seconds for item in ran))
        assert counts.waited_seconds == pytest.approx(sum(item.waited_seconds for item in ran))
    assert session.closed
    assert (ran[0].service, ran[0].version, ran[0].device) == ("tiny", "1.0.0", "cpu")


def waiting(host: Host) -> int:
    return sum(batcher.waiting for batcher in host._batchers.values())


@pytest.mark.parametrize("code", ["model-failed", "model-not-finite", "model-input"])
def test_an_error_reaches_only_the_study_that_causes_it(
    monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    session, callers = refusing(7, code), Callers()
    manifest = manifest_of(max_size=8)
    with hosting(monkeypatch, lambda *_: session) as host:
        blocked(host, callers, session, manifest)
        for study, values in {"a": (1, 2), "guilty": (6, 7), "c": (3, 4)}.items():
            callers.start(
                study, lambda s=study, v=values: host.run(manifest, FOLDER, items(*v), study=s)
            )
        until(lambda: waiting(host) == 6)
        session.gate.set()
        callers.join()
        assert callers.got["a"]["pred"][:, 0].tolist() == [2, 4]
        assert callers.got["c"]["pred"][:, 0].tolist() == [6, 8]
        assert callers.got["guilty"].code == code
        assert session.sizes == [1, 6, 2, 2, 2]
        assert host.run(manifest, FOLDER, items(5), study="next")["pred"][0, 0] == 10


@pytest.mark.parametrize(
    "error", [ModelFailure("device-memory"), UpstreamError("down"), KeyError("bug"), MemoryError()]
)
def test_an_error_of_the_network_itself_reaches_all_and_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def answer(image: Array) -> Array:
        if len(image) > 1:
            raise error
        return image

    session, callers, manifest = Session(answer), Callers(), manifest_of()
    with hosting(monkeypatch, lambda *_: session) as host:
        blocked(host, callers, session, manifest)
        for study in "ab":
            callers.start(study, lambda s=study: host.run(manifest, FOLDER, items(1, 2), study=s))
        until(lambda: waiting(host) == 4)
        session.gate.set()
        callers.join()
        assert callers.got["a"] is callers.got["b"] is error
        assert session.sizes == [1, 4]
        assert host.run(manifest, FOLDER, items(5))["pred"][0, 0] == 5


class Surprise(BaseException):
    """What nobody expects in a thread."""


def test_a_thread_that_dies_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: died.append(args.exc_type))

    def answer(image: Array) -> Array:
        if (image == 7).any():
            raise Surprise
        return image

    with hosting(monkeypatch, lambda *_: Session(answer)) as host:
        for value in (7, 5, 7, 5):
            callers = Callers()
            callers.start("one", partial(host.run, manifest_of(), FOLDER, items(value)))
            callers.join(5)
            found = callers.got["one"]
            if value == 7:
                assert found.code == "model-failed"
            else:
                assert found["pred"][0, 0] == 5
    # Who called is answered before the thread has ended; the next test must not hear of it.
    until(lambda: len(died) == 2)
    assert died == [Surprise, Surprise]


def test_further_items_are_prepared_while_the_device_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session, manifest = Session(seconds=0.05), manifest_of(max_size=2)
    with hosting(monkeypatch, lambda *_: session) as host:
        begin = time.monotonic()
        answers = [host.submit(manifest, FOLDER, items(n, n), study="a") for n in range(6)]
        assert time.monotonic() - begin < 0.2
        found = [answer.result()["pred"][0, 0] for answer in answers]
    assert found == [0, 2, 4, 6, 8, 10]
    assert session.sizes == [2] * 6


def test_urgent_ones_overtake_but_change_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    session, callers = Session(), Callers()
    manifest = manifest_of(max_size=2)
    with hosting(monkeypatch, lambda *_: session) as host:
        blocked(host, callers, session, manifest)
        callers.start("calm", lambda: host.run(manifest, FOLDER, items(*range(12)), study="calm"))
        until(lambda: waiting(host) == 12)
        callers.start(
            "urgent",
            lambda: host.run(manifest, FOLDER, items(50, 51), study="urgent", urgent=True),
        )
        until(lambda: waiting(host) == 14)
        session.gate.set()
        callers.join()
        assert session.batches[1][:, 0].tolist() == [50, 51]
        assert callers.got["calm"]["pred"][:, 0].tolist() == [2 * k for k in range(12)]
        assert callers.got["urgent"]["pred"][:, 0].tolist() == [100, 102]


def test_an_idle_device_waits_for_the_other_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two studies whose turns come close together end up in one batch."""
    session, callers = Session(seconds=0.3), Callers()
    manifest = manifest_of(max_size=8, max_wait_ms=10_000.0)
    with hosting(monkeypatch, lambda *_: session) as host:
        for study in "ab":
            host.run(manifest, FOLDER, items(1), study=study)
        session.batches.clear()
        begin = time.monotonic()
        callers.start("a", lambda: host.run(manifest, FOLDER, items(1), study="a"))
        time.sleep(0.01)
        callers.start("b", lambda: host.run(manifest, FOLDER, items(2), study="b"))
        callers.join()
        assert session.sizes == [2]
        # A tenth of what a batch takes is the most that it waits, whatever the manifest says.
        session.batches.clear()
        host.run(manifest, FOLDER, items(1), study="a")
        assert time.monotonic() - begin < 3
        assert session.sizes == [1]


def test_several_devices_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: dict[Device, Session] = {}
    both = threading.Barrier(2, timeout=10)

    def open_one(_: Any, device: Device) -> Session:
        def answer(image: Array) -> Array:
            if len(image) == 4:
                both.wait()
            return image * 2

        sessions[device] = Session(answer)
        return sessions[device]

    with hosting(monkeypatch, open_one, GPUS) as host:
        # Ends only if both devices work at the same time.
        found = host.run(manifest_of(max_size=4), FOLDER, items(*range(8)), study="a")
        assert found["pred"][:, 0].tolist() == [2 * k for k in range(8)]
        assert {device: session.sizes for device, session in sessions.items()} == {
            GPUS[0]: [4],
            GPUS[1]: [4],
        }
        # What fits into one batch stays together, where there is least to do.
        host.run(manifest_of(max_size=4), FOLDER, items(1, 2, 3))
        assert sessions[GPUS[0]].sizes == [4, 3]
        assert {key[2] for key in host.statistics()} == {"cuda:0", "cuda:1"}


def test_a_network_that_hangs_in_this_process_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck, good = Session(), Session()
    callers = Callers()
    hangs = manifest_of(name="hangs", deadline_s=0.3)
    lives = manifest_of(name="lives")

    def open_one(runtime: Any, device: Device) -> Session:
        return stuck if runtime.deadline_s == 0.3 else good

    with hosting(monkeypatch, open_one) as host:
        stuck.gate.clear()
        for study in "ab":
            callers.start(study, lambda s=study: host.run(hangs, FOLDER, items(1), study=s))
        until(lambda: bool(stuck.batches))
        callers.start("other", lambda: host.run(lives, FOLDER, items(4), study="other"))
        callers.join(5)
        assert callers.got["a"].code == callers.got["b"].code == "model-hung"
        assert callers.got["other"]["pred"][0, 0] == 8
        # Each further try would leave one more thread behind.
        with pytest.raises(ModelFailure) as caught:
            host.run(hangs, FOLDER, items(1))
        assert (caught.value.code, len(stuck.batches)) == ("model-hung", 1)
        stuck.gate.set()
        time.sleep(0.05)
        assert host.run(lives, FOLDER, items(5))["pred"][0, 0] == 10
        assert host.statistics()["hangs", "1.0.0", "cpu"].batches == 0


def test_a_host_that_ends_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    session, callers, manifest = Session(), Callers(), manifest_of(max_size=1)
    with hosting(monkeypatch, lambda *_: session) as host:
        blocked(host, callers, session, manifest)
        callers.start("late", lambda: host.run(manifest, FOLDER, items(1, 2), study="late"))
        until(lambda: waiting(host) == 2)
        callers.start("end", host.close)
        until(lambda: "late" in callers.got)
        session.gate.set()
        callers.join()
        assert callers.got["late"].code == "model-failed"
        assert callers.got["first"]["pred"][0, 0] == 0
        with pytest.raises(ModelFailure):
            host.run(manifest, FOLDER, items(1))


def test_what_is_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    with hosting(monkeypatch, lambda *_: Session()) as host:
        with pytest.raises(SettingsError):
            host.run(manifest_of({"kind": "operators"}), FOLDER, items(1))
        for batch in ({}, {"image": np.zeros((0, 2), np.float32)}):
            with pytest.raises(ModelFailure) as caught:
                host.run(manifest_of(), FOLDER, batch)
            assert caught.value.code == "model-input"


@pytest.mark.parametrize(("length", "sizes"), [("*", [1, 2, 2]), ("k", [1, 4]), (2, [1, 4])])
def test_outputs_of_unknown_size_are_not_mixed(
    monkeypatch: pytest.MonkeyPatch, length: str | int, sizes: list[int]
) -> None:
    session, callers = Session(), Callers()
    manifest = manifest_of({**VECTOR, "outputs": [{"name": "pred", "shape": ["n", length]}]})
    with hosting(monkeypatch, lambda *_: session) as host:
        blocked(host, callers, session, manifest)
        for study in "ab":
            callers.start(study, lambda s=study: host.run(manifest, FOLDER, items(1, 2), study=s))
        until(lambda: waiting(host) == 4)
        session.gate.set()
        callers.join()
    assert session.sizes == sizes


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_numbers_are_the_same_whatever_the_batch(tmp_path: Path, engine: str) -> None:
    """A real network: other sizes, other studies beside, other order; the same numbers."""
    runtime = tiny.write_pt2(tmp_path, engine=engine)
    given = {study: tiny.images(9, seed) for seed, study in enumerate("abcd")}
    for max_size in (1, 2, 7, 64):
        callers = Callers()
        host, manifest = Host(HostOptions(device="cpu")), manifest_of(runtime, max_size=max_size)
        for study, image in given.items():
            batch, urgent = {"image": image}, study == "c"
            ask = partial(host.run, manifest, tmp_path, batch, study=study, urgent=urgent)
            callers.start(study, ask)
        callers.join()
        host.close()
        for study, image in given.items():
            assert np.abs(callers.got[study]["pred"] - tiny.eager(image)).max() < CLOSE


def test_items_of_other_shapes_have_batches_of_their_own(tmp_path: Path) -> None:
    runtime = tiny.write_torchscript(tmp_path)
    host, callers = Host(HostOptions(device="cpu")), Callers()
    shapes = {"a": (4, 4, 4), "b": (4, 6, 8), "c": (4, 4, 4)}
    for seed, (study, shape) in enumerate(shapes.items()):
        image = tiny.images(5, seed, shape)
        callers.start(
            study,
            lambda x=image, s=study: host.run(
                manifest_of(runtime), tmp_path, {"image": x}, study=s
            ),
        )
    callers.join()
    host.close()
    for seed, (study, shape) in enumerate(shapes.items()):
        right = tiny.eager(tiny.images(5, seed, shape))
        assert np.abs(callers.got[study]["pred"] - right).max() < CLOSE


def test_the_settings_of_an_installation() -> None:
    settings = Settings.model_validate(
        {
            "intake": {"hook_secret": "s" * 40, "hook_url": "http://127.0.0.1:9/hooks"},
            "models": {
                "device": "cpu",
                "memory_bytes": 123,
                "weights_bytes": 45,
                "remote_auth": {"kind": "bearer", "token": "secret"},
            },
            "outgoing": {"hosts": ["models.example"]},
        }
    )
    options = Host.from_settings(settings)._options
    assert (options.device, options.memory_bytes) == ("cpu", 123)
    assert options.options.max_weights_bytes == 45
    assert options.options.auth.kind == "bearer"
    assert options.options.guard is not None
    options.options.guard.check("https://models.example/v2")
    assert Host.from_settings(settings)._places()[0] == (CPU,)
