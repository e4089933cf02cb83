"""How often within-run intervals cover, and how often they show a change where there is none.

::

    python -m tests.theory.within_run            # the table, some minutes
    python -m tests.theory.within_run --short    # seconds, wider limits

Prompts are drawn again and again from a population of which the numbers are known, each with answers of its own, and
the interval of every sample is compared with the population. ``statistics.md`` shows the table.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from scpl_ray.evaluation import bias, disparity, sign_flips, within_run
from scpl_ray.evaluation.intervals import Estimates, Prompts
from scpl_ray.shares import FloatArray, IntArray
from tests.theory.calibration import LEVEL, Row, old_log_odds, students, table
from tests.theory.drift import wright_fisher

LONG, SHORT = 500, 60
"""Samples of prompts per row, and those of the short form."""
COVERS = (0.93, 0.97)
SURELY = (0.93, 1.0)
"""Of intervals that are wide on purpose: of a distance or a gap that is no longer than its noise, and of several groups
that are nearly the worst."""
FALSE = (0.0, 0.07)
AT_ONCE = 200
"""Samples that are measured together."""

Rows = Iterator[Row]
Law = Callable[[np.random.Generator, tuple[int, ...]], FloatArray]
"""Draws answers in [0, 1] of shape (prompts, answers per prompt, samples)."""


def binary(share: float, icc: float = 0.0) -> Law:
    """Answers that are 0 or 1, with this correlation between those to one prompt."""

    def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        of_prompt = np.full((shape[0], 1, shape[2]), share)
        if icc:
            size = 1.0 / icc - 1.0
            of_prompt = rng.beta(share * size, (1.0 - share) * size, size=of_prompt.shape)
        return np.asarray(rng.random(shape) < of_prompt, dtype=np.float64)

    return drawn


def graded(mean: float, size: float) -> Law:
    """Answers in between, from a beta law; half of their variance is the prompts'."""

    def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        of_prompt = rng.beta(mean * 2 * size, (1.0 - mean) * 2 * size, size=(shape[0], 1, shape[2]))
        return np.asarray(rng.beta(of_prompt * 2 * size + 1e-9, (1.0 - of_prompt) * 2 * size + 1e-9, size=shape))

    return drawn


def of_terms(share: float) -> Law:
    """The mean of three terms, of which two are always 1."""
    return lambda rng, shape: (2.0 + binary(share)(rng, shape)) / 3.0


FRACTIONS: Mapping[str, tuple[Law, float]] = {
    "right or wrong, .5": (binary(0.5), 0.5),
    "right or wrong, .05": (binary(0.05), 0.05),
    "right or wrong, .95": (binary(0.95), 0.95),
    "right or wrong, .1, alike within prompts": (binary(0.1, 0.4), 0.1),
    "graded around .75": (graded(0.75, 2.0), 0.75),
    "graded around .1": (graded(0.1, 5.0), 0.1),
    "graded around .3, closely": (graded(0.3, 40.0), 0.3),
    "a mean of terms, .967": (of_terms(0.9), 2.9 / 3.0),
}


def measured(
    law: Law, rng: np.random.Generator, n: int, answers: int, samples: int, name: str = "simulated"
) -> Iterator[Estimates]:
    """The interval of the mean in many samples of n prompts, some at a time."""
    prompts = Prompts(n, 0, name)
    for first in range(0, samples, AT_ONCE):
        values = law(rng, (n, answers, min(AT_ONCE, samples - first)))
        flat = values.reshape(n * answers, -1)
        yield prompts.fractions(values.sum(axis=1), np.full(n, float(answers)), within_run.roughness(flat))


def covered(found: Iterator[Estimates], truth: float) -> float:
    """How often the intervals hold the truth."""
    return float(np.concatenate([(one.low <= truth) & (truth <= one.high) for one in found]).mean())


