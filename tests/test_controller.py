"""The loop with fakes: milliseconds a run."""

import dataclasses
import gc
import itertools
import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from scpl_ray.records import Completion, Example, Metric, Query, Score, Weights
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import sha256
from scpl_ray.storage.run_directory import PHASES, Store
from tests.support import fakes
from tests.support.loops import Silent, loop, records_of, run, small


def value(rows: Sequence[Metric], round_: int, metric: str, group: str | None = None) -> float:
    (found,) = [r.value for r in rows if (r.round, r.metric, r.group) == (round_, metric, group)]
    return found


def test_a_round_commits_its_phases_in_order(tmp_path: Path) -> None:
    experiment = small("loop.rounds=1")
    progress = Silent()
    store = Store.create(tmp_path / "run", experiment, {})
    loop(store, experiment, fakes.make_base(tmp_path / "base", 2), progress=progress).run()
    assert progress.phases == [(0, "evaluation")] + [(1, phase) for phase in PHASES if phase != "base"]


@pytest.mark.parametrize("kind", ["retraining", "incremental"])
@pytest.mark.parametrize("strategy", ["none", "random", "vrs", "tpp", "top", "best_of_n", "quotas", "reweight"])
def test_the_same_seed_gives_the_same_bytes_whatever_the_chunks(tmp_path: Path, kind: str, strategy: str) -> None:
    experiment = small(f"loop.kind={kind}", f"selection.strategy={strategy}", "loop.rounds=2")
    first = run(tmp_path / "a", experiment)
    assert first == run(tmp_path / "b", experiment, chunk=3)
    other = small(f"loop.kind={kind}", f"selection.strategy={strategy}", "loop.rounds=2", "seed=1")
    assert first != run(tmp_path / "c", other)


def test_a_clock_that_goes_backwards_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(tmp_path / "forwards", small())
    hours = itertools.count(10**9, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(hours)))
    assert run(tmp_path / "backwards", small()) == expected
    store, _ = Store.open(tmp_path / "backwards")
    phases = list(store.committed())
    assert [m.committed_at for m in phases] == sorted((m.committed_at for m in phases), reverse=True)
    assert min(m.seconds for m in phases) >= 0.0
    store.close()


def test_retraining_starts_from_the_base_and_incremental_from_the_last_policy(tmp_path: Path) -> None:
    for kind, versions in (("retraining", [0, 0, 0]), ("incremental", [0, 1, 2])):
        experiment = small(f"loop.kind={kind}")
        store = Store.create(tmp_path / kind, experiment, {})
        base = fakes.make_base(tmp_path / f"base {kind}", 2)
        it = loop(store, experiment, base)
        starts: list[int] = []
        train = it.engines.trainer.train

        def spy(job, train=train, starts=starts):  # type: ignore[no-untyped-def]
            starts.append(job.start.policy_version)
            return train(job)

        it.engines.trainer.train = spy  # type: ignore[method-assign]
        it.run()
        assert starts == versions
        store.close()


def test_completions_are_stamped_with_the_policy_that_wrote_them(tmp_path: Path) -> None:
    experiment = small()
    run(tmp_path / "run", experiment)
    store, _ = Store.open(tmp_path / "run")
    for t in (1, 2, 3):
        assert {c.policy_version for c in store.read(t, "completions", "completions", Completion)} == {t - 1}
        assert {c.policy_version for c in store.read(t, "evaluation", "completions", Completion)} == {t}
    store.close()


def test_evaluation_prompts_and_seeds_are_the_same_every_round(tmp_path: Path) -> None:
    run(tmp_path / "run", small())
    store, _ = Store.open(tmp_path / "run")
    keys = [
        [(c.query_id, c.sample_index, c.seed) for c in store.read(t, "evaluation", "completions", Completion)]
        for t in range(4)
    ]
    assert keys[0] == keys[1] == keys[2] == keys[3]
    store.close()


def test_static_shares_stay_and_softmax_shares_move(tmp_path: Path) -> None:
    rows, _ = run(tmp_path / "static", small("feedback.rule=static"))
    assert [value(rows, t, "share", "north") for t in range(4)] == pytest.approx([0.6] * 4)
    rows, _ = run(tmp_path / "softmax", small("feedback.rule=softmax"))
    assert value(rows, 1, "share", "north") == pytest.approx(0.6)
    assert value(rows, 2, "share", "north") != pytest.approx(0.6)


