"""The short form of :mod:`tests.campaigns.fencing`: a commit that is paused before the requests that write."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaigns import fencing
from tests.support import moto_s3
from tests.support.moto_s3 import Server


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with moto_s3.serving() as server:
        yield server


@pytest.mark.parametrize(("action", "steps"), [("commits", (3, 5, 7)), ("closes", (2,))])
def test_a_holder_that_was_paused_changes_nothing_of_the_next_ones(
    running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, steps: tuple[int, ...]
) -> None:
    environment = {**moto_s3.CREDENTIALS, "AWS_ENDPOINT_URL": running.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in {**environment, "SCPL_CACHE": ""}.items():
        monkeypatch.setenv(name, value)
    reached = [step for step in steps if fencing.paused_at(running, action, step, tmp_path / str(step))]
    assert reached == list(steps)
