"""A web server on this machine whose behaviour each test scripts."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest


@dataclasses.dataclass
class Page:
    """How the server answers for one path. `cut` and `statuses` are used up one request at a time."""

    content: bytes
    etag: str | None = '"v1"'
    last_modified: str | None = None
    content_type: str = "application/octet-stream"
    ranges: bool = True
    honours_if_range: bool = True
    announce: int | None = -1  # Content-Length: -1 the true one, None not sent
    encoding: str | None = None
    cut: list[int] = dataclasses.field(default_factory=list)  # close after that many bytes of the body
    statuses: list[int] = dataclasses.field(default_factory=list)
    delay: float = 0.0  # seconds between pieces of 4096 bytes
    chunked: bool = False  # without a length, in chunks that say which is the last; a cut leaves that one out
    status: int | None = None  # of the answer, whatever was asked
    headers: dict[str, str] = dataclasses.field(default_factory=dict)  # further ones


class Site:
    """A running server: its pages, and the headers of every request it got."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.requests: list[dict[str, str]] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.requests.append({name.lower(): value for name, value in self.headers.items()})
                with contextlib.suppress(ConnectionError):
                    site.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Keep the tests' output clean."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def put(self, path: str, content: bytes, **behaviour: Any) -> str:
        """Serve `content` at `path`; returns its address."""
        self.pages[path] = Page(content, **behaviour)
        return self.address + path

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        page = self.pages.get(handler.path)
        if page is None:
            self._plain(handler, 404, b"<html>no such blob</html>")
            return
        if page.statuses:
            self._plain(handler, page.statuses.pop(0), b"busy")
            return
        start, asked = 0, handler.headers.get("Range")
        if asked and page.ranges:
            condition = handler.headers.get("If-Range")
            if not page.honours_if_range or condition in (page.etag, page.last_modified):
                start = int(asked.removeprefix("bytes=").rstrip("-"))
                if start >= len(page.content):
                    handler.send_response(416)
                    handler.send_header("Content-Range", f"bytes */{len(page.content)}")
                    self._finish_headers(handler, page, 0)
                    return
        body = page.content[start:]
        handler.send_response(page.status or (206 if start else 200))
        if start:
            total = len(page.content)
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self._finish_headers(handler, page, len(body) if page.announce == -1 else page.announce)
        cut = page.cut.pop(0) if page.cut else None
        if page.chunked:
            pieces = [body[:cut][offset : offset + 4096] for offset in range(0, len(body[:cut]), 4096)]
            for piece in [*pieces, b""] if cut is None else pieces:
                handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            return
        body = body[:cut]
        for offset in range(0, len(body), 4096):
            handler.wfile.write(body[offset : offset + 4096])
            if page.delay:
                handler.wfile.flush()
                time.sleep(page.delay)

    def _finish_headers(
        self, handler: http.server.BaseHTTPRequestHandler, page: Page, length: int | None
    ) -> None:
        for name, value in (
            *page.headers.items(),
            ("Transfer-Encoding", "chunked" if page.chunked else None),
            ("Content-Length", None if length is None or page.chunked else str(length)),
            ("ETag", page.etag),
            ("Last-Modified", page.last_modified),
            ("Content-Type", page.content_type),
            ("Content-Encoding", page.encoding),
        ):
            if value is not None:
                handler.send_header(name, value)
        handler.send_header("Connection", "close")
        handler.end_headers()

    def _plain(self, handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server for one test, reached without any proxy that the environment names."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    running = Site()
    yield running
    running.close()