def test_choice_by_a_majority_pulls_the_kinds_to_it(tmp_path: Path) -> None:
    """Users choose their own kind, the reward model learns from them, selection follows it (Wang et al. 2026)."""
    rows, _ = run(tmp_path / "run", small("selection.strategy=top", "feedback.rule=static", "loop.rounds=4"))
    assert value(rows, 4, "preference_log_odds_balanced") > value(rows, 0, "preference_log_odds_balanced") + 0.5


def test_accumulate_trains_on_all_rounds_and_real_data_is_added(tmp_path: Path) -> None:
    run(tmp_path / "run", small("cycle.kind=accumulate", "cycle.real_share=0.25"))
    store, _ = Store.open(tmp_path / "run")
    examples = store.read(3, "dataset", "dataset", Example)
    assert {e.origin for e in examples} == {"round 1", "round 2", "round 3", "real"}
    assert sum(e.origin == "real" for e in examples) / len(examples) == pytest.approx(0.25, abs=0.01)
    store.close()


def test_reused_prompts_are_those_of_the_first_round(tmp_path: Path) -> None:
    run(tmp_path / "run", small("queries.prompts=reused"))
    store, _ = Store.open(tmp_path / "run")
    asked = [{q.prompt for q in store.read(t, "queries", "queries", Query)} for t in (1, 2, 3)]
    assert asked[0] >= asked[1] and asked[0] >= asked[2]
    store.close()


@pytest.mark.parametrize(
    ("rule", "strategy"), [("best_worst", "none"), ("accepted_rejected", "tpp"), ("accepted_rejected", "reweight")]
)
def test_dpo_trains_on_pairs_of_one_prompt_through_every_phase(tmp_path: Path, rule: str, strategy: str) -> None:
    experiment = small(
        "training.objective=dpo",
        f"training.dpo_pairs={rule}",
        f"selection.strategy={strategy}",
        "cycle.kind=accumulate",
        "loop.rounds=2",
    )
    first = run(tmp_path / "a", experiment)
    assert first == run(tmp_path / "b", experiment, chunk=3)
    store, _ = Store.open(tmp_path / "a")
    for t in (1, 2):
        answers = {c.completion_id: c for c in store.read(t, "completions", "completions", Completion)}
        rewards = {s.completion_id: s.reward for s in store.read(t, "scores", "scores", Score)}
        reward_of = {(answers[i].query_id, answers[i].token_ids): reward for i, reward in rewards.items()}
        kept = store.read(t, "selection", "kept", Example)
        for example in kept:
            query = answers[example.example_id].query_id
            assert example.rejected_token_ids is not None
            worse = reward_of[query, example.rejected_token_ids]
            assert rewards[example.example_id] != worse
            assert rewards[example.example_id] > worse
        manifest = store.manifest(t, "selection")
        assert manifest is not None and manifest.facts["kept"] == len(kept)
        left_out = manifest.facts["pairs_left_out"]
        assert sum(left_out.values()) > 0 and manifest.facts["pairs_inverted"] == 0
        assert strategy != "reweight" or manifest.facts["shares_after"] == pytest.approx([0.5, 0.5])
        assert strategy != "tpp" or len(kept) + sum(left_out.values()) == 40
    dataset = store.read(2, "dataset", "dataset", Example)
    assert {e.origin for e in dataset} == {"round 1", "round 2"}
    assert all(e.rejected_token_ids for e in dataset)
    assert sum(e.weight for e in dataset) / len(dataset) == pytest.approx(1.0)
    store.close()


def test_reweighting_leaves_two_answers_to_every_prompt_of_which_pairs_are_made(tmp_path: Path) -> None:
    """A group that was served well got one answer per prompt, of which no pair can be made, and the run stopped."""
    run(
        tmp_path / "run",
        small("training.objective=dpo", "selection.strategy=reweight", "generation.samples_per_prompt=2"),
    )
    store, _ = Store.open(tmp_path / "run")
    for t in (1, 2):
        answered = Counter(c.query_id for c in store.read(t, "completions", "completions", Completion))
        assert set(answered.values()) == {2}
    store.close()


