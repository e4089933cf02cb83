"""Where a run comes from, as ``run.json`` keeps it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.driver import provenance
from scpl_ray.config import Experiment
from scpl_ray.report import data
from scpl_ray.storage import upgrades
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import Reader, Store
from tests.support.loops import small


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


def test_the_packages_under_which_a_run_goes_on_are_noted_said_and_shown(tmp_path: Path) -> None:
    experiment, said = small("loop.rounds=3"), list[str]()
    store = Store.create(tmp_path / "run", experiment, {"ray": "2.1", "vllm": "0.9"})
    began = (tmp_path / "run/run.json").read_bytes()
    for round_, phase in ((0, "base"), (0, "evaluation"), (1, "queries"), (1, "feedback")):
        with store.phase(round_, phase):
            pass
    for now in ({"ray": "2.1", "vllm": "0.9"}, *[{"ray": "2.2", "numpy": "2"}] * 2):
        provenance.keep_versions(store, experiment, now, said.append)
    (line,) = said
    assert "numpy none (now 2), ray 2.1 (now 2.2), vllm 0.9 (now none); from round 2 on" in line
    assert [(one.from_round, one.versions["ray"]) for one in upgrades.of(store)] == [(0, "2.1"), (2, "2.2")]
    assert (tmp_path / "run/run.json").read_bytes() == began
    assert data._run(tmp_path / "run").versions == {"ray": "2.1 then 2.2", "vllm": "0.9", "numpy": "2"}
    store.finish([], {"rounds": 3})
    provenance.keep_versions(store, experiment, {"ray": "3"}, said.append)
    assert len(said) == 1, "nothing of a finished run is made any more"
    store.close()
    (tmp_path / "run" / upgrades.FILE).write_text('[{"from_round": 1e999, "versions": {}}]')
    with pytest.raises(StoreError, match=r"versions.json: cannot be read"):
        upgrades.of(Reader(tmp_path / "run"))


def test_a_run_that_noted_no_versions_is_read_and_goes_on(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "run", Experiment(), {})
    facts = json.loads((tmp_path / "run/run.json").read_bytes())
    del facts["versions"]
    (tmp_path / "run/run.json").write_text(json.dumps(facts))
    provenance.keep_versions(store, Experiment(), {"ray": "2.2"}, pytest.fail)
    store.close()
    assert upgrades.of(Reader(tmp_path / "run"))[0].versions == {} == data._run(tmp_path / "run").versions
