import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scpl_ray.config import Cycle, Experiment
from scpl_ray.config.presets import PRESETS, preset_overrides
from scpl_ray.records import Example
from scpl_ray.selection.cycles import CYCLES, compose, real_rows_needed
from tests.theory import cycle_theory


def example(name, origin="round 1", weight=1.0, kind=0):
    return Example(name, origin, None, (), (kind,), weight)


def kept(round_, n, weight=1.0):
    return [example(f"r{round_}-{i}", f"round {round_}", weight) for i in range(n)]


def real(count, seed):
    """Real rows of a seed: fewer are the first of more."""
    return [example(f"real-{seed}-{i}", "real") for i in range(count)]


def no_real(count, seed):
    raise AssertionError("no real rows were asked for")


def data(cycle, sizes=(3, 4, 5), round_=None, seed=0, source=real):
    history = [kept(t + 1, n) for t, n in enumerate(sizes)]
    return compose(history, source, cycle, round_=len(sizes) if round_ is None else round_, seed=seed)


def origins(examples):
    return [e.origin for e in examples]


# what is trained on -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cycle", "sizes"),
    [
        (Cycle(kind="replace"), {"round 3": 5}),
        (Cycle(kind="accumulate"), {"round 1": 3, "round 2": 4, "round 3": 5}),
        (Cycle(kind="window", window_rounds=2), {"round 2": 4, "round 3": 5}),
        (Cycle(kind="window", window_rounds=1), {"round 3": 5}),
        (Cycle(kind="window", window_rounds=9), {"round 1": 3, "round 2": 4, "round 3": 5}),
        (Cycle(kind="subsample", size=100), {"round 1": 3, "round 2": 4, "round 3": 5}),
    ],
)
def test_rounds_of_each_cycle(cycle, sizes):
    rows = data(cycle, source=no_real)
    assert {o: origins(rows).count(o) for o in origins(rows)} == sizes
    assert [e.example_id for e in rows] == [f"r{o[-1]}-{i}" for o, n in sizes.items() for i in range(n)]
    assert all(e.weight == 1.0 for e in rows)


def test_subsample_is_a_uniform_fixed_size_draw_from_all_so_far():
    runs = [data(Cycle(kind="subsample", size=6), seed=s) for s in range(800)]
    assert all(len(rows) == 6 == len({e.example_id for e in rows}) for rows in runs)
    ids = [e.example_id for e in data(Cycle(kind="accumulate"))]
    hits = np.array([sum(i in {e.example_id for e in rows} for rows in runs) for i in ids]) / 800
    assert np.all(np.abs(hits - 0.5) < 4 * np.sqrt(0.25 / 800))
    assert runs[0] == data(Cycle(kind="subsample", size=6), seed=0)


def test_subsample_draws_anew_each_round():
    cycle = Cycle(kind="subsample", size=20)
    first = {e.example_id for e in data(cycle, sizes=(40,))}
    second = {e.example_id for e in data(cycle, sizes=(40, 20))}
    assert not {i for i in second if i.startswith("r1")} <= first


def test_only_the_rounds_that_are_needed_are_read():
    class Lazy(list):
        def __getitem__(self, index):
            assert index >= 8
            return kept(index + 1, 2)

    history = Lazy([None] * 10)
    assert len(compose(history, no_real, Cycle(kind="replace"), round_=10, seed=0)) == 2
    assert len(compose(history, no_real, Cycle(kind="window", window_rounds=2), round_=10, seed=0)) == 4


# real data ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("synthetic", "cycle", "rows"),
    [
        (100, Cycle(real_share=0.5), 100),
        (90, Cycle(real_share=0.1), 10),
        (3, Cycle(real_share=0.25), 1),
        (7, Cycle(real_share=0.2), 2),
        (100, Cycle(real_rows=7), 7),
        (100, Cycle(), 0),
    ],
)
def test_real_rows_needed(synthetic, cycle, rows):
    assert real_rows_needed(synthetic, cycle) == rows


@given(st.integers(1, 5000), st.floats(0, 0.95))
def test_real_rows_make_the_share_within_one_row(synthetic, share):
    rows = real_rows_needed(synthetic, Cycle(real_share=share))
    assert abs(rows - share * (rows + synthetic)) <= 0.5 + 1e-6


def test_share_and_count_are_alternatives():
    with pytest.raises(ValueError, match=r"cycle\.real_share: 0.5 given together with cycle\.real_rows: 3; give one"):
        real_rows_needed(10, Cycle(real_share=0.5, real_rows=3))


