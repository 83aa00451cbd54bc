"""A DICOMweb server that answers with whatever bytes a test gives it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pydicom

BOUNDARY = b"hostile-boundary"


def encoded(instance: pydicom.Dataset) -> bytes:
    """Part 10 bytes of an instance."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, instance, enforce_file_format=True)
    return buffer.getvalue()


def multipart(parts: Sequence[bytes], *, close: bool = True) -> bytes:
    """A multipart/related body; without its closing boundary when `close` is False."""
    body = b"".join(
        b"--" + BOUNDARY + b"\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n"
        for part in parts
    )
    return body + (b"--" + BOUNDARY + b"--\r\n" if close else b"")


@contextmanager
def hostile_archive(study: str, series: str, uids: Sequence[str], body: bytes) -> Iterator[str]:
    """Serve one series; yields the DICOMweb root.

    Args:
        uids: SOP Instance UIDs that QIDO lists.
        body: what WADO-RS answers for the series.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.endswith("/instances"):
                rows = [_row(study, series, uid) for uid in uids]
                self._answer(json.dumps(rows).encode(), "application/dicom+json")
            elif path.endswith(("/series", "/studies")):
                row = _row(study, series, "")
                row["00201209"] = {"vr": "IS", "Value": [len(uids)]}
                self._answer(json.dumps([row]).encode(), "application/dicom+json")
            elif path.endswith(series):
                kind = f'multipart/related; type="application/dicom"; boundary={BOUNDARY.decode()}'
                self._answer(body, kind)
            else:
                self.send_error(404)

        def _answer(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _row(study: str, series: str, instance: str) -> dict[str, dict[str, object]]:
    return {
        "0020000D": {"vr": "UI", "Value": [study]},
        "0020000E": {"vr": "UI", "Value": [series]},
        "00080018": {"vr": "UI", "Value": [instance]},
        "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]},
        "00080060": {"vr": "CS", "Value": ["CT"]},
    }
