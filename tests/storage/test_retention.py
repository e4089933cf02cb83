"""What a run keeps on disk, and that what it deleted on purpose is not missed."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import scpl_ray
from jobs.cli import app
from jobs.driver import resuming
from jobs.status import state
from scpl_ray.protocols import TrainingJob, TrainingResult
from scpl_ray.records import Manifest
from scpl_ray.storage import manifests, retention
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import PHASES, Reader, Store
from tests.support import fakes
from tests.support.finished_runs import begun
from tests.support.loops import driven, records_of, small

ROUNDS = 2
FULL = (
    *("model.lora=null", "reward.choices=balanced", f"loop.rounds={ROUNDS}", "queries.prompts_per_round=8"),
    *("evaluation.prompts_per_group=4", "evaluation.neutral_prompts=4", "selection.strategy=random"),
)


class Trainer(fakes.FakeTrainer):
    """Writes what a whole model in bfloat16 and an adapter consist of."""

    def train(self, job: TrainingJob) -> TrainingResult:
        result = super().train(job)
        for name in ("master", "adapter"):
            (job.output / name).mkdir()
            (job.output / name / f"{name}.safetensors").write_bytes(bytes(100 + job.round))
        return result


@pytest.fixture(autouse=True)
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Runs the driver's rounds with fakes: ``play(store, experiment, rounds)``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    base = fakes.make_base(tmp_path / "base", 2)
    yield driven(monkeypatch, base, Trainer)


def whole(root: Path) -> set[str]:
    """The folders of rounds that hold whole models."""
    found = {p.parent.relative_to(root / "rounds") for p in root.rglob("*.json") if p.name in ("policy.json",)}
    found |= {p.parent.relative_to(root / "rounds") for p in root.rglob("master.safetensors")}
    found |= {p.parent.relative_to(root / "rounds") for p in root.rglob("reward.json")}
    return {str(path) for path in found}


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ("all", [f"00{t}/{what}" for t in (1, 2) for what in ("weights/model", "weights/master", "reward_model")]),
        ("last", ["002/weights/model", "002/weights/master"]),
        ("none", []),
    ],
)
def test_what_is_left_and_that_records_are_those_of_a_run_that_keeps_all(
    play: Any, tmp_path: Path, keep: str, left: list[str]
) -> None:
    everything = begun(tmp_path / "everything", small(*FULL, "store.keep=all"))
    play(everything, small(*FULL, "store.keep=all"))
    experiment = small(*FULL, f"store.keep={keep}")
    store = begun(tmp_path / "run", experiment)
    play(store, experiment)
    assert whole(store.root) == set(left)
    assert len(list(store.root.rglob("adapter.safetensors"))) == ROUNDS, "adapters stay"
    assert records_of(store.root) == records_of(everything.root)
    for ours, theirs in zip(store.committed(), everything.committed(), strict=True):
        assert ours.files == theirs.files, "hashes and sizes stay"
        assert all((store.folder(ours.round, ours.phase) / n).exists() != (n in ours.deleted) for n in ours.files)
    everything.close()
    store.close()
    # no reader takes it for damage
    for thorough in (False, True):
        again, _ = Store.open(store.root, thorough=thorough)
        again.close()
    if keep == "none":
        assert "finished before" in scpl("run", "--resume", "run", "--verify")
        assert "report.html written" in scpl("report", "run", "--output", "out")


def scpl(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_in_every_round_what_the_next_one_needs_is_there(play: Any, tmp_path: Path) -> None:
    for rounds in range(ROUNDS):
        experiment = small(*FULL, "store.keep=none")
        store = begun(tmp_path / f"run{rounds}", experiment)
        play(store, experiment, rounds)
        kept = {f"00{rounds}/weights/model", f"00{rounds}/weights/master"} if rounds else set()
        assert whole(store.root) == kept
        store.close()
        again, _ = Store.open(store.root, thorough=True)
        play(again, experiment)
        assert whole(store.root) == set()
        again.close()


@pytest.mark.parametrize("said", [False, True])
def test_a_process_that_died_while_it_deleted_is_caught_up_with(
    play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bool
) -> None:
    """Before or after the manifest said what is deleted."""
    experiment = small(*FULL)
    store = begun(tmp_path / "run", experiment)

    def killed(store: Store, manifest: Manifest, names: set[str]) -> None:
        if said:
            manifests.write(store.root, dataclasses.replace(manifest, deleted=tuple(sorted(names))))
        raise fakes.Killed

    with monkeypatch.context() as patched, pytest.raises(fakes.Killed):
        patched.setattr(Store, "delete", killed)
        play(store, experiment)
    store.close()
    assert "001/reward_model" in whole(store.root)
    again, _ = Store.open(store.root, thorough=True)
    play(again, experiment)
    again.close()
    assert whole(store.root) == {"002/weights/model", "002/weights/master"}


def test_a_run_that_keeps_nothing_cannot_be_made_longer_and_says_so(play: Any, tmp_path: Path) -> None:
    experiment = small(*FULL, "store.keep=none")
    store = begun(tmp_path / "run", experiment)
    play(store, experiment)
    store.close()
    refused = scpl("run", "--resume", "run", "loop.rounds=6", code=2)
    assert (
        "round 3 starts from the policy of round 2, whose weights were deleted" in refused
        and "store.keep=last" in refused
    )
    assert Reader.open(store.root)[1].loop.rounds == ROUNDS


@pytest.mark.parametrize(
    ("round_", "phase", "kind", "redone"),
    [
        (1, "queries", "incremental", True),
        (1, "completions", "incremental", False),
        (1, "scores", "retraining", False),
        (2, "completions", "retraining", False),
        (2, "scores", "retraining", False),
        (2, "selection", "retraining", True),
        (2, "selection", "incremental", False),
        (2, "evaluation", "retraining", False),
        (2, "feedback", "retraining", False),
    ],
)
def test_damage_is_advised_to_be_done_again_only_where_the_models_for_it_are_left(
    play: Any, tmp_path: Path, round_: int, phase: str, kind: str, redone: bool
) -> None:
    experiment = small(*FULL, f"loop.kind={kind}", "loop.rounds=3")
    store = begun(tmp_path / "run", experiment)
    play(store, experiment)
    files = store.manifest(round_, phase).files  # type: ignore[union-attr]
    store.close()
    path = store.folder(round_, phase) / next(iter(files))
    kept = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(StoreError) as damaged:
        Store.open(store.root)
    path.write_bytes(kept)
    again, _ = Store.open(store.root)
    marker = again.folder(round_, phase) / "manifest.json"
    marker.rename(tmp_path / "manifest.json")
    with pytest.raises(StoreError) as missing, again.phase(round_, phase):
        pass
    (tmp_path / "manifest.json").rename(marker)
    again.close()
    for told in (str(damaged.value), str(missing.value)):
        assert "restore" in told
        assert (f"remove rounds/00{round_}/{phase} and every later phase" in told) == redone
        assert ("begin a new run" in told and "store.keep = last" in told) != redone


def test_phases_that_were_removed_and_cannot_be_done_again_are_named_with_the_reason(play: Any, tmp_path: Path) -> None:
    experiment = small(*FULL, "loop.kind=incremental", "loop.rounds=3")
    store = begun(tmp_path / "run", experiment)
    play(store, experiment)
    store.close()
    (tmp_path / "run/summary.json").unlink()
    removed = ("evaluation", "feedback", "weights", "dataset")
    for round_, phases in ((3, PHASES), (2, removed)):
        for phase in phases:
            (store.folder(round_, phase) / "manifest.json").unlink(missing_ok=True)
    told = scpl("run", "--resume", "run", code=2)
    told = " ".join(told.replace("│", " ").split())
    assert "rounds/002/dataset and what followed are missing" in told and "store.keep = last" in told
    assert "policy of round 1 was deleted" in told and "store.keep = none" not in told


def test_what_is_left_of_a_run_goes_on_where_only_the_last_phase_is_missing(play: Any, tmp_path: Path) -> None:
    experiment = small(*FULL, "store.keep=none")
    store = begun(tmp_path / "run", experiment)
    play(store, experiment)
    (store.folder(ROUNDS, "feedback") / "manifest.json").unlink()
    retention.check_start(store, experiment, experiment)
    (store.folder(ROUNDS, "evaluation") / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"002/evaluation .* cannot be done again, because the policy of round 2"):
        retention.check_start(store, experiment, experiment)
    store.close()


def test_a_deleted_file_that_is_no_file_of_the_phase_is_a_damaged_manifest(play: Any, tmp_path: Path) -> None:
    store = begun(tmp_path / "run", small(*FULL))
    marker = store.folder(0, "base") / "manifest.json"
    for deleted in (["../../../run.json"], "base.json", 3, [["base.json"]], {"a": 1}):
        marker.write_text(json.dumps({**json.loads(marker.read_text()), "deleted": deleted}))
        assert store.manifest(0, "base") is None
    store.close()


def test_a_file_is_trusted_by_size_and_time_and_hashed_otherwise(
    play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small(*FULL, "loop.rounds=1")
    store = begun(tmp_path / "run", experiment)
    play(store, experiment)
    store.close()
    hashed: list[int] = []
    digest = manifests.hashlib.file_digest

    def counted(file: Any, name: str) -> Any:
        hashed.append(1)
        return digest(file, name)

    monkeypatch.setattr(manifests.hashlib, "file_digest", counted)
    Store.open(store.root)[0].close()
    assert hashed == []
    Store.open(store.root, thorough=True)[0].close()
    files = len(hashed)
    assert files > 10
    # a copy without times is hashed once
    for path in store.root.rglob("rounds/**/*"):
        os.utime(path)
    hashed.clear()
    Store.open(store.root)[0].close()
    assert len(hashed) == files
    hashed.clear()
    Store.open(store.root)[0].close()
    assert hashed == []
    # other bytes of the same size: seen by their time; with the old time only if everything is hashed
    path = store.root / "rounds/001/completions/completions.parquet"
    before, data = path.stat(), bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"completions.parquet was changed .* later phases"):
        Store.open(store.root)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    Store.open(store.root)[0].close()
    assert "completions.parquet was changed" in scpl("run", "--resume", "run", "--verify", code=2)
    with pytest.raises(StoreError):
        resuming.reopen("run", [], thorough=True)
    assert "--verify: compares" in scpl("run", "--verify", code=2)


def test_a_write_right_after_the_commit_is_seen(tmp_path: Path) -> None:
    """The clock of a file system ticks every few milliseconds; a commit gives its files a time between two ticks."""
    store = begun(tmp_path / "run", small(*FULL))
    path = store.folder(0, "base") / "base.json"
    path.write_bytes(bytes(path.stat().st_size))
    manifest = store.manifest(0, "base")
    assert manifest is not None and manifests.damage(store.root, manifest) is not None
    store.close()


def test_only_whole_models_are_heavy() -> None:
    files = {"adapter/a": {}, "model/deep/m": {}, "master/m": {}, "modelling.json": {}}
    assert list(retention.heavy(Manifest(1, "weights", 0.0, 0.0, files, {}))) == ["model/deep/m", "master/m"]


def test_a_run_that_is_extended_is_not_finished_by_the_summary_of_fewer_rounds(
    play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = small(*FULL), small(*FULL, f"loop.rounds={ROUNDS + 1}")
    store = begun(tmp_path / "run", before)
    play(store, before)
    assert resuming.is_finished(store, before) and state(store, before) == "finished"
    store.extend(after)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "finish", killed)
        play(store, after)
    assert store.manifest(ROUNDS + 1, "evaluation") is not None
    assert not resuming.is_finished(store, after) and not scpl_ray.read("run").finished
    play(store, after)
    assert resuming.is_finished(store, after) and scpl_ray.read("run").finished
    store.close()
    assert state(Reader.open(store.root)[0], after) == "finished"


def test_a_run_whose_last_hook_failed_is_resumed_and_calls_it_again(play: Any, tmp_path: Path) -> None:
    experiment = small(*FULL)
    store = begun(tmp_path / "run", experiment)

    def fails(done: Any) -> None:
        if done.round == ROUNDS:
            raise OSError("no upload")

    with pytest.raises(OSError, match="no upload"):
        play(store, experiment, None, fails)
    assert not resuming.is_finished(store, experiment)
    told: list[tuple[int, bool]] = []
    play(store, experiment, None, lambda done: told.append((done.round, done.from_disk)))
    assert told == [(t, True) for t in range(ROUNDS + 1)] and resuming.is_finished(store, experiment)
    store.close()