def fractions(samples: int) -> Rows:
    """Means of numbers in [0, 1]: qualities, terms, shares of own kind, Pass@k."""
    for (name, (law, truth)), (n, answers) in itertools.product(FRACTIONS.items(), ((40, 1), (100, 1), (100, 4))):
        rng = np.random.default_rng(n + answers)
        expected = n * min(truth, 1.0 - truth)
        # with hardly any answer of one sort an interval cannot but be wide
        limits = SURELY if expected < 6 or name.startswith("a mean of terms") else COVERS
        rate = covered(measured(law, rng, n, answers, samples), truth)
        yield Row(f"mean of {n} prompts x {answers} covers", name, rate, limits, None, samples)
    rng = np.random.default_rng(1)
    rate = covered(measured(graded(0.7, 2.0), rng, 12, 1, samples), 0.7)
    yield Row("mean of 12 prompts x 1 covers", "graded around .7", rate, COVERS, None, samples)


GROUPS: Mapping[str, tuple[tuple[Law, float], ...]] = {
    "two groups alike": ((graded(0.7, 2.0), 0.7),) * 2,
    "two groups a little apart": ((graded(0.72, 2.0), 0.72), (graded(0.69, 2.0), 0.69)),
    "two groups far apart": ((graded(0.8, 2.0), 0.8), (graded(0.5, 2.0), 0.5)),
    "three groups alike": ((graded(0.7, 2.0), 0.7),) * 3,
    "three groups, two behind": ((graded(0.8, 2.0), 0.8), (graded(0.5, 2.0), 0.5), (graded(0.5, 2.0), 0.5)),
    "three groups far apart": ((graded(0.85, 2.0), 0.85), (graded(0.6, 2.0), 0.6), (graded(0.35, 2.0), 0.35)),
    "right or wrong, .05 and .2": ((binary(0.05), 0.05), (binary(0.2), 0.2)),
}


def groups(samples: int) -> Rows:
    """Gap, worst, mean, spread and ratio of two and three groups of 100 prompts."""
    for name, laws in GROUPS.items():
        truth = disparity.disparate_bias([mean for _, mean in laws])
        wanted = {
            "disparate_gap": truth.gap,
            "quality_worst": truth.worst,
            "quality_mean": truth.mean,
            "disparate_std": truth.std,
            "disparate_ratio": truth.ratio,
        }
        inside = dict.fromkeys(wanted, 0)
        columns = [
            measured(law, np.random.default_rng(k), 100, 1, samples, f"group {k}") for k, (law, _) in enumerate(laws)
        ]
        for found in zip(*columns, strict=True):
            for i in range(len(found[0].value)):
                parts = within_run.independent([one[i] for one in found])
                for _, metric, low, high in within_run.unequal(parts, ""):
                    inside[metric] += low <= float(wanted[metric]) <= high
        for metric, count in inside.items():
            far = "far" in name or "right" in name or metric == "quality_mean"
            yield Row(f"{metric} covers", name, count / samples, COVERS if far else SURELY, None, samples)


def kinds_of(
    rng: np.random.Generator, shares: Sequence[float], undecided: float, n: int, answers: int, alike: float
) -> tuple[IntArray, IntArray]:
    """Counts of kinds and of undecided answers in two rounds with the same prompts, shape (n, K + 1) each.

    Prompts differ in their shares by normal log-odds with standard deviation ``alike``; the expected shares are nearly
    those that are given. Nothing changes between the rounds.
    """
    odds = np.log(np.array(shares)) + alike * rng.normal(size=(n, len(shares)))
    law = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    whole = np.concatenate([law * (1.0 - undecided), np.full((n, 1), undecided)], axis=1)
    return rng.multinomial(answers, whole), rng.multinomial(answers, whole)


KINDS: Mapping[str, tuple[tuple[float, ...], int, int, float]] = {
    "equal kinds": ((0.5, 0.5), 200, 1, 0.0),
    "kinds at .7/.3": ((0.7, 0.3), 200, 1, 0.0),
    "kinds at .95/.05": ((0.95, 0.05), 200, 1, 0.0),
    "three equal kinds": ((1 / 3, 1 / 3, 1 / 3), 200, 1, 0.0),
    "three kinds at .6/.3/.1": ((0.6, 0.3, 0.1), 200, 1, 0.0),
    "kinds at .7/.3, 4 answers, unlike prompts": ((0.7, 0.3), 60, 4, 1.0),
}
CONFUSION = ((70.0, 30.0), (40.0, 60.0))


