"""What stands around every network: checks, batches, devices, agreement, the cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny_networks as tiny
import torch

from fhir_ext.errors import SettingsError
from models.manifest.runtimes import Tensor, Tolerance
from models.runtime import child, frames
from models.runtime.agreement import agreement
from models.runtime.base import Arrays, ModelFailure, OutOfDeviceMemory
from models.runtime.batches import BatchedSession
from models.runtime.cache import SessionCache
from models.runtime.checked import CheckedSession
from models.runtime.device import CPU, Device, DevicePool, autocast, devices, torch_device
from models.runtime.isolated import IsolatedSession
from models.runtime.operators import operators_device

GPU = Device("cuda", 1)


class Doubles:
    """A session in Python: `pred` is twice `image`, or what `answer` makes of it."""

    def __init__(
        self, answer: Callable[[Any], Any] | None = None, room: int = 99, size: int = 10
    ) -> None:
        self.answer = answer or (lambda image: {"pred": image * 2})
        self.room, self.memory_bytes = room, size
        self.error: type[BaseException] = torch.cuda.OutOfMemoryError
        self.sizes: list[int] = []
        self.closed = False

    def run(self, batch: Arrays) -> dict[str, Any]:
        self.sizes.append(len(batch["image"]))
        if self.sizes[-1] > self.room:
            raise self.error("CUDA out of memory")
        return self.answer(batch["image"])

    def close(self) -> None:
        assert not self.closed
        self.closed = True


def floats(*shape: int) -> tiny.Floats:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def checked(answer: Callable[[Any], Any], finite: bool = True) -> CheckedSession:
    image = Tensor(name="image", shape=("n", 1, "w"))
    pred = Tensor(name="pred", shape=("n", 2, "w"), finite=finite)
    return CheckedSession(Doubles(answer), (image,), (pred,))


def nan(image: tiny.Floats) -> dict[str, tiny.Floats]:
    found = image.repeat(2, 1)
    found[-1, -1, -1] = np.nan
    return {"pred": found}


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "channels": (lambda x: {"pred": x}, "model-output"),
    "width": (lambda x: {"pred": x.repeat(2, 1)[..., :-1]}, "model-output"),
    "axes": (lambda x: {"pred": x.repeat(2, 1)[..., None]}, "model-output"),
    "items": (lambda x: {"pred": x.repeat(2, 1)[:-1]}, "model-output"),
    "none": (lambda x: {"pred": x.repeat(2, 1)[:0]}, "model-output"),
    "name": (lambda x: {"mask": x.repeat(2, 1)}, "model-output"),
    "more": (lambda x: {"pred": x.repeat(2, 1), "mask": x}, "model-output"),
    "nothing": (lambda x: {}, "model-output"),
    "dtype": (lambda x: {"pred": x.repeat(2, 1).astype(np.float64)}, "model-output"),
    "nan": (nan, "model-not-finite"),
    "infinity": (lambda x: {"pred": x.repeat(2, 1) / np.float32(0)}, "model-not-finite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_network_may_not_answer(case: str) -> None:
    answer, code = WRONG[case]
    with pytest.raises(ModelFailure) as caught, np.errstate(all="ignore"):
        checked(answer).run({"image": floats(3, 1, 4) + 1})
    assert caught.value.code == code


def test_what_a_network_may_answer() -> None:
    found = checked(lambda x: {"pred": x.repeat(2, 1)}).run({"image": floats(3, 1, 4)})
    assert found["pred"].shape == (3, 2, 4)
    loose = checked(nan, finite=False).run({"image": floats(3, 1, 4)})
    assert np.isnan(loose["pred"]).sum() == 1


@pytest.mark.parametrize(
    "batch",
    [
        {},
        {"other": floats(3, 1, 4)},
        {"image": floats(3, 2, 4)},
        {"image": floats(3, 4)},
        {"image": floats(3, 1, 4).astype(np.float64)},
        {"image": floats(0, 1, 4)},
        {"image": np.full((3, 1, 4), np.nan, np.float32)},
    ],
)
def test_what_a_network_is_not_shown(batch: Arrays) -> None:
    inner = Doubles()
    image = Tensor(name="image", shape=("n", 1, "w"))
    with pytest.raises(ModelFailure) as caught:
        CheckedSession(inner, (image,), (image,)).run(batch)
    assert (caught.value.code, inner.sizes) == ("model-input", [])


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, OutOfDeviceMemory])
def test_too_little_memory_halves_the_batch_and_goes_on(error: type[BaseException]) -> None:
    inner = Doubles(room=3)
    inner.error = error
    session = BatchedSession(inner, largest=16)
    image = floats(16, 1, 4)
    assert np.array_equal(session.run({"image": image})["pred"], image * 2)
    assert inner.sizes == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert session.largest == 2
    inner.sizes.clear()
    session.run({"image": image[:3]})
    assert inner.sizes == [2, 1]


def test_too_little_memory_in_another_process() -> None:
    """The process tells, the worker halves."""
    letter, told = child._answer(Doubles(room=0), frames.pack({"image": floats(2, 1)}))
    assert letter == frames.FAILED
    isolated = IsolatedSession.__new__(IsolatedSession)
    assert isinstance(isolated._failure(told), OutOfDeviceMemory)
    nonsense = isolated._failure(b'{"code": "no-such-code"}')
    assert isinstance(nonsense, ModelFailure)
    assert nonsense.code == "model-crashed"


def test_one_item_that_does_not_fit() -> None:
    with pytest.raises(ModelFailure) as caught:
        BatchedSession(Doubles(room=0), largest=8).run({"image": floats(8, 1)})
    assert caught.value.code == "device-memory"
    with pytest.raises(ModelFailure) as caught:
        BatchedSession(Doubles(room=3), largest=8, fixed=4).run({"image": floats(4, 1)})
    assert caught.value.code == "device-memory"


def test_batches_are_cut_and_filled() -> None:
    inner = Doubles()
    image = floats(7, 2)
    found = BatchedSession(inner, largest=99, fixed=3).run({"image": image})["pred"]
    assert np.array_equal(found, image * 2)
    assert inner.sizes == [3, 3, 3]
    inner.sizes.clear()
    BatchedSession(inner, largest=3).run({"image": image})
    assert inner.sizes == [3, 3, 1]


def test_batches_that_are_none() -> None:
    session = BatchedSession(Doubles(), largest=3)
    for batch in ({}, {"image": floats(0, 2)}, {"image": floats(2, 1), "other": floats(3, 1)}):
        with pytest.raises(ModelFailure) as caught:
            session.run(batch)
        assert caught.value.code == "model-input"


def test_agreement_of_two_sessions() -> None:
    tolerance = Tolerance(absolute=0.01, relative=0.1)
    batches = [{"image": floats(2, 3)}, {"image": floats(1, 3)}]
    right = Doubles()
    near = Doubles(lambda x: {"pred": x * 2.1})
    found = agreement(right, near, batches, tolerance)
    assert found.holds
    assert (found.batches, found.output) == (2, "pred")
    assert found.largest == pytest.approx(0.5, abs=1e-3)
    assert 0.4 < found.excess < 0.6
    found.require()
    far: list[Callable[[Any], Any]] = [
        lambda x: {"pred": x * 2.5},
        lambda x: {"pred": x * np.float32(np.nan)},
        lambda x: {"pred": x[:, :2] * 2},
        lambda x: {"mask": x * 2},
    ]
    for answer in far:
        worse = agreement(right, Doubles(answer), batches, tolerance)
        assert not worse.holds
        with pytest.raises(ModelFailure) as caught:
            worse.require()
        assert caught.value.code == "model-disagrees"


def test_nothing_to_compare_is_no_agreement() -> None:
    assert not agreement(Doubles(), Doubles(), [], Tolerance()).holds


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices("cpu") == (CPU,)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices() == (CPU,)
    for name in ("cuda", "cuda:0", "tpu", ""):
        with pytest.raises(SettingsError):
            devices(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    both = (Device("cuda", 0), GPU)
    assert devices() == devices("cuda") == both
    assert devices("cuda:1, cuda:1") == (GPU,)
    assert [str(device) for device in (CPU, *both)] == ["cpu", "cuda:0", "cuda:1"]
    with pytest.raises(SettingsError):
        devices("cuda:2")


def test_work_goes_to_the_device_with_the_least() -> None:
    pool = DevicePool([Device("cuda", 0), GPU])
    with pool.use(3) as first, pool.use() as second, pool.use() as third:
        assert [first.index, second.index, third.index] == [0, 1, 1]
    with pool.use() as again:
        assert again.index == 0


def test_torch_takes_no_shortcuts() -> None:
    torch.backends.cudnn.allow_tf32 = True
    assert torch_device(CPU) == torch.device("cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.deterministic
    assert operators_device("cpu") == torch.device("cpu")
    assert torch.get_num_threads() == 1
    with autocast(CPU, "bfloat16"):
        assert torch.is_autocast_enabled("cpu")
    with autocast(CPU, "off"):
        assert not torch.is_autocast_enabled("cpu")


def test_a_session_is_loaded_once_and_kept() -> None:
    cache = SessionCache({CPU: 100})
    loads: list[Doubles] = []

    def load() -> Doubles:
        time.sleep(0.05)
        loads.append(Doubles())
        return loads[-1]

    def work() -> None:
        with cache.use("a", CPU, 20, load) as session:
            session.run({"image": floats(1, 1)})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(loads), len(loads[0].sizes), cache.held(CPU)) == (1, 8, 10)
    cache.close()
    assert loads[0].closed
    assert cache.held(CPU) == 0


def test_the_longest_unused_makes_room() -> None:
    cache = SessionCache({CPU: 30, GPU: 30})
    made = {name: Doubles() for name in "abcd"}

    def touch(name: str, device: Device = CPU) -> None:
        with cache.use(name, device, 10, lambda: made[name]):
            pass

    for name in "abca":
        touch(name)
    touch("d")
    assert {name for name, item in made.items() if item.closed} == {"b"}
    # Another device has room of its own.
    made["b"] = Doubles()
    touch("b", GPU)
    assert not any(made[name].closed for name in "acdb")


def test_what_is_in_use_is_not_evicted_and_waited_for() -> None:
    cache = SessionCache({CPU: 15}, patience=5)
    first, second = Doubles(), Doubles()
    order: list[str] = []

    def work() -> None:
        with cache.use("b", CPU, 10, lambda: second):
            order.append("second")

    with cache.use("a", CPU, 10, lambda: first):
        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.1)
        assert not first.closed
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert first.closed


def test_room_that_never_comes() -> None:
    cache = SessionCache({CPU: 15}, patience=0.05)
    with (
        cache.use("a", CPU, 10, Doubles),
        pytest.raises(ModelFailure) as caught,
        cache.use("b", CPU, 10, Doubles),
    ):
        pass
    assert caught.value.code == "device-memory"
    with pytest.raises(ModelFailure), cache.use("c", CPU, 16, Doubles):
        pass
    with pytest.raises(ModelFailure), cache.use("c", GPU, 1, Doubles):
        pass


def test_a_network_that_is_never_idle_steps_back() -> None:
    """Studies follow each other so closely that somebody always uses it."""
    cache = SessionCache({CPU: 15}, patience=10, step_back=0.2)
    ended = threading.Event()

    def keep_busy() -> None:
        while not ended.is_set():
            with cache.use("a", CPU, 10, Doubles):
                time.sleep(0.03)

    threads = [threading.Thread(target=keep_busy) for _ in range(4)]
    for number, thread in enumerate(threads):
        thread.start()
        time.sleep(0.01 * number)
    begin = time.monotonic()
    try:
        with cache.use("b", CPU, 10, Doubles):
            waited = time.monotonic() - begin
    finally:
        ended.set()
    for thread in threads:
        thread.join()
    assert 0.1 < waited < 5


def test_a_session_larger_than_it_was_thought() -> None:
    cache = SessionCache({CPU: 30})
    idle, large = Doubles(), Doubles(size=25)
    with cache.use("a", CPU, 10, lambda: idle):
        pass
    with cache.use("b", CPU, 10, lambda: large):
        assert idle.closed
        assert cache.held(CPU) == 25


def test_a_failed_load_is_tried_again() -> None:
    cache = SessionCache({CPU: 30})

    def fail() -> Doubles:
        raise ModelFailure("weights-hash")

    with pytest.raises(ModelFailure), cache.use("a", CPU, 10, fail):
        pass
    assert cache.held(CPU) == 0
    with cache.use("a", CPU, 10, Doubles) as session:
        assert session.run({"image": floats(1, 1)})


def test_a_dropped_session_is_closed_after_its_last_use() -> None:
    cache = SessionCache({CPU: 30})
    old, new = Doubles(), Doubles()
    with cache.use("a", CPU, 10, lambda: old):
        cache.drop("a")
        assert not old.closed
        with cache.use("a", CPU, 10, lambda: new) as session:
            assert session is new
    assert old.closed
    assert not new.closed