def test_anchored_rows_are_the_same_every_round_and_fresh_ones_are_not():
    def rows(kind, sizes, seed=0):
        cycle = Cycle(kind="accumulate", real_share=0.5, real=kind)
        return [e.example_id for e in data(cycle, sizes, seed=seed) if e.origin == "real"]

    assert rows("anchored", (3,)) == rows("anchored", (3, 4))[:3]
    assert rows("anchored", (3,)) != rows("anchored", (3,), seed=1)
    assert not set(rows("fresh", (3,))) & set(rows("fresh", (3, 4)))
    assert rows("fresh", (3, 4)) == rows("fresh", (3, 4))


def test_real_rows_come_after_the_synthetic_and_carry_their_share_of_the_loss():
    history = [kept(1, 4, weight=3.0), [example("a", "round 2", 0.5), example("b", "round 2", 2.5)]]
    rows = compose(history, real, Cycle(real_share=0.6), round_=2, seed=0)
    assert origins(rows) == ["round 2"] * 2 + ["real"] * 3
    np.testing.assert_allclose([e.weight for e in rows], [1 / 3, 5 / 3, 1, 1, 1])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.floats(0.01, 10), min_size=1, max_size=6), min_size=1, max_size=6),
    st.sampled_from(sorted(CYCLES)),
    st.sampled_from([0.0, 0.3, 0.7]),
)
def test_weights_have_mean_one(weights, kind, share):
    history = [[example(f"r{t}-{i}", f"round {t + 1}", w) for i, w in enumerate(row)] for t, row in enumerate(weights)]
    cycle = Cycle(kind=kind, size=5, real_share=share)
    rows = compose(history, real, cycle, round_=len(history), seed=1)
    assert np.mean([e.weight for e in rows]) == pytest.approx(1)
    assert len({e.example_id for e in rows}) == len(rows)
    before = {e.example_id: e for row in history for e in row}
    synthetic = [e for e in rows if e.origin != "real"]
    scale = synthetic[0].weight / before[synthetic[0].example_id].weight
    for e in synthetic:
        assert e == dataclasses.replace(before[e.example_id], weight=e.weight)
        assert e.weight == pytest.approx(scale * before[e.example_id].weight)


def test_the_task_may_have_too_little_real_data():
    with pytest.raises(ValueError, match=r"cycle: 5 real rows are needed in round 3 but the task gave 2"):
        data(Cycle(real_share=0.5), source=lambda count, seed: real(2, seed))


# errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "round_"), [((3, 4), 3), ((3, 4), 1), ((), 0)])
def test_history_must_reach_the_round(sizes, round_):
    with pytest.raises(ValueError, match=f"history: {len(sizes)} rounds for round {round_}"):
        data(Cycle(), sizes, round_=round_)


@pytest.mark.parametrize("kind", ["replace", "window"])
def test_nothing_kept_is_an_error(kind):
    with pytest.raises(ValueError, match=f"cycle {kind} finds nothing kept for round 3"):
        data(Cycle(kind=kind, window_rounds=1), sizes=(3, 4, 0))


def test_an_example_may_not_occur_twice():
    with pytest.raises(ValueError, match="1 examples of round 2 occur twice"):
        compose([kept(1, 2), kept(1, 1)], real, Cycle(kind="accumulate"), round_=2, seed=0)
    with pytest.raises(ValueError, match="occur twice"):
        compose([kept(1, 2)], lambda n, seed: kept(1, n), Cycle(real_share=0.5), round_=1, seed=0)


@pytest.mark.parametrize("weights", [(1.0, float("nan")), (-1.0, 2.0), (0.0, 0.0), (1.0, float("inf"))])
def test_weights_must_make_sense(weights):
    history = [[example(f"x{i}", weight=w) for i, w in enumerate(weights)]]
    with pytest.raises(ValueError, match=r"weight: .* finite, >= 0, and not all 0"):
        compose(history, real, Cycle(), round_=1, seed=0)


# presets ------------------------------------------------------------------------------------------------------------


def test_seven_different_presets_of_keys_that_exist():
    assert len(PRESETS) == 7
    assert len({tuple(sorted(p.items())) for p in PRESETS.values()}) == 7
    for name in PRESETS:
        experiment = Experiment().model_dump()
        for key, value in preset_overrides(name).items():
            section, field = key.split(".")
            assert field in experiment[section]
            experiment[section][field] = value
        experiment = Experiment.model_validate(experiment)
        assert experiment.loop.kind == PRESETS[name]["loop.kind"]
        assert set(PRESETS[name]) == {"loop.kind", "queries.prompts", "cycle.kind", "cycle.real_share"}


