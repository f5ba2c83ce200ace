"""A small S3: objects in memory, over HTTP, as far as files need it."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 3  # objects of one listing


class Server(ThreadingHTTPServer):
    """One, with what lies in it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.calls: list[str] = []


@contextmanager
def running() -> Iterator[Server]:
    """Until the end of the context."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    """Path-style calls: ``/bucket/key``."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(5)

    def do_PUT(self) -> None:
        key, told = self._asked()
        body = self._body()
        if "uploadId" in told:
            self.server.uploads[told["uploadId"]][int(told["partNumber"])] = body
        else:
            self.server.objects[key] = body
        self._answer(headers={"ETag": f'"{len(body)}"'})

    def do_POST(self) -> None:
        key, told = self._asked()
        self._body()
        if "uploads" in told:
            name = f"upload{len(self.server.uploads)}"
            self.server.uploads[name] = {}
            return self._answer(f"<R><UploadId>{name}</UploadId></R>")
        parts = self.server.uploads.pop(told["uploadId"])
        self.server.objects[key] = b"".join(parts[number] for number in sorted(parts))
        return self._answer("<R><Key>x</Key></R>")

    def do_GET(self) -> None:
        key, told = self._asked()
        if "list-type" in told:
            return self._list(key, told)
        whole = self.server.objects.get(key)
        if whole is None:
            return self._answer("<Error><Code>NoSuchKey</Code></Error>", HTTPStatus.NOT_FOUND)
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        piece = whole[int(found[1]) : int(found[2]) + 1] if found else whole
        return self._answer(piece, HTTPStatus.PARTIAL_CONTENT if found else HTTPStatus.OK)

    def do_HEAD(self) -> None:
        key, _ = self._asked()
        whole = self.server.objects.get(key)
        self._answer(whole or b"", HTTPStatus.OK if whole is not None else HTTPStatus.NOT_FOUND)

    def do_DELETE(self) -> None:
        key, _ = self._asked()
        self.server.objects.pop(key, None)
        self._answer(status=HTTPStatus.NO_CONTENT)

    def _list(self, bucket: str, told: dict[str, str]) -> None:
        prefix, after = f"{bucket.rstrip('/')}/{told.get('prefix', '')}", told.get("continuation-token", "")
        names = sorted(name for name in self.server.objects if name.startswith(prefix) and name > after)
        more = len(names) > PAGE
        rows = "".join(
            f"<Contents><Key>{escape(name.partition('/')[2])}</Key><Size>{len(self.server.objects[name])}</Size>"
            "<LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>"
            for name in names[:PAGE]
        )
        token = f"<NextContinuationToken>{escape(names[PAGE - 1])}</NextContinuationToken>" if more else ""
        self._answer(f"<R><IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</R>")

    def _asked(self) -> tuple[str, dict[str, str]]:
        url = urlsplit(self.path)
        self.server.calls.append(f"{self.command} {unquote(url.path)}")
        query = parse_qs(url.query, keep_blank_values=True)
        return unquote(url.path).lstrip("/"), {name: values[0] for name, values in query.items()}

    def _body(self) -> bytes:
        if self.headers.get("Expect") == "100-continue":
            self.send_response_only(HTTPStatus.CONTINUE)
            self.end_headers()
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = list[bytes]()
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return b"".join(pieces)

    def _answer(
        self, body: str | bytes = b"", status: int = HTTPStatus.OK, headers: dict[str, str] | None = None
    ) -> None:
        raw = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        told = {"Content-Length": str(len(raw)), "Last-Modified": formatdate(1577836800, usegmt=True)}
        told |= {"Connection": "close"}  # so that no thread waits for more
        for name, value in (told | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)