def kinds(samples: int) -> Rows:
    """Shares, log-odds and distances of kinds on neutral prompts, with a tenth undecided, and their changes."""
    for name, (shares, n, answers, alike) in KINDS.items():
        rng = np.random.default_rng(len(name))
        prompts, k = Prompts(n, 0, "simulated"), len(shares)
        names = [f"g{i}" for i in range(k)]
        # what the population's shares are where prompts differ
        many, _ = kinds_of(np.random.default_rng(0), shares, 0.1, 400_000, 4, alike) if alike else (None, None)
        truth = np.array(shares) if many is None else many[:, :-1].sum(axis=0) / many[:, :-1].sum()
        exact = bias.preference_bias(truth, bias.balanced(k), advantaged=0)
        wanted: dict[str, float] = {
            "kind_share": truth[0],
            "kind_share_low": 0.9 * truth[0],
            "kind_share_high": 0.9 * truth[0] + 0.1,
            "preference_log_odds_balanced": float(exact.log_odds),
            "total_variation_balanced": float(exact.total_variation),
            "kl_balanced": float(exact.kl),
            "preference_log_odds_round0": 0.0,
            "kind_difference_round0": 0.0,
            "total_variation_round0": 0.0,
            "kl_round0": 0.0,
        }
        confusion: Sequence[Sequence[float]] | None = None
        if k == 2 and not alike and shares[0] < 0.9:
            confusion = CONFUSION
            rates = bias.confusion_of_counts(CONFUSION)
            # the kinds are those that the judge says: what is estimated is what they were corrected to
            corrected = truth @ bias.inverse_errors(rates)
            wanted["kind_share_corrected"] = float(np.clip(corrected[0], 0, 1))
        inside = dict.fromkeys(wanted, 0)
        for _ in range(samples):
            now, then = kinds_of(rng, shares, 0.1, n, answers, alike)
            rows = itertools.chain(
                within_run.kinds_now(prompts, names, 0, now, confusion),
                within_run.kinds_since(prompts, names, 0, now, then, confusion),
            )
            for group, metric, low, high in rows:
                if metric in wanted and group in (None, "g0"):
                    inside[metric] += low <= wanted[metric] <= high
        for metric, count in inside.items():
            change = metric.endswith("round0")
            distance = metric.startswith(("total", "kl"))
            wide = (distance and (change or k > 2 or "equal" in name)) or "corrected" in metric or ".95" in name
            limits = SURELY if wide else COVERS
            yield Row(f"{metric} covers", name, count / samples, limits, None, samples)
            if change:
                yield Row(f"{metric}: a change is shown", name, 1.0 - count / samples, FALSE, None, samples)


def other_sums(samples: int) -> Rows:
    """Perplexities, whose texts have unequal lengths, and rewards of queries with unequal numbers of completions."""
    for n in (30, 100):
        rng = np.random.default_rng(n)
        prompts = Prompts(n, 0, "simulated")
        inside = wins = 0
        for _ in range(samples):
            tokens = 1.0 + rng.poisson(12.0, size=n)
            nats = tokens * rng.gamma(4.0, 0.5, size=n)
            found = prompts.means(nats[:, None], tokens)
            inside += found.low[0] <= 2.0 <= found.high[0]
            completions = rng.integers(1, 9, size=n)
            rewards = completions * rng.normal(size=n) + np.sqrt(completions) * rng.normal(size=n)
            found = prompts.means(rewards[:, None], completions)
            wins += found.low[0] <= 0.0 <= found.high[0]
        name = "lengths and likelihoods vary"
        yield Row(f"perplexity of {n} prompts covers", name, inside / samples, COVERS, None, samples)
        yield Row(f"reward of {n} queries covers", "1 to 8 completions each", wins / samples, COVERS, None, samples)


def odds_of(rng: np.random.Generator, kind: FloatArray, told_apart: float) -> FloatArray:
    """Calibrated log-odds of a judge that tells kinds apart by so many standard deviations, of texts of kind 1 or 0."""
    sign = 2.0 * kind - 1.0
    return np.asarray(sign * told_apart**2 / 2.0 + told_apart * rng.normal(size=kind.shape))


