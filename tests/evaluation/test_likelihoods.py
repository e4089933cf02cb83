"""Likelihoods of the evaluation texts, and engines that draw with other weights than those they were given."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from scpl_ray.evaluation import likelihoods
from scpl_ray.protocols import SAMPLING_BOUND
from scpl_ray.records import Completion, Weights
from scpl_ray.storage.run_directory import Store
from tests.support import fakes
from tests.support.loops import loop, small

BASE, POLICY = Weights(0, Path("base")), Weights(3, Path("policy"))


def texts(count: int, *, log_probability: float | None = -2.0) -> list[Completion]:
    return [
        Completion(f"q{i}-s0", f"q{i}", 0, 3, i, (9,), (1, 2, 3, 4), "x", "length", log_probability)
        for i in range(count)
    ]


class Passes(fakes.FakeScorer):
    """Gives every text the same likelihood under a policy, and remembers what it was asked."""

    def __init__(self, nats: float) -> None:
        super().__init__(fakes.FakeTask(("a", "b")))
        self.nats = nats
        self.asked: list[tuple[int, int]] = []

    def negative_log_likelihood(self, policy: Weights, completions: Sequence[Completion]) -> list[tuple[float, int]]:
        self.asked.append((policy.policy_version, len(completions)))
        return [(self.nats, len(c.token_ids)) for c in completions]


def test_the_policys_likelihoods_come_from_its_engine_and_the_bases_from_one_pass() -> None:
    scorer = Passes(2.04)
    found = likelihoods.of_texts(scorer.negative_log_likelihood, BASE, POLICY, texts(100), SAMPLING_BOUND)
    assert found.current == [(2.0, 4)] * 100 and found.base == [(2.04, 4)] * 100
    assert found.differences == pytest.approx([0.01] * 12)
    assert sorted(scorer.asked) == [(0, 100), (3, 12)]


def test_in_round_0_only_the_sample_passes_through_the_model() -> None:
    scorer = Passes(2.0)
    found = likelihoods.of_texts(scorer.negative_log_likelihood, BASE, BASE, texts(100), SAMPLING_BOUND)
    assert found.base == found.current and scorer.asked == [(0, 12)]


def test_texts_whose_engine_does_not_say_pass_through_both_models() -> None:
    scorer = Passes(2.0)
    found = likelihoods.of_texts(
        scorer.negative_log_likelihood, BASE, POLICY, texts(100, log_probability=None), SAMPLING_BOUND
    )
    assert sorted(scorer.asked) == [(0, 100), (3, 100)] and list(found.differences) == []
    assert found.base == found.current == [(2.0, 4)] * 100


@pytest.mark.parametrize(("bound", "nats", "fits"), [(0.05, 2.19, True), (0.05, 2.21, False), (1e-3, 2.01, False)])
def test_a_difference_beyond_the_bound_is_an_error_that_says_what_to_do(bound: float, nats: float, fits: bool) -> None:
    if fits:
        likelihoods.of_texts(Passes(nats).negative_log_likelihood, BASE, POLICY, texts(9), bound)
        return
    with pytest.raises(
        RuntimeError,
        match=r"sampling_logp_difference = .* over 8 evaluation texts .* policy version 3 .*\(policy\).*refresh",
    ):
        likelihoods.of_texts(Passes(nats).negative_log_likelihood, BASE, POLICY, texts(9), bound)


def test_one_odd_text_is_measured_and_no_error() -> None:
    drawn, passed = [(2.0, 4)] * 10, [*[(2.0, 4)] * 9, (2.4, 4)]
    apart = likelihoods.differences(drawn, passed)
    likelihoods.check(apart, POLICY, 0.05)
    assert max(apart) == pytest.approx(0.1)
    # what diverged is said where perplexities are measured
    likelihoods.check([math.nan, 0.0], POLICY, 0.05)


@pytest.mark.parametrize(
    ("count", "compared"), [(1, 1), (2, 2), (8, 8), (9, 8), (64, 8), (72, 9), (256, 32), (257, 32), (5000, 32)]
)
def test_the_sample_spans_all_prompts_and_is_the_same_every_round(count: int, compared: int) -> None:
    sample = likelihoods.sampled(count)
    assert sample == likelihoods.sampled(count) == sorted(set(sample))
    assert len(sample) == compared
    assert sample[0] == 0 and sample[-1] == count - 1


class Stale(fakes.FakeGenerator):
    """Takes new weights and serves those of the round before, from policy version 2 on."""

    def refresh(self, weights: Weights) -> None:
        kept = self.logits
        super().refresh(weights)
        if weights.policy_version == 2:
            self.logits = kept


def test_a_run_whose_engines_serve_old_weights_stops_and_a_sound_one_measures_nothing(tmp_path: Path) -> None:
    # policies that differ by more than a run's four hundredths of a nat
    experiment = small("loop.kind=incremental", "selection.strategy=top", "generation.samples_per_prompt=8")
    base = fakes.make_base(tmp_path / "base", 2)
    store = Store.create(tmp_path / "sound", experiment, {})
    rows = loop(store, experiment, base).run()
    store.close()
    found = [r for r in rows if r.metric.startswith("sampling_logp_difference")]
    assert [(r.round, r.group) for r in found] == [(t, None) for t in range(4) for _ in range(2)]
    assert all(r.value < 1e-12 for r in found)

    store = Store.create(tmp_path / "stale", experiment, {})
    it, stale = loop(store, experiment, base), Stale(experiment.seed)
    for owner in (it.engines, it.held_out):
        object.__setattr__(owner, "generator", stale)
    with pytest.raises(RuntimeError, match="did not draw with policy version 2"):
        it.run()
    assert store.manifest(2, "evaluation") is None and store.manifest(1, "evaluation") is not None
    store.close()
