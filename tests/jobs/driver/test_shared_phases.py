"""Trials of one study take over what another one has done alike, and nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from jobs.driver import run, tuning
from jobs.driver.alike import Beginnings
from jobs.driver.dry_run import check_trials
from jobs.driver.shared_phases import INDEX, SHARED, SharingStore, files_read, unread
from jobs.driver.tuning import in_order
from scpl_ray.config import Experiment
from scpl_ray.config.errors import all_keys
from scpl_ray.protocols import TrainingJob, TrainingResult
from scpl_ray.report.seconds import TAKEN_FROM, phase_seconds
from scpl_ray.storage.manifests import MANIFEST
from scpl_ray.storage.run_directory import PHASES, Store
from scpl_ray.studies.study import Trial
from tests.support import fakes
from tests.support.configs import defaults
from tests.support.loops import driven, records_of, small

KEYS = ["loop.rounds=2", "queries.prompts_per_round=20", "evaluation.neutral_prompts=10"]


class Trainer(fakes.FakeTrainer):
    """Writes a whole model, which is deleted after the next round, beside what always stays."""

    def train(self, job: TrainingJob) -> TrainingResult:
        result = super().train(job)
        (job.output / "master").mkdir()
        (job.output / "master" / "weights.bin").write_bytes(bytes(100 + job.round))
        return result


Play = Callable[[Path, Experiment, Path | None], dict[str, bytes]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Play:
    """Plays a run in a folder as the driver does; with a study, it shares phases with the other runs there."""
    go = driven(monkeypatch, fakes.make_base(tmp_path / "base", 2), Trainer)

    def played(root: Path, experiment: Experiment, study: Path | None) -> dict[str, bytes]:
        if study is None:
            store: Store = Store.create(root, experiment, {})
        else:
            sharing = SharingStore.create(root, experiment, {})
            sharing.share(study, experiment)
            store = sharing
        with store.phase(0, "base") as phase:
            phase.write_json("base", {})
            phase.write_json("inputs", {})
        go(store, experiment)
        store.close()
        return records_of(root)

    return played


def taken(root: Path) -> dict[tuple[int, str], str]:
    """The phases that a run has taken over, and from where."""
    found = {}
    for file in sorted(root.glob(f"rounds/*/*/{MANIFEST}")):
        manifest = json.loads(file.read_bytes())
        if TAKEN_FROM in manifest["facts"]:
            found[manifest["round"], manifest["phase"]] = manifest["facts"][TAKEN_FROM]
    return found


def test_whole_weights_of_bfloat16_are_not_taken_over_by_a_loop_that_goes_on_from_them() -> None:
    for keys, alike in (
        (["model.lora=null", "model.dtype=bfloat16"], False),
        (["model.lora=null", "model.dtype=float32"], True),
        (["model.dtype=bfloat16"], True),
    ):
        assert ("loop" in unread("weights", 1, defaults(keys))) == alike
        assert "loop" not in unread("weights", 2, defaults(keys))


FIRST = {(0, "evaluation")} | {(1, phase) for phase in SHARED}
UP_TO_SCORES = {(0, "evaluation"), (1, "reward_model"), (1, "completions"), (1, "scores")}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["feedback.rule=static"], FIRST),
        (["feedback.beta=4.0", "feedback.measure=own_kind"], FIRST),
        (["selection.strategy=top"], UP_TO_SCORES),
        (["selection.strategy=reweight"], {(1, "reward_model")}),
        (["cycle.kind=accumulate", "training.learning_rate=0.01"], UP_TO_SCORES),
        (["cycle.kind=accumulate", "loop.kind=retraining"], FIRST - {(1, "dataset")}),
        (["reward.choices_per_round=100"], set()),
        (["queries.prompts_per_round=30"], {(0, "evaluation"), (1, "reward_model")}),
        (["groups.shares=[0.8, 0.2]"], set()),
        # in whole users the shares of round 1 are others
        (["feedback.rule=retention", "feedback.agents=true", "feedback.users=7"], set()),
        (["feedback.floor=0.2"], FIRST),
        (["seed=7"], set()),
        (["generation.replicas=2", "reward.replicas=2", "name=other"], None),
    ],
)  # fmt: skip
def test_the_records_are_those_of_a_run_alone(
    play: Play, keys: list[str], expected: set[tuple[int, str]] | None, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    (study / "runs").mkdir(parents=True)
    play(study / "runs/one/seed-000", small(*KEYS), study)
    other = small(*KEYS, *keys)
    shared = play(study / "runs/two/seed-000", other, study)
    assert shared == play(tmp_path / "alone/runs/two/seed-000", other, None)
    found = taken(study / "runs/two/seed-000")
    assert set(found.values()) <= {"runs/one/seed-000"}
    if expected is None:  # keys that change no record: everything but the users' state is taken over
        assert {phase for _, phase in found} == set(SHARED) and len(found) == 1 + 2 * len(SHARED)
    else:
        # what differs may come out alike by chance, and is then alike
        assert expected <= set(found) or expected == set() == set(found)
        assert (
            all(round_ <= 1 or phase == "reward_model" or phase == "selection" for round_, phase in found) or expected
        )


def test_arms_whose_users_move_alike_share_their_reward_models_in_every_round(play: Play, tmp_path: Path) -> None:
    study = tmp_path / "study"
    (study / "runs").mkdir(parents=True)
    play(study / "runs/one/seed-000", small(*KEYS, "feedback.rule=static"), study)
    play(study / "runs/two/seed-000", small(*KEYS, "feedback.rule=static", "loop.kind=retraining"), study)
    play(study / "runs/three/seed-000", small(*KEYS, "feedback.rule=static", "selection.strategy=reweight"), study)
    for arm in ("two", "three"):
        fits = {round_ for round_, phase in taken(study / f"runs/{arm}/seed-000") if phase == "reward_model"}
        assert fits == {1, 2}


def test_completions_are_shared_only_where_training_can_use_as_few_of_a_prompt(play: Play, tmp_path: Path) -> None:
    study = tmp_path / "study"
    (study / "runs").mkdir(parents=True)
    steered = [*KEYS, "selection.strategy=reweight", "generation.samples_per_prompt=3", "loop.rounds=1"]
    play(study / "runs/one/seed-000", small(*steered), study)
    for arm, keys, alike in (("two", "training.objective=dpo", False), ("three", "training.epochs=2", True)):
        shared = play(study / f"runs/{arm}/seed-000", small(*steered, keys), study)
        assert shared == play(tmp_path / f"alone/runs/{arm}/seed-000", small(*steered, keys), None)
        found = taken(study / f"runs/{arm}/seed-000")
        assert (0, "evaluation") in found and ((1, "completions") in found) == alike


def test_a_changed_or_missing_file_of_another_run_is_never_taken(play: Play, tmp_path: Path) -> None:
    study = tmp_path / "study"
    (study / "runs").mkdir(parents=True)
    one = study / "runs/one/seed-000"
    play(one, small(*KEYS), study)
    (one / "rounds/000/evaluation/metrics.parquet").write_bytes(b"changed")
    (one / "rounds/001/completions/completions.parquet").unlink()
    other = small(*KEYS, "feedback.rule=static")
    assert play(study / "runs/two/seed-000", other, study) == play(tmp_path / "alone/runs/two/seed-000", other, None)
    found = taken(study / "runs/two/seed-000")
    assert (0, "evaluation") not in found and (1, "completions") not in found and (1, "reward_model") in found


def test_a_note_that_leads_out_of_the_study_is_not_followed(play: Play, tmp_path: Path) -> None:
    study = tmp_path / "study"
    (study / "runs").mkdir(parents=True)
    play(study / "runs/one/seed-000", small(*KEYS), study)
    for note in (study / INDEX).glob("*.json"):
        note.write_text(json.dumps({"run": "../elsewhere", "round": 0}))
    play(study / "runs/two/seed-000", small(*KEYS, "feedback.rule=static"), study)
    assert taken(study / "runs/two/seed-000") == {}


def test_training_of_which_the_user_is_told_is_never_taken_over(play: Play, tmp_path: Path) -> None:
    study, own = tmp_path / "study", tmp_path / "told.py"
    (study / "runs").mkdir(parents=True)
    own.write_text("def step(done):\n    return None\n")
    keys = [*KEYS, f"training.callback={own}:step"]
    play(study / "runs/one/seed-000", small(*keys), study)
    play(study / "runs/two/seed-000", small(*keys, "feedback.rule=static"), study)
    found = taken(study / "runs/two/seed-000")
    assert (1, "dataset") in found and (1, "evaluation") in found and (1, "weights") not in found


def test_what_was_taken_over_is_in_no_seconds(play: Play, tmp_path: Path) -> None:
    study = tmp_path / "study"
    (study / "runs").mkdir(parents=True)
    experiment = small(*KEYS)
    play(study / "runs/one/seed-000", experiment, study)
    play(study / "runs/two/seed-000", small(*KEYS, "feedback.rule=static"), study)
    root = study / "runs/two/seed-000"
    times = {row.phase: row.times for row in phase_seconds([(Store.open(root)[0], experiment)])}
    assert (times["weights"], times["evaluation"], times["queries"]) == (1, 1, 2)


def test_only_keys_that_exist_are_listed_as_unread() -> None:
    known = {key for key, _, _ in all_keys(Experiment)}
    known |= {key.split(".")[0] for key in known}
    for phase in SHARED:
        for keys in ([], ["selection.strategy=reweight"]):
            assert set(unread(phase, 1, small(*keys))) <= known
        assert {before for _, before, _ in files_read(phase, 2)} <= set(PHASES[: PHASES.index(phase)]) | {
            "weights", "evaluation", "selection",
        }  # fmt: skip


def test_trials_at_the_same_time_have_different_seeds() -> None:
    experiment = small()
    trials = [Trial(arm, (), seed, experiment) for seed in range(4) for arm in ("a", "b", "c")]
    ordered = [(trial.seed, trial.arm) for trial in in_order(trials, 2)]
    assert ordered[:6] == [(0, "a"), (1, "a"), (0, "b"), (1, "b"), (0, "c"), (1, "c")]
    assert [trial.seed for trial in in_order(trials, 1)] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    other = small("training.epochs=2")
    mixed = [Trial(arm, (), 0, other if arm == "b" else experiment) for arm in ("a", "b", "c")]
    assert [trial.arm for trial in in_order(mixed, 1)] == ["a", "c", "b"]


def test_trials_of_a_task_of_ones_own_are_in_the_same_order(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def build(experiment):\n    return experiment.seed\n")
    own = small(f"task.name={tmp_path}/mine.py:build")
    trials = [Trial(arm, (), s, own.model_copy(update={"seed": s})) for s in range(4) for arm in ("a", "b")]
    assert [(trial.seed, trial.arm) for trial in in_order(trials, 2)][:4] == [(0, "a"), (1, "a"), (0, "b"), (1, "b")]


def test_every_set_up_is_checked_before_a_study_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Arms that differ in selection alone, which decides how many held-out prompts the data must have."""
    seen: list[str] = []
    monkeypatch.setattr(run, "steering_prompts", lambda experiment, *_: seen.append(experiment.selection.strategy))
    monkeypatch.setattr(tuning, "base_model", lambda *_: tmp_path)
    trials = [
        Trial(strategy, (), seed, small(f"selection.strategy={strategy}", f"seed={seed}"))
        for seed in (0, 1)
        for strategy in ("vrs", "reweight", "top")
    ]
    assert len(tuning.prepare(trials, Console(quiet=True), Beginnings())) == 6
    assert seen == ["vrs", "reweight", "top"]
    seen.clear()
    check_trials(trials, with_tasks=True)
    assert sorted(seen) == ["reweight", "top", "vrs"]