def test_without_dpo_no_example_has_a_rejected_answer(tmp_path: Path) -> None:
    run(tmp_path / "run", small("loop.rounds=1", "cycle.real_share=0.25"))
    store, _ = Store.open(tmp_path / "run")
    assert {e.rejected_token_ids for e in store.read(1, "dataset", "dataset", Example)} == {None}
    store.close()


def test_perplexity_under_the_policy_itself_falls_as_it_collapses(tmp_path: Path) -> None:
    rows, _ = run(tmp_path / "run", small("selection.strategy=top", "feedback.rule=static", "loop.rounds=4"))
    assert value(rows, 0, "perplexity_current") == value(rows, 0, "perplexity_round0") == pytest.approx(2.0)
    assert value(rows, 4, "perplexity_round0") == pytest.approx(2.0)
    assert value(rows, 4, "perplexity_current") < 1.8


def test_k_groups(tmp_path: Path) -> None:
    rows, _ = run(tmp_path / "run", small("groups.names=[a, b, c, d]", "groups.shares=[0.4, 0.3, 0.2, 0.1]"))
    assert sum(value(rows, 3, "share", g) for g in "abcd") == pytest.approx(1)
    assert sum(value(rows, 3, "kind_share", g) for g in "abcd") == pytest.approx(1)


@pytest.mark.parametrize("phase", [p for p in PHASES if p != "base"])
@pytest.mark.parametrize("round_", [1, 2])
def test_killed_in_any_phase_and_resumed_the_records_are_the_same(tmp_path: Path, phase: str, round_: int) -> None:
    experiment = small("loop.rounds=2", "cycle.kind=accumulate")
    undisturbed = run(tmp_path / "whole", experiment)
    store = Store.create(tmp_path / "killed", experiment, {})
    real_phase = store.phase

    def killing(t: int, name: str):  # type: ignore[no-untyped-def]
        if (t, name) == (round_, phase):
            (store.folder(t, name)).mkdir(parents=True, exist_ok=True)
            (store.folder(t, name) / ".half.tmp").write_text("torn")
            raise fakes.Killed
        return real_phase(t, name)

    store.phase = killing  # type: ignore[method-assign]
    with pytest.raises(fakes.Killed):
        loop(store, experiment, tmp_path / "base").run()
    store.close()
    again, same = Store.open(tmp_path / "killed")
    assert same == experiment
    rows = loop(again, same, tmp_path / "base").run()
    again.close()
    assert (rows, records_of(tmp_path / "killed")) == undisturbed
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def test_killed_between_chunks_and_resumed(tmp_path: Path) -> None:
    experiment = small("loop.rounds=2")
    undisturbed = run(tmp_path / "whole", experiment)
    store = Store.create(tmp_path / "killed", experiment, {})
    it = loop(store, experiment, tmp_path / "base")
    it.evaluation(0)
    it.engines.generator.kill_after_chunks = 2  # type: ignore[attr-defined]
    with pytest.raises(fakes.Killed):
        it.round(1)
    store.close()
    again, _ = Store.open(tmp_path / "killed")
    rows = loop(again, experiment, tmp_path / "base").run()
    again.close()
    assert (rows, records_of(tmp_path / "killed")) == undisturbed


def test_a_finished_run_is_read_and_nothing_is_done_again(tmp_path: Path) -> None:
    experiment = small()
    rows, _ = run(tmp_path / "run", experiment)
    store, _ = Store.open(tmp_path / "run")
    progress = Silent()
    assert loop(store, experiment, tmp_path / "base", progress=progress).run() == rows
    assert progress.phases == []
    store.close()


def test_more_rounds_can_be_added_to_a_finished_run(tmp_path: Path) -> None:
    short, long = small("loop.rounds=2"), small("loop.rounds=3")
    run(tmp_path / "run", short)
    store, _ = Store.open(tmp_path / "run")
    rows = loop(store, long, tmp_path / "base").run()
    store.close()
    assert (rows, records_of(tmp_path / "run")) == run(tmp_path / "long", long)


def test_a_phase_removed_below_others_is_refused(tmp_path: Path) -> None:
    experiment = small()
    run(tmp_path / "run", experiment)
    shutil.rmtree(tmp_path / "run" / "rounds" / "001" / "weights")
    store, _ = Store.open(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "rounds" / "001" / "feedback")
    with pytest.raises(StoreError, match="weights is missing"):
        loop(store, experiment, tmp_path / "base").run()
    store.close()


