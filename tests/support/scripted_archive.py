"""A DICOMweb archive that misbehaves as told, and the client for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from synthetic_ct import SERIES, STUDY, ct_slice

from fhir_ext.clients.dicomweb import DicomWebClient
from fhir_ext.settings import ArchiveSettings, HttpAuth, LimitSettings

LIMITS = LimitSettings()


def client_of(url: str, auth: HttpAuth | None = None, **settings: Any) -> DicomWebClient:
    return DicomWebClient(
        ArchiveSettings(
            qido_url=url, wado_url=url, stow_url=url, auth=auth or HttpAuth(), **settings
        ),
        LIMITS,
    )


def every_call(client: DicomWebClient) -> list[Callable[[], Any]]:
    return [
        client.ping,
        lambda: list(client.search_studies(date(2025, 1, 1), date(2025, 1, 1))),
        lambda: client.find_study(STUDY),
        lambda: client.list_series(STUDY),
        lambda: client.list_instances(STUDY, SERIES),
        lambda: client.instance_metadata(STUDY, SERIES, f"{SERIES}.1"),
        lambda: list(client.stream_series(STUDY, SERIES)),
        lambda: client.store([ct_slice(0)]),
    ]


Answer = Callable[[BaseHTTPRequestHandler], None]


def respond(
    status: int, body: bytes = b"", content_type: str = "application/dicom+json", **headers: str
) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@contextmanager
def scripted(script: dict[str, Answer], otherwise: Answer | None = None) -> Iterator[str]:
    """A server that answers by the end of the path: `METHOD last-segment`."""
    default = otherwise or respond(404)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            last = self.path.partition("?")[0].rsplit("/", 1)[-1]
            try:
                script.get(f"{self.command} {last}", default)(self)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        do_GET = do_POST = answer  # noqa: N815  names that http.server looks for

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
