"""The objects below one S3 URI: list, upload, download, delete, and conditional writes.

Requests are retried by botocore (in its standard mode), and every retry is logged. If they still fail, a
:class:`~scpl_ray.storage.errors.StoreError` names the URI, the cause and what to do. Credentials, region and endpoint
are found as by every AWS client: from the environment, ``~/.aws`` or the machine's role.
"""

from __future__ import annotations

import contextlib
import dataclasses
import email.utils
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
)
from s3transfer.exceptions import RetriesExceededError

from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import replacing

logger = logging.getLogger(__name__)

ATTEMPTS = 8
"""Number of attempts per request; the waits between them add up to about half a minute."""
CONNECT_SECONDS = 10
READ_SECONDS = 30
WORKERS = 8
"""Number of files that are transferred at the same time."""
PARTS = TransferConfig(max_concurrency=4)
"""How a large file is split, and how many of its parts are transferred at the same time."""
CONFLICTS = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404")
"""Error codes of a conditional write whose condition does not hold."""
REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403")
ACTIONS = "s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject"
CHATTY = ("botocore", "boto3", "s3transfer", "urllib3")
"""Loggers that write dozens of lines per request, also while a log is uploaded."""


class Conflict(RuntimeError):
    """The condition of a write does not hold: another process wrote first."""


@dataclasses.dataclass(frozen=True)
class Found:
    """An object as it was listed or uploaded."""

    bytes: int
    etag: str
    """An identifier that changes whenever the object is written with different bytes."""


@dataclasses.dataclass(frozen=True)
class Content:
    """A small object and its content."""

    data: bytes
    etag: str
    age_seconds: float
    """Time since the object was last written, by the clock of the store."""


class Objects:
    """The objects below ``s3://BUCKET/PATH``; names are relative to that path.

    Raises:
        StoreError: raised by every method if the store cannot be reached, refuses the request, or keeps failing.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._bucket, _, path = uri.removeprefix("s3://").partition("/")
        self._prefix = f"{path}/"
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.INFO)
        retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
        config = Config(
            retries=retries,
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=WORKERS * PARTS.max_concurrency,
        )
        with self._told():
            self._client = boto3.Session().client("s3", config=config)
        self._client.meta.events.register("needs-retry.s3", self._log_failure)

    @property
    def place(self) -> Mapping[str, str]:
        """What identifies these objects; the URI alone does not, because it can exist at several endpoints."""
        return {"uri": self.uri, "endpoint": str(self._client.meta.endpoint_url)}

    def list(self, below: str = "") -> dict[str, Found]:
        """All objects whose names begin with ``below``."""
        found: dict[str, Found] = {}
        with self._told():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + below
            )
            for one in (one for page in pages for one in page.get("Contents", [])):
                name = one["Key"].removeprefix(self._prefix)
                if ".." in PurePosixPath(name).parts or name.startswith("/"):
                    raise StoreError(f"{self.uri}: the object {name} leads out of the run; remove it")
                if not name.endswith("/"):  # placeholders that consoles create to show an empty folder end with "/"
                    found[name] = Found(one["Size"], one["ETag"])
        return found

    def send(self, files: Mapping[str, Path]) -> dict[str, Found]:
        """Upload files, and return the objects that the store then has."""

        def one(item: tuple[str, Path]) -> Found:
            where = {"Bucket": self._bucket, "Key": self._prefix + item[0]}
            with self._told(), item[1].open("rb") as file:
                self._client.upload_fileobj(file, **where, Config=PARTS)
                there = self._client.head_object(**where)
            return Found(there["ContentLength"], there["ETag"])

        with ThreadPoolExecutor(WORKERS) as pool:
            return dict(zip(files, pool.map(one, files.items()), strict=True))

    def fetch(self, files: Mapping[str, Path]) -> None:
        """Download objects, by name, to these files, which are replaced when all of an object has arrived."""

        def one(item: tuple[str, Path]) -> None:
            name, path = item
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._told(), replacing(path) as file:
                self._client.download_fileobj(self._bucket, self._prefix + name, file, Config=PARTS)

        with ThreadPoolExecutor(WORKERS) as pool:
            for _ in pool.map(one, files.items()):
                pass

    def delete(self, name: str, etag: str) -> None:
        """Delete an object whose current ETag must be this one.

        Raises:
            Conflict: it has another ETag, or it does not exist.
        """
        with self._told(), self._conditional(name):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name, IfMatch=etag)

    def read(self, name: str) -> Content | None:
        """Read a small object; ``None`` if it does not exist."""
        with self._told():
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            except ClientError as error:
                if _code(error) in ("NoSuchKey", "404"):
                    return None
                raise
            now = email.utils.parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            age = (now - answer["LastModified"]).total_seconds()
            return Content(answer["Body"].read(), answer["ETag"], age)

    def write(self, name: str, data: bytes, *, replaces: str | None) -> str:
        """Write an object that must not exist yet, or, with ``replaces``, whose current ETag must be that one.

        Returns:
            The new ETag.

        Raises:
            Conflict: the object exists although it must not, or it is missing or has another ETag than ``replaces``.
        """
        condition = {"IfNoneMatch": "*"} if replaces is None else {"IfMatch": replaces}
        with self._told(), self._conditional(name):
            answer = self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data, **condition)
        return str(answer["ETag"])

    @contextlib.contextmanager
    def _conditional(self, name: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            if _code(error) in CONFLICTS:
                raise Conflict(f"{self.uri}: {name} was written by another process") from error
            raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Convert errors of the store inside the ``with`` block to :class:`StoreError` with a readable message."""
        try:
            yield
        except (ClientError, BotoCoreError, RetriesExceededError) as error:
            raise StoreError(f"{self.uri}: {self._explain(error)}") from error

    def _explain(self, error: Exception) -> str:
        if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
            return (
                "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine "
                f"a role with {ACTIONS}"
            )
        if isinstance(error, EndpointConnectionError):
            return f"{error} after {ATTEMPTS} attempts; check the network and AWS_ENDPOINT_URL, then go on"
        if isinstance(error, ClientError):
            if _code(error) == "NoSuchBucket":
                return f"there is no bucket {self._bucket}; make it, or check the name and AWS_ENDPOINT_URL"
            if _code(error) in REFUSED:
                return f"refused ({error}); these credentials need {ACTIONS} on it"
        return f"{error}; {ATTEMPTS} attempts at most were made"

    def _log_failure(
        self, response: tuple[Any, Any] | None, attempts: int, caught_exception: Exception | None, **_: object
    ) -> None:
        status = response[0].status_code if response else 0
        if caught_exception is None and status < 500 and status not in (408, 429):
            return
        cause = caught_exception or f"HTTP status {status}"
        logger.warning("%s: attempt %d of at most %d failed: %s", self.uri, attempts, ATTEMPTS, cause)


def _code(error: ClientError) -> str:
    return str(error.response["Error"].get("Code", ""))