def test_lost_or_doubled_completions_are_an_error(tmp_path: Path) -> None:
    experiment = small()
    store = Store.create(tmp_path / "run", experiment, {})
    it = loop(store, experiment, fakes.make_base(tmp_path / "base", 2))
    stream = it.engines.generator.stream

    def losing(*a, **k):  # type: ignore[no-untyped-def]
        chunks = list(stream(*a, **k))
        yield from chunks[:-1]

    it.engines.generator.stream = losing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"missing, first"):
        it.run()
    store.close()


def test_a_given_reward_model_is_used_and_rule_terms_need_none(tmp_path: Path) -> None:
    given = tmp_path / "reward"
    given.mkdir()
    (given / "reward.json").write_text("[0.0, 5.0, 0.0, 0.0]")
    rows, _ = run(tmp_path / "a", small(f"reward.model={given}", "selection.strategy=top", "feedback.rule=static"))
    assert value(rows, 3, "preference_log_odds_balanced") < -0.5
    assert not list((tmp_path / "a").rglob("reward_model"))
    run(tmp_path / "b", small("reward.terms={first: 1.0}"))
    assert not list((tmp_path / "b").rglob("reward_model"))


@pytest.mark.parametrize("shares", ["[0.6, 0.4]", "[0.92, 0.08]"])
def test_a_remedy_draws_as_many_completions_and_is_steered_by_prompts_of_its_own(tmp_path: Path, shares: str) -> None:
    settings = ("feedback.rule=static", f"groups.shares={shares}", "loop.rounds=2", "selection.beta=2.0")
    counts: dict[str, list[int]] = {}
    for strategy in ("vrs", "reweight"):
        rows, _ = run(tmp_path / strategy, small(f"selection.strategy={strategy}", *settings))
        store, _ = Store.open(tmp_path / strategy)
        counts[strategy] = [len(store.read(t, "completions", "completions", Completion)) for t in (1, 2)]
        evaluated = {q.query_id for q in store.read(1, "evaluation", "prompts", Query)}
        store.close()
        steered = {r.round for r in rows if r.metric == "steering_quality"}
        assert steered == ({0, 1, 2} if strategy == "reweight" else set())
    assert counts["vrs"] == counts["reweight"] == [160, 160]
    store, _ = Store.open(tmp_path / "reweight")
    asked = store.read(1, "evaluation", "steering_prompts", Query)
    store.close()
    assert {q.group for q in asked} == {"north", "south"} and evaluated.isdisjoint(q.query_id for q in asked)


@pytest.mark.parametrize("strategy", ["importance", "quotas", "calibrated", "reweight", "penalty"])
def test_kinds_that_were_written_meet_the_target(tmp_path: Path, strategy: str) -> None:
    """The fake generator writes the kinds in shares of its own, whoever asks, and the majority's choices select."""
    settings = ("feedback.rule=static", "loop.rounds=3", "selection.beta=2.0", "groups.shares=[0.7, 0.3]")
    ends = {}
    for target_of in ("groups", "kinds"):
        chosen = small(f"selection.strategy={strategy}", f"selection.target_of={target_of}", *settings)
        rows, _ = run(tmp_path / target_of, chosen)
        ends[target_of] = value(rows, 3, "kind_share", "north")
        store, _ = Store.open(tmp_path / target_of)
        manifest = store.manifest(2, "selection")
        store.close()
        assert manifest is not None and ("judgements.parquet" in manifest.files) == (target_of == "kinds")
        if target_of == "kinds" and strategy in ("importance", "quotas", "reweight"):
            assert manifest.facts["kinds_after"] == pytest.approx([0.5, 0.5], abs=0.03)
            assert manifest.facts["kinds_undecided"] == 0


def test_a_round_says_whose_the_loss_is(tmp_path: Path) -> None:
    rows, _ = run(tmp_path / "run", small("loop.rounds=1", "cycle.real_share=0.25", "selection.strategy=importance"))
    assert value(rows, 1, "loss_share_real") == pytest.approx(0.25, abs=0.005)
    assert sum(value(rows, 1, "loss_share", g) for g in ("north", "south")) == pytest.approx(1.0)
    # the fake task's first real rows are the north's
    assert value(rows, 1, "loss_share", "north") == pytest.approx(0.75 * 0.5 + 0.25, abs=0.005)
    store, _ = Store.open(tmp_path / "run")
    manifest = store.manifest(1, "dataset")
    store.close()
    assert manifest is not None and manifest.facts["loss_shares"]["origin"]["real"] == value(rows, 1, "loss_share_real")