def test_what_other_own_code_made_is_not_taken_over(play: Play, tmp_path: Path) -> None:
    study, own = tmp_path / "study", tmp_path / "own.py"
    (study / "runs").mkdir(parents=True)
    source = "def first(candidates, *, selection, chance):\n    return list(range(len(chance) // {}))\n"
    keys = [f"selection.function={own}:first", "loop.rounds=1"]
    own.write_text(source.format(2))
    play(study / "runs/one/seed-000", small(*KEYS, *keys), study)
    assert play(study / "runs/two/seed-000", small(*KEYS, *keys, "feedback.rule=static"), study)
    assert (1, "selection") in taken(study / "runs/two/seed-000")
    own.write_text(source.format(3))
    play(study / "runs/three/seed-000", small(*KEYS, *keys, "feedback.beta=4.0"), study)
    assert (1, "selection") not in taken(study / "runs/three/seed-000")


@pytest.mark.parametrize("key", ["queries.prompts_per_round=30", "loop.kind=retraining", "feedback.rule=static"])
def test_phases_of_a_task_of_ones_own_are_shared_only_where_it_was_built_from_the_same_keys(
    play: Play, key: str, tmp_path: Path
) -> None:
    study, own = tmp_path / "study", tmp_path / "reader.py"
    (study / "runs").mkdir(parents=True)
    own.write_text("def build(experiment):\n    return experiment\n")
    keys = [*KEYS, "loop.rounds=1", f"task.name={own}:build"]
    play(study / "runs/one/seed-000", small(*keys), study)
    play(study / "runs/two/seed-000", small(*keys, key), study)
    assert taken(study / "runs/two/seed-000") == {}
    play(study / "runs/three/seed-000", small(*keys, "generation.replicas=2", "name=other"), study)
    assert {phase for _, phase in taken(study / "runs/three/seed-000")} == set(SHARED)


def test_what_was_made_under_other_packages_is_not_taken_over(play: Play, tmp_path: Path) -> None:
    """The second trial began under the packages of the first, and goes on under others."""
    study = tmp_path / "study"
    (study / "runs").mkdir(parents=True)
    play(study / "runs/one/seed-000", small(*KEYS), study)
    experiment = small(*KEYS, "feedback.rule=static")
    for later in ([], [{"from_round": 0, "versions": {"ray": "9"}}]):
        store = SharingStore.create(study / f"runs/two/seed-00{len(later)}", experiment, {})
        store.share(study, experiment)
        with store.phase(0, "base") as phase:
            phase.write_json("base", {})
            phase.write_json("inputs", {})
        (store.root / "versions.json").write_text(json.dumps(later))
        assert (store.manifest(0, "evaluation") is None) == bool(later)
        store.close()
