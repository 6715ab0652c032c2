"""A server of files on this computer, for tests of downloads."""

# MISSING jpeg
# MISSING mat
# MISSING png
# MISSING tar
import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator

import pytest

from segkit.tools import fetch

CONTENT = bytes(range(256)) * 40  # 10240 bytes


MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; what it was asked for is in ``ranges``."""

    files: dict[str, bytes]
    ranges: list[str | None]
    cut: int = 0  # answers that end after 1000 bytes
    knows_ranges: bool = True
    broken: int = 0  # answers that are an error of the server


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        content = self.server.files.get(self.path.rpartition("/")[2])
        if self.server.broken:
            self.server.broken -= 1
            self.send_error(503)
            return
        if content is None:
            self.send_error(404)
            return
        start = 0
        if wanted and self.server.knows_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.server.cut:
            self.server.cut -= 1
            self.wfile.write(content[start : start + 1000])
        else:
            self.wfile.write(content[start:])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.ranges = {"file.tar": CONTENT}, []
    thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def url(server: Server, name: str = "file.tar") -> str:
    return f"http://127.0.0.1:{server.server_port}/{name}"
