"""Fixtures of tests of object stores."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import moto_s3
from tests.support.moto_s3 import Server


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with moto_s3.serving() as server:
        yield server


@pytest.fixture
def server(running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    running.reset()
    for name, value in moto_s3.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return running
