"""A model server that stalls, fails, or answers nonsense."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_networks as tiny

from fhir_ext.errors import FhirExtError, UpstreamError, UpstreamTimeout
from fhir_ext.outgoing import OutgoingGuard
from fhir_ext.settings import OutgoingSettings
from models.runtime.base import ModelFailure, Session
from models.runtime.opening import open_session
from models.runtime.options import Options

OPTIONS = Options(guard=OutgoingGuard(OutgoingSettings(private_networks=True, plain_http=True)))
PRED = {"name": "pred", "datatype": "FP32", "shape": [1, 2, 1, 1, 1], "data": [1.5, -2.0]}
IMAGE = np.ones((1, 1, 1, 1, 1), np.float32)

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers each request by `answer`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = lambda handler: None
        self.asked: list[Any] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                owner.asked.append((self.path, json.loads(body)))
                owner.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def says(self, body: Any, status: int = 200) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)

        self.answer = answer


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


@pytest.fixture
def opened(server: Server, tmp_path: Path) -> Iterator[Callable[..., Session]]:
    sessions: list[Session] = []

    def make(**fields: Any) -> Session:
        given = {"url": server.url, "model": "tiny", "deadline_s": 2.0, **fields}
        sessions.append(open_session(tiny.runtime_of("kserve", **given), tmp_path, OPTIONS))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()


def test_what_is_asked_and_read(server: Server, opened: Callable[..., Session]) -> None:
    server.says({"model_name": "tiny", "outputs": [PRED]})
    found = opened(model_version="3").run({"image": IMAGE})["pred"]
    assert found.ravel().tolist() == [1.5, -2.0]
    ((path, body),) = server.asked
    assert path == "/v2/models/tiny/versions/3/infer"
    image = {"name": "image", "shape": [1, 1, 1, 1, 1], "datatype": "FP32", "data": [1.0]}
    assert body == {"inputs": [image], "outputs": [{"name": "pred"}]}


NONSENSE: dict[str, Any] = {
    "no JSON": b"<html>busy</html>",
    "no object": [1],
    "empty": b"",
    "no outputs": {"model_name": "tiny"},
    "an error": {"error": "boom"},
    "outputs of another kind": {"outputs": {"pred": [1]}},
    "no output": {"outputs": []},
    "twice the same": {"outputs": [PRED, PRED]},
    "another name": {"outputs": [{**PRED, "name": "mask"}]},
    "another type": {"outputs": [{**PRED, "datatype": "INT64"}]},
    "no type": {"outputs": [{k: v for k, v in PRED.items() if k != "datatype"}]},
    "no shape": {"outputs": [{**PRED, "shape": None}]},
    "a negative shape": {"outputs": [{**PRED, "shape": [-1, -2, 1, 1, 1]}]},
    "a shape of words": {"outputs": [{**PRED, "shape": ["1", 2, 1, 1, 1]}]},
    "an enormous shape": {"outputs": [{**PRED, "shape": [10**9, 10**9]}]},
    "too few numbers": {"outputs": [{**PRED, "data": [1.0]}]},
    "words": {"outputs": [{**PRED, "data": ["1.0", "2.0"]}]},
    "null for NaN": {"outputs": [{**PRED, "data": [1.0, None]}]},
    "truths": {"outputs": [{**PRED, "data": [True, False]}]},
    "ragged": {"outputs": [{**PRED, "data": [[1.0], [1.0, 2.0]]}]},
    "no data": {"outputs": [{k: v for k, v in PRED.items() if k != "data"}]},
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_no_number(case: str, server: Server, opened: Callable[..., Session]) -> None:
    server.says(NONSENSE[case])
    with pytest.raises(ModelFailure) as caught:
        opened().run({"image": IMAGE})
    assert caught.value.code == "model-answer"


@pytest.mark.parametrize("body", [b'{"outputs": [NaN]}', b'{"outputs": [1e999]}'])
def test_numbers_that_json_does_not_have(
    body: bytes, server: Server, opened: Callable[..., Session]
) -> None:
    server.says(body)
    with pytest.raises(ModelFailure):
        opened().run({"image": IMAGE})


def test_answers_that_fit_the_protocol_but_not_the_manifest(
    server: Server, opened: Callable[..., Session]
) -> None:
    server.says({"outputs": [{**PRED, "shape": [2, 1, 1, 1, 1]}]})
    with pytest.raises(ModelFailure) as caught:
        opened().run({"image": IMAGE})
    assert caught.value.code == "model-output"
    server.says({"outputs": [{**PRED, "data": [1e300, 1.0]}]})
    with pytest.raises(ModelFailure) as caught:
        opened().run({"image": IMAGE})
    assert caught.value.code == "model-not-finite"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (500, UpstreamError),
        (503, UpstreamError),
        (429, UpstreamError),
        (302, UpstreamError),
        (400, ModelFailure),
        (404, ModelFailure),
        (401, ModelFailure),
        (204, ModelFailure),
    ],
)
def test_statuses(
    status: int, kind: type[FhirExtError], server: Server, opened: Callable[..., Session]
) -> None:
    """What may pass by itself is tried again; the rest waits for a human."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Location", server.url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.answer = answer
    with pytest.raises(kind):
        opened().run({"image": IMAGE})


