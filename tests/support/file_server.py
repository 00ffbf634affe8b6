"""Serves a folder on loopback, and notes what was asked for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class FileServer:
    """A folder at an address.

    Attributes:
        url: that of the folder, without a slash behind it.
        fetched: how often each file was fetched by an engine, by name.
        fetched_by_others: the same of all other clients.
    """

    url: str
    fetched: Counter[str] = field(default_factory=Counter)
    fetched_by_others: Counter[str] = field(default_factory=Counter)


@contextmanager
def files_served(folder: Path) -> Iterator[FileServer]:
    """Meanwhile the files of ``folder`` are served."""
    served = FileServer("")

    class Handler(SimpleHTTPRequestHandler):
        def send_response(self, code: int, message: str | None = None) -> None:
            if code == 200:
                agent = self.headers.get("User-Agent", "")
                count = served.fetched if agent == "sensorium" else served.fetched_by_others
                count[self.path.lstrip("/")] += 1
            super().send_response(code, message)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    served.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
