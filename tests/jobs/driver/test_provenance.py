"""Where a run comes from, as ``run.json`` keeps it."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.driver import provenance
from scpl_ray.config import Experiment
from scpl_ray.storage.run_directory import Reader, Store


def test_the_command_line_of_a_command_is_kept_and_credentials_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/scpl", "run", "name=a b", "task.data=s3://x?token=hf_" + "a" * 34])
    command = provenance.began()["command"]
    assert command.startswith("scpl run 'name=a b'") and "a" * 34 not in command
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    assert "command" not in provenance.began()


def test_the_commit_is_that_of_the_project_and_of_no_folder_around_it(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        of = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t.invalid", *words]
        return subprocess.run(of, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD")
    assert provenance.commit(tmp_path) == head
    (tmp_path / "file").write_text("2")
    assert provenance.commit(tmp_path) == f"{head} with changes"
    (tmp_path / "inner").mkdir()
    assert provenance.commit(tmp_path / "inner") != head


def test_a_run_keeps_them(tmp_path: Path) -> None:
    Store.create(tmp_path / "run", Experiment(), {}, {"command": "scpl run", "commit": "abc"}).close()
    reader = Reader(tmp_path / "run")
    assert (reader.facts["command"], reader.facts["commit"], reader.checkpoints) == ("scpl run", "abc", ())