def test_few_completions_are_records_at_one_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round of 100,000 prompts must fit the driver: its completions are tables, of which records are made in turn."""
    alive: list[int] = []

    class Counting(fakes.FakeScorer):
        def submit(self, queries: Sequence[Query], completions: Sequence[Completion]) -> None:
            super().submit(queries, completions)
            alive.append(sum(isinstance(one, Completion) for one in gc.get_objects()))

    monkeypatch.setattr(fakes, "FakeScorer", Counting)
    experiment = small("queries.prompts_per_round=250", "loop.rounds=1")
    gc.freeze()  # what there is already is not looked through
    try:
        run(tmp_path / "run", experiment)
    finally:
        gc.unfreeze()
    assert 0 < max(alive) < 250 + 200  # a piece of the round, and what the evaluation of round 0 may have left


def test_engines_read_a_policy_while_its_files_are_being_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No commit of a policy ends before an engine has begun to load it."""
    experiment = small("loop.rounds=2")
    store = Store.create(tmp_path / "run", experiment, {})
    it = loop(store, experiment, fakes.make_base(tmp_path / "base", 2))
    loaded = {t: threading.Event() for t in (0, 1, 2)}
    refresh = it.engines.generator.refresh

    def load(weights: Weights) -> None:
        loaded[weights.policy_version].set()
        refresh(weights)

    def hashed(path: Path) -> str:
        if "weights" in path.parts:
            assert loaded[int(path.parts[path.parts.index("rounds") + 1])].wait(10)
        return sha256(path)

    monkeypatch.setattr(it.engines.generator, "refresh", load)
    monkeypatch.setattr("scpl_ray.storage.run_directory.sha256", hashed)
    it.run()
    assert [m.phase for m in store.committed()].count("weights") == 2
    store.close()


def test_a_policy_that_cannot_be_served_stops_the_run_and_is_committed(tmp_path: Path) -> None:
    experiment = small("loop.rounds=1")
    store = Store.create(tmp_path / "run", experiment, {})
    it = loop(store, experiment, fakes.make_base(tmp_path / "base", 2))
    refresh = it.engines.generator.refresh

    def load(weights: Weights) -> None:
        if weights.policy_version:
            raise RuntimeError("the replicas disagree")
        refresh(weights)

    it.engines.generator.refresh = load  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="the replicas disagree"):
        it.run()
    assert store.manifest(1, "weights") is not None and store.manifest(1, "evaluation") is None
    store.close()


def as_an_older_version_wrote_it(root: Path) -> None:
    """Takes the columns that were added since out of the records of an evaluation, and commits it like that."""
    for folder in root.glob("rounds/*/evaluation"):
        manifest = json.loads((folder / "manifest.json").read_text())
        for name, added in (("metrics", ["low", "high"]), ("judgements", ["log_odds"])):
            path = folder / f"{name}.parquet"
            pq.write_table(pq.read_table(path, partitioning=None).drop_columns(added), path, compression="zstd")
            manifest["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_run_of_an_older_version_is_read_and_resumed(tmp_path: Path) -> None:
    longer, _ = run(tmp_path / "undisturbed", small("loop.rounds=2"))
    run(tmp_path / "run", small("loop.rounds=1"))
    as_an_older_version_wrote_it(tmp_path / "run")
    store, _ = Store.open(tmp_path / "run")
    rows = loop(store, small("loop.rounds=2"), tmp_path / "base").run()
    store.close()
    assert [dataclasses.replace(row, low=None, high=None) for row in longer] == [
        dataclasses.replace(row, low=None, high=None) for row in rows
    ]
    # what was written without bounds stays without, and the round that was done now has them, paired with round 0
    assert [row.low for row in rows if row.round < 2] == [None for row in rows if row.round < 2]
    assert [row for row in rows if row.round == 2] == [row for row in longer if row.round == 2]
    assert [row.metric for row in rows if row.metric == "preference_log_odds_round0" and row.low is not None]
