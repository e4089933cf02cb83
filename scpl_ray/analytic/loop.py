"""The analytic mode: the same experiment without a language model, thousands of seeds in seconds.

It is a model of the loop, not the loop. Kinds of text are counted instead of written. Each query of group g reveals
its group with probability m = ``task.marker_strength`` (context g) or is neutral (context 0, which all groups share),
and the policy is a table P_t(kind | context). With K groups and kinds, round t is

    queries     n_g ~ Multinomial(N, s_t),  n_gc: Binomial(n_g, m) of them reveal g
    completions X_gck ~ Multinomial(samples n_gc, P_{t-1}( . | c) at the decoding temperature)
    rewards     r | k ~ N(mu_k, (v sd_k)^2),  mu_k = w G (c_k - 1/K) + v A [k = 1],  c ~ Multinomial(C, s_t) / C
    selection   the configured strategy, on these counts and rewards (:mod:`scpl_ray.analytic.selection`)
    dataset     D_gck: kept rows by weight, by the data cycle, with real rows of all groups equally, of which
                m / (m + u (1 - m)) reveal their group
    training    P_t(k | c) = (D_ck + n_0 P_start(k | c)) / (D_c + n_0),  start: round 0 or t - 1 by ``loop.kind``;
                then on neutral prompts P_t(k) ~ P_t(k)^(1 - sigma) D_k^sigma with D_k all data of kind k
    quality     q_g = (1 - w_q) L_g + w_q P_t(own kind | g),  L_g = min(1, q_0 (K d_g)^gamma),  d_g: g's share of D
    evaluation  binomial and multinomial noise of the configured numbers of evaluation prompts
    feedback    s_{t+1} by the same rule functions as in a run, from what was measured; a group that asked nothing
                reacts to the mean win rate of those that asked

w is the weight of the reward model among the reward terms and v = w where it is the only term, else 1 (other terms are
not modelled), C = ``reward.choices_per_round``, G = ``analytic.choice_gain`` (0 where the reward model was given
instead of learned; c is uniform where choices are ``balanced``), A = ``analytic.kind_advantage``, u = the fraction of
the neutral queries that the task's real text keeps (0.05 in the built-in language, 1 where real text and queries come
from the same data), n_0 = ``analytic.prior_rows``, sigma = ``analytic.spillover``, q_0 and gamma the learning curve's,
w_q = the part of the quality that asks for the own kind (1/3 in the built-in language, 0 in news and maths). With
n_0 = 0 training is maximum likelihood. Without selection and spillover, at temperature 1, every P_t is a martingale:
more queries of one group change nothing in expectation (the covariate-shift null). Rejection sampling at beta moves the
log-odds of kinds by dmu / beta + dsd^2 / (2 beta^2) per round.

The model leaves out: words, and with them reused prompts, ``top_p`` and a loss on prompts; learning rate and epochs,
except through n_0; any loss of quality over generations, except through shares and kinds; rewards that differ between
prompts; and the use of the same held-out prompts in every round: evaluation noise is drawn anew here.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from scpl_ray import seeds
from scpl_ray.analytic import model
from scpl_ray.analytic.cells import Answered, KeptCounts
from scpl_ray.analytic.draws import Draws, Expected, check_expected
from scpl_ray.analytic.model import CONTEXTS, Settings, Start, tempered
from scpl_ray.analytic.paths import Band, Paths, band
from scpl_ray.analytic.selection import select, without_replacement
from scpl_ray.config import Experiment, Feedback
from scpl_ray.evaluation.bias import SMOOTHING
from scpl_ray.feedback import rules as feedback
from scpl_ray.selection.strategies import completions_per_group, steers
from scpl_ray.shares import FloatArray, IntArray, normalise

__all__ = ["Band", "Paths", "Start", "band", "simulate", "simulate_grid"]


def simulate(experiment: Experiment, *, start: Start | None = None) -> Paths:
    """Simulate ``analytic.seeds`` seeds over ``loop.rounds`` rounds.

    Args:
        experiment: the config of a run.
        start: the kinds of text that the base model writes; ``None``: :func:`scpl_ray.analytic.model.assumed_start`.

    Raises:
        ValueError: see :func:`simulate_grid`.
    """
    return simulate_grid([experiment], start=start)[0]


def simulate_grid(experiments: Sequence[Experiment], *, start: Start | None = None, chance: bool = True) -> list[Paths]:
    """Simulate several experiments; those that differ only in numbers are simulated as one batch of arrays.

    The random streams derive from the seed of a batch's first experiment: the same grid gives the same paths, and with
    more rounds the paths start in the same way.

    Args:
        experiments: the configs, whatever they differ in.
        start: the kinds of text that all base models write; ``None``: as in :func:`simulate`.
        chance: false: one path of each, in which every draw is its expectation (:mod:`scpl_ray.analytic.draws`).

    Raises:
        ValueError: no experiment; a start with another number of groups; a setting that cannot be simulated
            (:func:`scpl_ray.analytic.model.validate`, :func:`scpl_ray.analytic.draws.check_expected`); or a seed in
            which selection or feedback is impossible.
    """
    if not experiments:
        raise ValueError("experiments: empty; give at least one")
    batches: dict[tuple[Hashable, int], list[int]] = {}
    for i, experiment in enumerate(experiments):
        if start is not None and len(start.neutral) != len(experiment.groups.names):
            raise ValueError(f"start: {len(start.neutral)} kinds for groups {list(experiment.groups.names)}")
        n_seeds = experiment.analytic.seeds
        if not chance:
            check_expected(experiment)
            n_seeds = 1
        batches.setdefault((model.shape_of(experiment), n_seeds), []).append(i)
    found: dict[int, Paths] = {}
    for (_, n_seeds), members in batches.items():
        chosen = [experiments[i] for i in members]
        draws = seeds.generator(chosen[0].seed, "simulate") if chance else Expected()
        found |= zip(members, _simulate(chosen, start, n_seeds, draws), strict=True)
    return [found[i] for i in range(len(experiments))]


@dataclasses.dataclass(frozen=True, eq=False)
class _Policy:
    revealing: FloatArray
    """P(kind | a prompt that reveals group g), shape (B, K, K)."""
    neutral: FloatArray
    """P(kind | a neutral prompt), shape (B, K)."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Data:
    """Rows and weighted rows per cell, shape (B, K, 2, K)."""

    rows: IntArray
    mass: FloatArray

    def __add__(self, other: _Data) -> _Data:
        return _Data(self.rows + other.rows, self.mass + other.mass)


