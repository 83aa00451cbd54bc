"""Runs tiny-pacs-dicomweb, a DICOMweb archive that is not Orthanc: `PORT FOLDER TOKEN`.

Its own HTTP front end needs waitress; the standard library's WSGI server does as well, and
answers HTTP/1.0 without lengths, which a client must manage too. DIMSE stays off.
"""

from __future__ import annotations

import logging
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from tiny_pacs import events
from tiny_pacs.config import Config
from tiny_pacs.http import Dispatcher, _DbReleaseApp
from tiny_pacs.server import Server


class ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Silent(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def main(port: int, folder: str, token: str) -> None:
    components = {
        "Database": {"on": True, "db_name": f"{folder}/pacs.sqlite", "mode": "rwc"},
        "PACS": {"on": True},
        "InMemoryStorage": {"on": True},
        "DICOMWeb": {"on": True, "auth": "token", "tokens": [token]},
    }
    server = Server(Config.model_validate({"components": components}))
    server.bus.start()
    hooks = [
        hook for answer in server.bus.broadcast(events.HttpAppsRegistry, None) for hook in answer
    ]
    app = _DbReleaseApp(Dispatcher(hooks, logging.getLogger("tiny-pacs")), server.bus)
    with make_server("127.0.0.1", port, app, ThreadingServer, Silent) as http:
        http.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
