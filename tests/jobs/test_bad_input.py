"""Every bad config, data file and folder of :mod:`tests.support.bad_input` is one exact message, and nothing starts.

``python -m tests.jobs.test_bad_input`` writes the messages anew: read the difference before it is committed.
"""

import json
import re
import tempfile
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.placement.cluster import Cluster, Node
from jobs.cli import app
from jobs.driver import run
from tests.support.bad_input import CASES, Bad, write

MESSAGES = Path(__file__).parent / "bad_input.json"
WHY_NO_HUB = re.compile(r"\((?:[^()]|\([^()]*\))*\); give a file instead")
"""What a network error says differs from machine to machine."""


def said(case: Bad, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    write(case, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SCPL_CACHE", str(folder.parent / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(run, "local_cluster", lambda: Cluster((Node("this machine", 2, 24.0),)))
    result = CliRunner().invoke(app, list(case.arguments))
    assert result.exit_code == 2, (result.output, result.exception)
    assert sorted(path.name for path in folder.iterdir()) == sorted(case.files), "something was written"
    return WHY_NO_HUB.sub("(...); give a file instead", result.output.replace(f"{folder.resolve()}/", ""))


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Imports are not what the seconds below are about."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("a Hub data set without a network", "a report of nothing", "a CSV without a header"):
            said(CASES[name], tmp_path_factory.mktemp("warm"), patch)


@pytest.mark.parametrize("name", CASES)
def test_one_exact_message(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    folder = tmp_path / "work"
    folder.mkdir()
    running = ray.is_initialized()
    began = time.process_time()
    assert said(CASES[name], folder, monkeypatch) == json.loads(MESSAGES.read_text())[name]
    assert time.process_time() - began < 3.0
    assert ray.is_initialized() == running


def test_the_table_is_whole() -> None:
    assert len(CASES) >= 60 and list(json.loads(MESSAGES.read_text())) == list(CASES)


if __name__ == "__main__":
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for each, bad in CASES.items():
            with tempfile.TemporaryDirectory() as scratch:
                work = Path(scratch) / "work"
                work.mkdir()
                found[each] = said(bad, work, patch)
                patch.chdir("/")
    MESSAGES.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