class _Loop:
    """One batch: the phases of :class:`scpl_ray.controller.Loop` on B rows at once."""

    def __init__(self, settings: Settings, starts: Sequence[Start], draws: Draws) -> None:
        self.settings = settings
        self.common = settings.common
        self.draws = draws
        self.base = _Policy(
            np.repeat([s.revealing for s in starts], settings.seeds, axis=0),
            np.repeat([s.neutral for s in starts], settings.seeds, axis=0),
        )
        self.policy = self.base
        first = [feedback.initial_state(e.groups, e.feedback).arrivals for e in settings.experiments]
        self.arrivals = np.repeat(np.array(first, dtype=np.float64), settings.seeds, axis=0)
        self.history: deque[_Data] = deque(maxlen=self.common.cycle.window_rounds)
        self.total: _Data | None = None
        self.anchor = np.zeros((settings.rows, settings.n_groups, CONTEXTS, settings.n_groups), dtype=np.int64)
        self.path: dict[str, list[FloatArray]] = {f.name: [] for f in dataclasses.fields(Paths)[1:]}
        self.quality = self.steering = np.empty(0)
        self.difficulty: tuple[FloatArray, FloatArray] | None = None

    def run(self) -> None:
        nothing = np.full(self.arrivals.shape, np.nan)
        equal = np.full(self.arrivals.shape, 1.0 / self.settings.n_groups)
        absent = ("win_rate", "kept_shares", "candidate_kinds", "kept_kinds", "data_kinds", "mean_rewards")
        self._record(arrivals=self.arrivals, kept_fraction=nothing[:, 0], **dict.fromkeys(absent, nothing))
        self.evaluation(equal)
        for t in range(1, self.common.loop.rounds + 1):
            answered = self.generation(t)
            kept = select(answered, self.settings, self.draws)
            data = self.dataset(kept)
            self.training(data)
            win_rate = self._win_rate(answered)
            mass, completions = kept.mass, answered.counts.sum(axis=(1, 2, 3))
            cells = {"candidate_kinds": answered.counts, "kept_kinds": kept.rows, "data_kinds": mass}
            kinds = {name: normalise(name, x.sum(axis=(1, 2)).astype(np.float64)) for name, x in cells.items()}
            self._record(
                arrivals=self.arrivals,
                win_rate=win_rate,
                kept_shares=mass.sum(axis=(2, 3)) / mass.sum(axis=(1, 2, 3))[:, None],
                kept_fraction=kept.rows.sum(axis=(1, 2, 3)) / completions,
                mean_rewards=answered.means,
                **kinds,
            )
            self.evaluation(data.sum(axis=(2, 3)) / data.sum(axis=(1, 2, 3))[:, None])
            self.feedback(t, win_rate)

    def generation(self, t: int) -> Answered:
        """Queries, their contexts, the kinds of their completions, and the mean rewards learned from users' choices."""
        s, k = self.settings, self.settings.n_groups
        shares = self.arrivals / self.arrivals.sum(axis=-1, keepdims=True)
        queries = self.draws.multinomial(s.prompts, shares)
        revealing = self.draws.binomial(queries, s.marked[:, None])
        prompts = np.stack([revealing, queries - revealing], axis=-1)
        totals = completions_per_group(
            self.common.selection, self.common.generation.samples_per_prompt, self.steering, queries
        )
        samples, rest = np.divmod(totals, np.maximum(queries, 1))
        # which of a group's queries get one more says nothing about their contexts
        more = self.draws.hypergeometric(revealing, queries - revealing, rest) if rest.any() else np.zeros_like(rest)
        longer = np.stack([more, rest - more], axis=-1)
        neutral = np.broadcast_to(self.policy.neutral[:, None], self.policy.revealing.shape)
        law = tempered(np.stack([self.policy.revealing, neutral], axis=2), self.common.generation.temperature)
        counts = self.draws.multinomial(prompts * samples[:, :, None] + longer, law)
        choosing = np.full_like(shares, 1.0 / k) if self.common.reward.choices == "balanced" else shares
        asked = self.common.reward.choices_per_round
        choices = self.draws.multinomial(asked, choosing) / asked
        means = model.mean_rewards(choices, s.gain[:, None], s.advantage)
        return Answered(t, prompts, samples, law, counts, means)

    def dataset(self, kept: KeptCounts) -> FloatArray:
        """Weighted rows per cell that the data cycle takes from all rounds, real rows included, shape (B, K, 2, K)."""
        new = _Data(kept.rows, kept.mass)
        self.history.append(new)
        self.total = new if self.total is None else self.total + new
        data = CYCLES[self.common.cycle.kind](self, self.total)
        count = data.rows.sum(axis=(1, 2, 3))
        synthetic = data.mass * (count / data.mass.sum(axis=(1, 2, 3)))[:, None, None, None]
        by_share = np.floor(count * self.settings.real_share / (1.0 - self.settings.real_share) + 0.5)
        return np.asarray(synthetic + self._real(np.maximum(by_share.astype(np.int64), self.settings.real_rows)))

    def subsample(self, pool: _Data) -> _Data:
        """A row that is drawn carries the mean weight of its cell."""
        flat = pool.rows.reshape(len(pool.rows), -1)
        size = np.minimum(self.settings.cycle_size, flat.sum(axis=-1))
        rows = without_replacement(flat, size, self.draws).reshape(pool.rows.shape)
        return _Data(rows, np.asarray(rows * pool.mass / np.maximum(pool.rows, 1)))

    def _real(self, needed: IntArray) -> FloatArray:
        """Real rows per cell: equal for all groups, revealing them as real text does, by the kinds of round 0.

        Anchored rows are drawn once; if a round needs fewer, all cells are scaled down by the same factor.
        """
        s, k = self.settings, self.settings.n_groups
        if not needed.any():
            return np.zeros(self.anchor.shape)
        contexts = np.stack([s.marked_in_real, 1.0 - s.marked_in_real], axis=-1)[:, None, :, None]
        neutral = np.broadcast_to(self.base.neutral[:, None], self.base.revealing.shape)
        law = contexts * np.stack([self.base.revealing, neutral], axis=2) / k
        flat = law.reshape(len(law), -1)
        flat = flat / flat.sum(axis=-1, keepdims=True)
        if self.common.cycle.real == "fresh":
            return self.draws.multinomial(needed, flat).reshape(law.shape).astype(np.float64)
        held = self.anchor.sum(axis=(1, 2, 3))
        more = self.draws.multinomial(np.maximum(needed - held, 0), flat)
        self.anchor = self.anchor + more.reshape(law.shape)
        held = np.maximum(held, needed)
        return np.asarray(self.anchor * (needed / np.maximum(held, 1))[:, None, None, None])

    def training(self, data: FloatArray) -> None:
        """Fit the policy by maximum likelihood, with the starting policy counted as ``prior_rows`` rows per context."""
        start = self.base if self.common.loop.starts_from_base else self.policy
        revealing = _fitted(data[:, :, 0], start.revealing, self.settings.prior_rows)
        neutral = _fitted(data[:, :, 1].sum(axis=1), start.neutral, self.settings.prior_rows)
        kinds = data.sum(axis=(1, 2)) + SMOOTHING
        mix = kinds / kinds.sum(axis=-1, keepdims=True)
        pull = self.settings.spillover[:, None]
        pulled = neutral ** (1.0 - pull) * mix**pull
        self.policy = _Policy(revealing, pulled / pulled.sum(axis=-1, keepdims=True))

    def evaluation(self, data_shares: FloatArray) -> None:
        """Measure the policy on finite numbers of group prompts and neutral prompts."""
        s, temperature = self.settings, self.common.generation.temperature
        neutral = tempered(self.policy.neutral, temperature)
        revealing = tempered(self.policy.revealing, temperature)
        own = model.own_kind_share(model.asked_law(revealing, neutral, s.marked[:, None, None]))
        curve = model.learning_curve(data_shares, s.ceiling, s.exponent[:, None])
        self.own_kind, learned, self.quality = self._judged(curve, own, s.group_answers)
        _, _, null = self._judged(*self._alike(curve, own), s.group_answers)
        if steers(self.common.selection):
            _, _, self.steering = self._judged(curve, own, s.steering_answers)
        self._record(
            own_kind=self.own_kind,
            quality=self.quality,
            quality_without_own_kind=learned,
            gap_null=np.ptp(null, axis=-1),
            kinds=self.draws.multinomial(s.neutral_answers, neutral) / s.neutral_answers[:, None],
            revealing_law=self.policy.revealing,
            neutral_law=self.policy.neutral,
        )

    def _alike(self, curve: FloatArray, own: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What groups served alike have, shape (B, K) each, as difficult to serve as they were for the base model.

        Every group's number has then changed alike since round 0; in round 0 itself all groups are equal.
        """
        if self.difficulty is None:
            self.difficulty = (curve, own)
            first = tuple(np.broadcast_to(x.mean(axis=-1, keepdims=True), x.shape) for x in (curve, own))
        else:
            first = self.difficulty
        alike = [
            np.clip(x + (now - x).mean(axis=-1, keepdims=True), 0.0, 1.0)
            for x, now in zip(first, (curve, own), strict=True)
        ]
        return alike[0], alike[1]

    def _judged(
        self, curve: FloatArray, own: FloatArray, answers: IntArray
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Own-kind share, the rest of the quality, and quality among answers to group prompts, shape (B, K) each."""
        n, w = answers[:, None], self.settings.own_weight[:, None]
        found = self.draws.binomial(n, np.clip(own, 0.0, 1.0)) / n
        learned = self.draws.binomial(n, curve) / n
        return found, learned, np.asarray(np.clip((1.0 - w) * learned + w * found, 0.0, 1.0))

    def _win_rate(self, answered: Answered) -> FloatArray:
        """Win rate of each group's completions, shape (B, K); NaN where a group asked nothing."""
        wins = model.win_rates(answered.means, self.settings.reward_sd)[:, None]
        counts = answered.counts.sum(axis=2)
        total = counts.sum(axis=-1, keepdims=True)
        written = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
        return np.asarray((written * wins).sum(axis=-1))

    def feedback(self, t: int, win_rate: FloatArray) -> None:
        """The next round's users, by the rule functions of a run, for all experiments with one rule at once."""
        s = self.settings
        measures = {"quality": self.quality, "own_kind": self.own_kind, "reward": model.reacted_to(win_rate)}
        rules: dict[Feedback, list[int]] = {}
        for i, experiment in enumerate(s.experiments):
            rules.setdefault(experiment.feedback, []).append(i)
        users = np.empty_like(self.arrivals)
        for rule, members in rules.items():
            rows = (np.array(members)[:, None] * s.seeds + np.arange(s.seeds)).ravel()
            users[rows] = feedback.advance(
                self.arrivals[rows],
                measures[rule.measure][rows],
                rule,
                initial_shares=s.initial_shares[rows],
                round_=t,
                seed=self.common.seed,
            )
        self.arrivals = users

    def _record(self, **values: FloatArray) -> None:
        for name, value in values.items():
            self.path[name].append(value)


CYCLES: dict[str, Callable[[_Loop, _Data], _Data]] = {
    "replace": lambda loop, total: loop.history[-1],
    "accumulate": lambda loop, total: total,
    "subsample": lambda loop, total: loop.subsample(total),
    "window": lambda loop, total: sum(list(loop.history)[1:], loop.history[0]),
}
"""The data cycles of :mod:`scpl_ray.selection.cycles` on counts: from the loop and the total of all rounds so far."""


def _fitted(data: FloatArray, start: FloatArray, prior_rows: FloatArray) -> FloatArray:
    """(D_k + n_0 P_k) / (D + n_0), shape (B, ..., K); the starting policy where D + n_0 = 0."""
    prior = prior_rows.reshape(-1, *[1] * (data.ndim - 1))
    total = data.sum(axis=-1, keepdims=True) + prior
    fitted = np.divide(data + prior * start, total, out=start.copy(), where=total > 0)
    return np.asarray(fitted / fitted.sum(axis=-1, keepdims=True))


def _simulate(experiments: Sequence[Experiment], start: Start | None, n_seeds: int, draws: Draws) -> list[Paths]:
    """Paths of experiments that have :func:`~scpl_ray.analytic.model.shape_of` in common, in order."""
    starts = [start or model.assumed_start(e) for e in experiments]
    loop = _Loop(model.stack(experiments, n_seeds), starts, draws)
    loop.run()
    stacked = {name: np.stack(values, axis=1) for name, values in loop.path.items()}
    return [
        Paths(e, **{name: values[i * n_seeds : (i + 1) * n_seeds] for name, values in stacked.items()})
        for i, e in enumerate(experiments)
    ]