def soft(samples: int) -> Rows:
    """Soft preference of a weak and a better judge: coverage, and changes that are shown where there are none."""
    for told_apart, n, answers in ((0.5, 200, 1), (2.0, 200, 1), (0.5, 60, 4)):
        rng = np.random.default_rng(int(10 * told_apart) + answers)
        prompts = Prompts(n, 0, "simulated")
        name = f"{n} prompts x {answers}, kinds {told_apart} sd apart"
        covers = changed = 0
        for _ in range(samples):
            lean = rng.beta(3.0, 2.0, size=(n, 1))
            now, then = (odds_of(rng, (rng.random((n, answers)) < lean) * 1.0, told_apart).sum(axis=1) for _ in "ab")
            counts = np.full(n, float(answers))
            found = prompts.means(now[:, None], counts)
            covers += found.low[0] <= 0.2 * told_apart**2 / 2.0 <= found.high[0]
            moved = prompts.changes(now[:, None], counts, then[:, None], counts)
            changed += not moved.low[0] <= 0.0 <= moved.high[0]
        yield Row("soft preference covers", name, covers / samples, COVERS, None, samples)
        yield Row("soft preference: a change is shown", name, changed / samples, FALSE, None, samples)


def soft_between_seeds(samples: int) -> Rows:
    """Claims about soft preference where nothing is preferred and kinds drift, tested as the mean of its numbers.

    Beside it, Student's test of the smoothed log-odds of labels.
    """
    for start, told_apart in (((0.9, 0.1), 2.0), ((0.9, 0.1), 0.7), ((0.6, 0.4), 0.7)):
        rng = np.random.default_rng(int(10 * told_apart))
        paths = wright_fisher(start, draws=256, rounds=10, runs=10 * samples, seed=7)[:, [0, -1], 0]
        kind = (rng.random((*paths.shape, 200)) < paths[..., None]) * 1.0
        found = odds_of(rng, kind, told_apart).mean(axis=-1).reshape(samples, 10, 2)
        d = found[..., 1] - found[..., 0]
        shares = kind.mean(axis=-1).reshape(samples, 10, 2)
        labels = old_log_odds(np.stack([shares, 1.0 - shares], axis=-1))
        before = float((students(labels[..., 1] - labels[..., 0]) < LEVEL).mean())
        name = f"{' / '.join(map(str, start))}, kinds {told_apart} sd apart, 10 seeds"
        rate = float((sign_flips.two_sided_p(d) < LEVEL).mean())
        yield Row("claim about soft preference: any verdict", name, rate, FALSE, before, samples)


def weaker_than_labels(samples: int) -> Rows:
    """How often a shift of the share by .15 is seen with 200 prompts: by soft preference, and before by labels."""
    for told_apart in (0.7, 1.5):
        rng = np.random.default_rng(9)
        prompts, counts = Prompts(200, 0, "simulated"), np.ones(200)
        seen = labels = 0
        for _ in range(samples):
            then, now = ((rng.random(200) < share) * 1.0 for share in (0.5, 0.65))
            odds = [odds_of(rng, kind, told_apart)[:, None] for kind in (now, then)]
            soft_moved = prompts.changes(odds[0], counts, odds[1], counts)
            hard_moved = prompts.log_odds_changes(odds[0] > 0, counts, odds[1] > 0, counts)
            seen += soft_moved.low[0] > 0
            labels += hard_moved.low[0] > 0
        yield Row(
            "a share that rises by .15 is seen by soft preference (before: by labels)",
            f"200 prompts, kinds {told_apart} sd apart",
            seen / samples,
            (0.0, 1.0),
            labels / samples,
            samples,
        )


Part = Callable[[int], Rows]
SUITE: tuple[Part, ...] = (
    fractions,
    groups,
    kinds,
    other_sums,
    soft,
    soft_between_seeds,
    weaker_than_labels,
)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the exit code is 1 if a rate lies outside its limits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help=f"{SHORT} samples per row instead of {LONG:,}")
    parser.add_argument("parts", nargs="*", help=f"only these of {', '.join(part.__name__ for part in SUITE)}")
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    found = [
        row
        for part in SUITE
        if not given.parts or part.__name__ in given.parts
        for row in part(SHORT if given.short else LONG)
    ]
    sys.stdout.write(f"{table(found)}\n\n{len(found)} rows in {time.perf_counter() - began:.0f} s\n")
    return 0 if all(row.holds for row in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