def test_presets_cannot_be_changed_through_what_they_return():
    preset_overrides("retraining")["loop.kind"] = "incremental"
    assert PRESETS["retraining"]["loop.kind"] == "retraining"


def test_unknown_preset_lists_the_known():
    with pytest.raises(ValueError, match=r"preset: 'retrain' is unknown; choose one of retraining, .*incremental-real"):
        preset_overrides("retrain")


# collapse: models fitted to their own samples, through the cycles ----------------------------------------------------

ROUNDS, ROWS, KINDS, CHAINS = 20, 50, 4, 20


def chain(cycle, seed):
    """Gini-Simpson diversity over its first value, per round, of a model refitted to n of its own draws by a cycle."""
    draws = np.random.default_rng(seed)
    law, history, path = np.full(KINDS, 1 / KINDS), [], [1.0]

    def real_rows(count, real_seed):
        kinds = np.random.default_rng(real_seed).integers(0, KINDS, count)
        return [example(f"real-{i}", "real", kind=int(k)) for i, k in enumerate(kinds)]

    for t in range(1, ROUNDS + 1):
        kinds = draws.choice(KINDS, ROWS, p=law)
        history.append([example(f"{t}-{i}", f"round {t}", kind=int(k)) for i, k in enumerate(kinds)])
        rows = compose(history, real_rows, cycle, round_=t, seed=seed)
        weights = np.bincount([e.token_ids[0] for e in rows], weights=[e.weight for e in rows], minlength=KINDS)
        law = weights / weights.sum()
        path.append((1 - (law**2).sum()) / (1 - 1 / KINDS))
    return np.array(path)


@pytest.fixture(scope="module")
def diversity():
    """Diversity per chain and round, by cycle; every cycle sees the same seeds."""
    cycles = {
        "replace": Cycle(kind="replace"),
        "window": Cycle(kind="window", window_rounds=3),
        "subsample": Cycle(kind="subsample", size=ROWS),
        "accumulate": Cycle(kind="accumulate"),
        "anchored": Cycle(kind="replace", real_share=0.5, real="fresh"),
    }
    return {name: np.array([chain(cycle, seed) for seed in range(CHAINS)]) for name, cycle in cycles.items()}


@pytest.mark.parametrize(
    ("cycle", "reference"),
    [
        ("replace", {10: 0.831, 20: 0.694}),
        ("subsample", {10: 0.947, 20: 0.943}),
        ("accumulate", {10: 0.970, 20: 0.969}),
    ],
)
def test_collapse_of_four_kinds(diversity, cycle, reference):
    """Against a Monte-Carlo reference of 400 chains."""
    for t, expected in reference.items():
        values = diversity[cycle][:, t]
        error = values.std() * np.sqrt(1 / CHAINS + 1 / 400)
        assert values.mean() == pytest.approx(expected, abs=4 * error)


def test_collapse_at_the_predicted_rate(diversity):
    accumulated = cycle_theory.accumulated_variance(ROWS, ROUNDS)
    for t in (1, 5, 10, 20):
        for cycle, expected in (("replace", cycle_theory.replaced_variance(ROWS, t)), ("accumulate", accumulated[t])):
            values = diversity[cycle][:, t]
            assert values.mean() == pytest.approx(float(expected), abs=4 * values.std() / np.sqrt(CHAINS))
    assert accumulated[ROUNDS] > cycle_theory.accumulated_variance_limit(ROWS) > 0.96


def test_subsample_and_window_lie_between(diversity):
    """Paired by seed: each gap is far outside its standard error."""

    def gap(better, worse):
        differences = (diversity[better] - diversity[worse])[:, 5:].mean(axis=1)
        return differences.mean() / (differences.std() / np.sqrt(CHAINS))

    for better, worse in (("accumulate", "subsample"), ("subsample", "replace"), ("window", "replace")):
        assert gap(better, worse) > 3


def test_a_real_anchor_gives_a_floor(diversity):
    # n rows of the model and n real ones: 2 n draws, half of them real; the law of each kind varies around 1/4
    variance = float(cycle_theory.anchored_share_variance(1 / KINDS, 0.5, 2 * ROWS))
    floor = 1 - KINDS * variance / (1 - 1 / KINDS)
    values = diversity["anchored"][:, 6:]
    assert values.mean() == pytest.approx(floor, abs=0.005)
    assert floor > 0.98
