"""An S3 server for tests: moto's server on a free loopback port, with faults that a test chooses."""

import base64
import hashlib
import io
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "bucket"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
Request = dict[str, Any]


class Silent(WSGIRequestHandler):
    ahead_s = 0.0
    """How far the clock of the store has been set forwards; what it kept before has the times of before."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None: ...

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((time.time() if timestamp is None else timestamp) + self.ahead_s)


class Server:
    """The server. :attr:`fault` is asked about each request: it returns a status to answer with, or ``None``."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.fault: Callable[[str, str], int | None] = lambda method, path: None
        self.drop_headers: tuple[str, ...] = ()
        self.lose_answer: Callable[[str, str], bool] = lambda method, path: False
        """Selects requests that are carried out but answered with status 500."""
        self.cut = 0
        """How many of the next downloads of Parquet files lose their last byte and the checksum that would show it."""
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Silent)
        self.endpoint = f"http://127.0.0.1:{self._server.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )

    def reset(self) -> None:
        """Empty the bucket and remove all faults."""
        self.fault = lambda method, path: None
        self.drop_headers = ()
        self.lose_answer = lambda method, path: False
        self.cut = 0
        Silent.ahead_s = 0.0
        buckets = [one["Name"] for one in self.client.list_buckets()["Buckets"]]
        if BUCKET not in buckets:
            self.client.create_bucket(Bucket=BUCKET)
        for name in self.names():
            self.client.delete_object(Bucket=BUCKET, Key=name)
        self.requests.clear()

    def set_clock(self, ahead_s: float) -> None:
        """Set the clock of the store forwards or, below 0, backwards; :meth:`reset` sets it right."""
        Silent.ahead_s = ahead_s

    def names(self, prefix: str = "") -> list[str]:
        return [one["Key"] for one in self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]

    def get(self, name: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=name, Body=data)

    def stop(self) -> None:
        self._server.shutdown()

    def _answer(self, request: Request, start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = request["REQUEST_METHOD"], request["PATH_INFO"]
        self.requests.append((method, path))
        status = self.fault(method, path)
        if status is not None:
            request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
            start(f"{status} Fault", [("Content-Length", "0")])
            return [b""]
        if method == "PUT" and not self._is_as_signed(request):
            start("400 BadDigest", [("Content-Length", "0")])
            return [b""]
        for header in self.drop_headers:
            request.pop(header, None)
        if method == "GET" and path.endswith(".parquet") and self.cut:
            self.cut -= 1
            return self._cut(request, start)
        if self.lose_answer(method, path):
            b"".join(self._app(request, lambda status, headers, *rest: None))
            start("500 Fault", [("Content-Length", "0")])
            return [b""]
        return self._app(request, start)

    def _is_as_signed(self, request: Request) -> bool:
        """Whether a body is the one of its checksums, which moto does not compare, as stores do."""
        body = request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
        request["wsgi.input"] = io.BytesIO(body)
        signed, crc = request.get("HTTP_X_AMZ_CONTENT_SHA256", ""), request.get("HTTP_X_AMZ_CHECKSUM_CRC32")
        if crc is not None and base64.b64decode(crc) != zlib.crc32(body).to_bytes(4, "big"):
            return False
        return len(signed) != 64 or hashlib.sha256(body).hexdigest() == signed

    def _cut(self, request: Request, start: Callable[..., Any]) -> Iterable[bytes]:
        def damaged(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            kept = [(k, v) for k, v in headers if not k.lower().startswith("x-amz-checksum")]
            return start(status, kept, *rest)

        body = b"".join(self._app(request, damaged))
        return [body[:-1] + bytes([body[-1] ^ 1])]


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.stop()