def test_a_silent_server_is_left_alone_for_a_while(
    server: Server, opened: Callable[..., Session]
) -> None:
    server.answer = lambda handler: time.sleep(1)
    session = opened(deadline_s=0.3)
    for said in ("in time", "a moment ago", "a moment ago"):
        with pytest.raises(UpstreamTimeout, match=said):
            session.run({"image": IMAGE})
    assert len(server.asked) == 1
    server.says({"outputs": [PRED]})
    time.sleep(0.4)
    assert session.run({"image": IMAGE})["pred"].ravel().tolist() == [1.5, -2.0]


def test_a_server_that_stalls(server: Server, opened: Callable[..., Session]) -> None:
    server.answer = lambda handler: time.sleep(3)
    session = opened(deadline_s=0.5)
    begin = time.monotonic()
    with pytest.raises(UpstreamError):
        session.run({"image": IMAGE})
    assert time.monotonic() - begin < 2


def test_a_server_that_answers_byte_by_byte(server: Server, opened: Callable[..., Session]) -> None:
    """Each byte comes in time, the whole does not."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                handler.wfile.write(b" ")
                time.sleep(0.1)

    server.answer = answer
    begin = time.monotonic()
    with pytest.raises(UpstreamError):
        opened(deadline_s=0.5).run({"image": IMAGE})
    assert time.monotonic() - begin < 2


def test_answers_and_requests_that_are_too_large(
    server: Server, opened: Callable[..., Session]
) -> None:
    server.says(b" " * 3_000_000)
    with pytest.raises(UpstreamError, match="more than is read"):
        opened(max_mb=1.0).run({"image": IMAGE})
    server.asked.clear()
    with pytest.raises(ModelFailure) as caught:
        opened(max_mb=0.001).run({"image": np.ones((1, 1, 9, 9, 9), np.float32)})
    assert (caught.value.code, server.asked) == ("model-input", [])


def test_a_server_that_is_down_or_hangs_up(server: Server, opened: Callable[..., Session]) -> None:
    server.answer = lambda handler: handler.connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(UpstreamError):
        opened().run({"image": IMAGE})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UpstreamError):
        opened(url=f"http://127.0.0.1:{port}").run({"image": IMAGE})


def test_element_types(server: Server, opened: Callable[..., Session]) -> None:
    def run(dtype: str, datatype: str, data: list[Any]) -> Any:
        outputs = [{"name": "pred", "shape": ["n", "k"], "dtype": dtype}]
        server.says({"outputs": [{**PRED, "datatype": datatype, "shape": [1, 2], "data": data}]})
        return opened(outputs=outputs).run({"image": IMAGE})["pred"]

    assert run("int16", "INT16", [-3, 4]).tolist() == [[-3, 4]]
    assert run("bool", "BOOL", [True, False]).tolist() == [[True, False]]
    assert run("float16", "FP16", [[1, 2.5]]).tolist() == [[1.0, 2.5]]
    for dtype, datatype, data in (
        ("int16", "INT16", [40_000, 1]),
        ("uint8", "UINT8", [-1, 1]),
        ("int64", "INT64", [1.5, 1]),
        ("int64", "INT64", [2**70, 1]),
        ("bool", "BOOL", [0, 1]),
    ):
        with pytest.raises(ModelFailure) as caught:
            run(dtype, datatype, data)
        assert caught.value.code == "model-answer"


def test_remote_models_need_a_guard(tmp_path: Path) -> None:
    runtime = tiny.runtime_of("kserve", url="https://models.example.org", model="tiny")
    with pytest.raises(ModelFailure) as caught:
        open_session(runtime, tmp_path, Options())
    assert caught.value.code == "model-not-installed"
