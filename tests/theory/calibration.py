"""How often the sentences of a report are wrong: size, power and coverage of every verdict, flag and interval.

::

    python -m tests.theory.calibration                    # the table, minutes
    python -m tests.theory.calibration --short            # seconds, wider limits
    python -m tests.theory.calibration --figures docs/images    # only draws the figures

Every row simulates studies of which the truth is known, says how often the rule that is in use errs, how often the one
that it replaced does, and between which limits the rate has to lie. ``statistics.md`` explains what each row is about.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import logit

from scpl_ray.analytic.loop import simulate
from scpl_ray.analytic.model import Start
from scpl_ray.config import Experiment
from scpl_ray.evaluation import bias, disparity, sign_flips
from scpl_ray.shares import FloatArray
from scpl_ray.studies import power, preference
from scpl_ray.studies.statistics import holm
from tests.theory.drift import drifting_arm, wright_fisher

LEVEL = 0.05
LONG, SHORT, DRAWN = 2_000, 250, 1_000
"""Simulated studies per row, of the short form, and per point of a figure."""
POWER = (0.8, 1.0)
"""How often a word has to be said of an effect that is there: the power that studies are usually planned for."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a rate that was simulated."""

    what: str
    situation: str
    rate: float
    limit: tuple[float, float]
    """Between which numbers the rate has to lie."""
    replaced: float | None = None
    """The rate of the rule that was in use before; ``None``: there was none."""
    studies: int = LONG

    @property
    def slack(self) -> float:
        """Three standard errors of the simulated rate, which the limits are given in addition."""
        edge = min(max(self.limit[1] if self.rate > self.limit[1] else self.limit[0], 0.01), 0.99)
        return 3.0 * float(np.sqrt(edge * (1.0 - edge) / self.studies))

    @property
    def holds(self) -> bool:
        """Whether the rate lies within its limits."""
        return self.limit[0] - self.slack <= self.rate <= self.limit[1] + self.slack


Rows = Iterator[Row]


# differences between seeds


def centred(law: str, rng: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """Differences of mean 0, shape (studies, seeds)."""
    normal = rng.normal(size=shape)
    match law:
        case "normal":
            return normal
        case "exponential":
            return rng.exponential(size=shape) - 1.0
        case "lognormal":
            return np.asarray(np.exp(normal) - np.exp(0.5))
        case "chi-square":
            return normal**2 - 1.0
        case "Student, 3 degrees":
            return rng.standard_t(3, size=shape)
        case "unequal spread":
            return np.asarray(normal * np.where(np.arange(shape[1]) < shape[1] // 2, 1.0, 5.0))
        case "lognormal arms":
            return np.asarray(np.exp(normal) - np.exp(rng.normal(size=shape)))
    raise ValueError(f"law: {law!r} is none that is simulated")


LAWS = (
    "normal",
    "exponential",
    "lognormal",
    "chi-square",
    "Student, 3 degrees",
    "unequal spread",
    "lognormal arms",
)


def students(d: FloatArray) -> FloatArray:
    """Two-sided p-values of Student's t, shape (...)."""
    spread = d.std(axis=-1, ddof=1)
    t = np.divide(d.mean(axis=-1) * np.sqrt(d.shape[-1]), spread, out=np.zeros(d.shape[:-1]), where=spread > 0)
    return np.asarray(2.0 * stats.t.sf(np.abs(t), d.shape[-1] - 1))


def one_sided(d: FloatArray) -> FloatArray:
    """Whether either of two one-sided t-tests at the level rejects: the verdicts before."""
    return np.asarray(students(d) < 2.0 * LEVEL)


def verdicts_of_differences(studies: int) -> Rows:
    """Size of "supported or opposite" for one claim, and coverage of the interval beside it."""
    for n in (6, 10, 20):
        for law in LAWS:
            d = centred(law, np.random.default_rng(n), (studies, n))
            wrong = float((sign_flips.two_sided_p(d) < LEVEL).mean())
            # with 6 seeds the longest tail is not seen, and 7 seeds are the fewest that Holm leaves anything to
            most = (
                0.06 if n > 6 or law in ("normal", "Student, 3 degrees", "unequal spread", "lognormal arms") else 0.10
            )
            yield Row(
                "claim: any verdict", f"{law}, {n} seeds", wrong, (0.0, most), float(one_sided(d).mean()), studies
            )
            covered = float((students(d) >= LEVEL).mean())
            yield Row("claim: interval covers", f"{law}, {n} seeds", 1.0 - wrong, (1.0 - most, 1.0), covered, studies)
    for n in (2, 3, 5):
        for law in ("normal", "exponential"):
            d = centred(law, np.random.default_rng(n), (studies, n))
            t = float((students(d) >= LEVEL).mean())
            yield Row("claim: Student's interval covers", f"{law}, {n} seeds", t, (0.85, 1.0), t, studies)


def families(studies: int) -> Rows:
    """Chance of any false verdict in a family of claims, and the power that the detectable effect names."""
    for law in ("normal", "exponential", "lognormal arms"):
        d = centred(law, np.random.default_rng(3), (studies * 15, 10))
        p = sign_flips.two_sided_p(d).reshape(studies, 15)
        before = students(d).reshape(studies, 15) / 2.0
        old = [
            holm(row).min() < LEVEL or holm(1.0 - row).min() < LEVEL
            for row in np.where(_above(d, 15), before, 1 - before)
        ]
        wrong = np.mean([holm(row).min() < LEVEL for row in p])
        most = 0.06 if law != "exponential" else 0.20
        yield Row(
            "family of 15: any verdict", f"{law}, 10 seeds", float(wrong), (0.0, most), float(np.mean(old)), studies
        )
    for n in (3, 5, 6, 10, 20):
        rng = np.random.default_rng(40 + n)
        pilot, later = rng.normal(size=(2, studies, n))
        sd = pilot.std(axis=1, ddof=1)
        shifted = later + (power.minimum_detectable_effect(1.0, n) * sd)[:, None]
        found = students(shifted) if n < sign_flips.FEWEST else sign_flips.two_sided_p(shifted)
        plain = _plug_in(n) * sd
        old_power = stats.nct.sf(stats.t.ppf(1 - LEVEL, n - 1), n - 1, plain * np.sqrt(n)).mean()
        yield Row(
            "claim: power at the detectable effect",
            f"80% named, {n} seeds",
            float((found <= LEVEL).mean()),
            (0.78, 0.84),
            float(old_power),
            studies,
        )


def _above(d: FloatArray, claims: int) -> FloatArray:
    return np.asarray(d.mean(axis=1).reshape(-1, claims) > 0)


def _plug_in(n: int) -> float:
    """The detectable effect of before in estimated standard deviations: one-sided, with sd taken as known."""
    critical, low, high = stats.t.ppf(1 - LEVEL, n - 1), 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if stats.nct.sf(critical, n - 1, middle) < 0.8 else (low, middle)
    return float(low / np.sqrt(n))


def margins(studies: int) -> Rows:
    """A non-inferiority claim at the margin itself, and how a plain "costs" claim reads there."""
    rng = np.random.default_rng(8)
    at_margin = rng.normal(-1.0, 1.0, size=(studies, 10)) + 1.0
    p, mean = sign_flips.two_sided_p(at_margin), at_margin.mean(axis=1)
    harmless = float(((p < LEVEL) & (mean > 0)).mean())
    not_shown = float((students(rng.normal(-1.0, 1.0, size=(studies, 10))) / 2.0 >= LEVEL / 15).mean())
    yield Row("margin: called harmless", "a loss of exactly the margin", harmless, (0.0, 0.03), not_shown, studies)


# preference without any preference


STARTS = {"two kinds at .5": (0.5, 0.5), "two kinds at .7": (0.7, 0.3), "two kinds at .9": (0.9, 0.1),
          "three kinds at .6": (0.6, 0.3, 0.1), "three kinds at 1/3": (1 / 3, 1 / 3, 1 / 3)}  # fmt: skip


def neutral(start: tuple[float, ...], studies: int, seeds: int, memory: str, seed: int) -> FloatArray:
    """Measured shares in rounds 0 and 10 of arms of which nothing is selected, (studies, seeds, 2, K)."""
    path = drifting_arm(start, draws=256, rounds=10, runs=studies * seeds, memory=memory, seed=seed)
    rng = np.random.default_rng(seed + 1_000)
    ends = rng.multinomial(256, path[:, [0, -1]]) / 256
    return np.asarray(ends.reshape(studies, seeds, 2, len(start)))


def old_log_odds(shares: FloatArray) -> FloatArray:
    """Smoothed log-odds of the first kind."""
    return bias.smoothed_logit(shares[..., 0], 256)


def amplified_without_preference(studies: int) -> Rows:
    """The flag of one arm, and claims between arms, where nothing prefers anything."""
    for i, (name, start) in enumerate(STARTS.items()):
        arm = neutral(start, studies, 10, "replace", 10 * i)
        words = [_word(one) for one in arm]
        wrong = np.mean([word in ("amplified", "reduced") for word in words])
        moved = np.mean([word != "not shown" for word in words])
        old = old_log_odds(arm[:, :, 1]) - old_log_odds(arm[:, :, 0])
        rose = float(((students(old) / 2.0 < LEVEL) & (old.mean(axis=1) > 0)).mean())
        yield Row("flag: amplified or reduced", f"{name}, 10 seeds", float(wrong), (0.0, 0.07), rose, studies)
        yield Row("flag: moved at all", f"{name}, 10 seeds", float(moved), (0.0, 0.07), None, studies)
        control = neutral(start, studies, 10, "accumulate", 10 * i + 5)
        signed = (control[:, :, 1, 0] - control[:, :, 0, 0]) - (arm[:, :, 1, 0] - arm[:, :, 0, 0])
        odds = (old_log_odds(control[:, :, 1]) - old_log_odds(control[:, :, 0])) - old
        lower = float(((students(odds) / 2.0 < LEVEL) & (odds.mean(axis=1) < 0)).mean())
        found = float((sign_flips.two_sided_p(signed) < LEVEL).mean())
        yield Row("claim: accumulating against replacing", f"{name}, share", found, (0.0, 0.07), lower, studies)
        away = [_distance_claim(a[:, 1], b[:, 1]) for a, b in zip(arm, control, strict=True)]
        plug = 0.5 * np.abs(arm[:, :, 1] - 1 / len(start)).sum(-1) - 0.5 * np.abs(
            control[:, :, 1] - 1 / len(start)
        ).sum(-1)
        naive = float((students(plug) < LEVEL).mean())
        yield Row(
            "claim: accumulating against replacing",
            f"{name}, distance",
            float(np.mean([p < LEVEL for p in away])),
            (0.0, 0.07),
            naive,
            studies,
        )


ANALYTIC_STARTS = ((0.9, 0.1), (0.7, 0.3), (0.5, 0.5), (0.8, 0.1, 0.1))


def analytic_mode(studies: int) -> Rows:
    """The same in the analytic mode without memory, where a kind of share .9 nearly takes all in 10 rounds."""
    memories: dict[str, dict[str, Any]] = {"replace": {}, "accumulate": {"cycle": {"kind": "accumulate"}}}
    studies = max(60, studies // 5)
    for start in ANALYTIC_STARTS:
        k, arms = len(start), {}
        for memory, keys in memories.items():
            experiment = Experiment.model_validate(
                {
                    "groups": {"names": [f"g{i}" for i in range(k)], "shares": [1 / k] * k},
                    "generation": {"engine": "transformers", "samples_per_prompt": 1},
                    "queries": {"prompts_per_round": 256},
                    "selection": {"strategy": "none"},
                    "feedback": {"rule": "static"},
                    "loop": {"rounds": 10},
                    "analytic": {"seeds": studies * 10, "prior_rows": 0.0, "spillover": 0.0},
                    **keys,
                }
            )
            own = Start(np.full((k, k), 1 / k), np.array(start))
            kinds = simulate(experiment, start=own).kinds[:, [0, -1]]
            arms[memory] = kinds.reshape(studies, 10, 2, k)
        name = f"{' / '.join(f'{share:g}' for share in start)}, 10 seeds"
        arm, control = arms["replace"], arms["accumulate"]
        wrong = np.mean([_word(one) in ("amplified", "reduced") for one in arm])
        old = old_log_odds(arm[:, :, 1]) - old_log_odds(arm[:, :, 0])
        rose = float(((students(old) / 2.0 < LEVEL) & (old.mean(axis=1) > 0)).mean())
        yield Row("analytic mode: amplified or reduced", name, float(wrong), (0.0, 0.07), rose, studies)
        signed = (control[:, :, 1, 0] - control[:, :, 0, 0]) - (arm[:, :, 1, 0] - arm[:, :, 0, 0])
        odds = (old_log_odds(control[:, :, 1]) - old_log_odds(control[:, :, 0])) - old
        lower = float(((students(odds) / 2.0 < LEVEL) & (odds.mean(axis=1) < 0)).mean())
        found = float((sign_flips.two_sided_p(signed) < LEVEL).mean())
        yield Row("analytic mode: accumulating against replacing", f"{name}, share", found, (0.0, 0.07), lower, studies)
        away = np.mean([_distance_claim(a[:, 1], b[:, 1]) < LEVEL for a, b in zip(arm, control, strict=True)])
        yield Row(
            "analytic mode: accumulating against replacing",
            f"{name}, distance",
            float(away),
            (0.0, 0.07),
            None,
            studies,
        )


def _word(arm: FloatArray) -> str:
    """The word of :func:`scpl_ray.studies.preference.amplification` for measured shares (S, 2, K)."""
    p = preference.moved_p(arm[:, 1] - arm[:, 0])
    if p >= LEVEL:
        return "not shown"
    equal = np.full(arm.shape[-1], 1.0 / arm.shape[-1])
    distance = preference.distance_parts(arm[:, 1], equal) - preference.distance_parts(arm[:, 0], equal)
    if sign_flips.two_sided_p(distance) >= LEVEL:
        return "turned"
    return "amplified" if distance.mean() > 0 else "reduced"


def _distance_claim(treatment: FloatArray, control: FloatArray) -> float:
    """P-value of a claim on a distance from equal shares, shares of shape (S, K) each."""
    equal = np.full(treatment.shape[-1], 1.0 / treatment.shape[-1])
    parts = preference.distance_parts(treatment, equal) - preference.distance_parts(control, equal)
    return max(float(sign_flips.two_sided_p(parts)), preference.moved_p(treatment - control))


def amplified_with_preference(studies: int) -> Rows:
    """Power: shares that a preference moved by a known log-odds, in both directions, and a takeover of a third kind."""
    for name, start, towards, word in (
        ("a lean that grows", (0.6, 0.4), (0.7, 0.3), "amplified"),
        ("a lean from -1.0 to -0.1", (0.27, 0.73), (0.475, 0.525), "reduced"),
        ("a third kind takes over", (0.4, 0.35, 0.25), (0.2, 0.2, 0.6), "amplified"),
    ):
        rng = np.random.default_rng(len(name))
        seeds = rng.normal(0.0, 0.15, size=(studies, 10, 1, len(start)))
        law = np.exp(np.log(np.array([start, towards])) + seeds * np.array([0.0, 1.0])[:, None])
        arm = rng.multinomial(256, law / law.sum(-1, keepdims=True)) / 256
        said = float(np.mean([_word(one) == word for one in arm]))
        odds = old_log_odds(arm[:, :, 1]) - old_log_odds(arm[:, :, 0])
        old = float(((students(odds) / 2.0 < LEVEL) & (odds.mean(axis=1) > 0)).mean())
        yield Row(f"flag: {word} is said", name, said, POWER, old, studies)


# distances of counts, and the judge


def distances_of_counts(studies: int) -> Rows:
    """Mean of measured distances where there is none; and coverage of a corrected share's error."""
    rng = np.random.default_rng(21)
    for n in (200, 20):
        s = rng.multinomial(n, [1 / 3] * 3, size=studies * 10) / n
        plain = bias.preference_bias(s, [1 / 3] * 3, advantaged=0)
        found = bias.preference_bias(s, [1 / 3] * 3, advantaged=0, total=np.full(len(s), n))
        for metric in ("total_variation", "kl"):
            mean = float(getattr(found, metric).mean())
            before = float(getattr(plain, metric).mean())
            yield Row(f"mean {metric} of equal shares", f"{n} answers", mean, (-0.01, 0.01), before, studies)
    for texts in (50, 500):
        confusion = np.stack(
            [rng.multinomial(texts, row, size=studies) for row in ([0.85, 0.15], [0.25, 0.75])], axis=1
        )
        true = 0.65
        judged = rng.binomial(200, true * 0.85 + (1 - true) * 0.25, size=studies) / 200
        inside = before = 0
        for o, counts in zip(judged, confusion, strict=True):
            rates = bias.confusion_of_counts(counts)
            if rates[0, 0] - rates[1, 0] < 0.2:
                continue
            known = bias.correct_shares([o, 1 - o], rates, total=200)
            counted = bias.correct_shares([o, 1 - o], counts, total=200)
            off = abs(counted.unclipped[0] - true)
            inside += off <= 1.96 * counted.sd[0]
            before += off <= 1.96 * known.sd[0]
        yield Row(
            "corrected share: 1.96 standard errors cover",
            f"{texts} texts per kind on the card",
            inside / studies,
            (0.92, 0.99),
            before / studies,
            studies,
        )


# gaps


def closing_gaps(studies: int) -> Rows:
    """The words about a gap that closed, over 20 rounds in which nothing changes, and where something does."""
    fewer = max(100, studies // 2)
    for k, n in ((2, 10), (3, 10), (2, 6)):
        rng = np.random.default_rng(30 + k + n)
        quality = np.clip(0.7 + 0.05 * rng.normal(size=(fewer, n, 21, k)), 0, 1)
        said = np.mean([(disparity.levelled_down_between_seeds(q).cause != "").any() for q in quality])
        old = np.mean([_levelled_before(q).any() for q in quality])
        yield Row("gap: any word in 20 rounds", f"{k} groups, {n} seeds", float(said), (0.0, 0.07), float(old), fewer)
    few = [disparity.levelled_down_between_seeds(q[:3]).seen for q in quality[:20]]
    old = np.mean([_levelled_before(q[:3]).any() for q in quality])
    yield Row("gap: any word in 20 rounds", "3 seeds: cannot see", float(np.mean(few)), (0.0, 0.0), float(old), fewer)
    for cause, last in (
        (disparity.ALL_LOST, (0.6, 0.55)),
        (disparity.WORST_GAINED, (0.66, 0.66)),
        (disparity.GAIN, (0.8, 0.75)),
    ):
        rng = np.random.default_rng(50)
        rounds = np.linspace((0.8, 0.6), last, 6)
        quality = np.clip(rounds + 0.02 * rng.normal(size=(fewer, 10, 6, 2)), 0, 1)
        said = np.mean([disparity.levelled_down_between_seeds(q).cause[-1] == cause for q in quality])
        yield Row(f"gap: “{cause}” is said", f"0.8, 0.6 to {last[0]}, {last[1]}", float(said), POWER, None, fewer)


def _levelled_before(q: FloatArray) -> FloatArray:
    """The flag of before: the mean gap is smaller, and the t-interval of mean or worst lies below 0, round by round."""
    unequal = disparity.disparate_bias(q)
    half = stats.t.ppf(0.975, len(q) - 1) / np.sqrt(len(q))

    def high(values: FloatArray) -> FloatArray:
        moved = values[:, 1:] - values[:, :1]
        return np.asarray(moved.mean(axis=0) + half * moved.std(axis=0, ddof=1))

    closed = (unequal.gap[:, 1:] - unequal.gap[:, :1]).mean(axis=0) < 0
    return np.asarray(closed & ((high(unequal.mean) < 0) | (high(unequal.worst) < 0)))


Part = Callable[[int], Rows]
SUITE: tuple[Part, ...] = (
    verdicts_of_differences,
    families,
    margins,
    amplified_without_preference,
    analytic_mode,
    amplified_with_preference,
    distances_of_counts,
    closing_gaps,
)


def rows(studies: int) -> Rows:
    """All rows of the table, with so many simulated studies each."""
    for part in SUITE:
        yield from part(studies)


def table(found: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| what | where | rate | allowed | before | |", "|---|---|---|---|---|---|"]
    for row in found:
        before = "" if row.replaced is None else f"{row.replaced:.3f}"
        limits = f"{row.limit[0]:g} to {row.limit[1]:g}"
        lines.append(
            f"| {row.what} | {row.situation} | {row.rate:.3f} | {limits} | {before} | {'' if row.holds else 'FAILS'} |"
        )
    return "\n".join(lines)


def draw(folder: Path) -> None:
    """The two figures of ``statistics.md``: what chance does to log-odds and distance, and to the size of tests."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    path = wright_fisher((0.9, 0.1), draws=256, rounds=10, runs=5_000, seed=1)[..., 0]
    smoothed = np.clip(path, 0.5 / 256, 1 - 0.5 / 256)
    lines = (
        ("share", path.mean(0) - 0.9),
        ("log-odds", logit(smoothed).mean(0) - logit(0.9)),
        ("distance of a run from round 0", np.abs(path - 0.9).mean(0)),
    )
    canvas = Figure(figsize=(5.2, 3.0), layout="constrained")
    FigureCanvasSVG(canvas)
    axis = canvas.subplots()
    for label, values in lines:
        axis.plot(values, label=label, marker="o", markersize=3)
    axis.set_xlabel("round")
    axis.set_ylabel("mean change since round 0")
    axis.axhline(0.0, color="#777777", lw=0.8)
    axis.legend(frameon=False)
    axis.set_title("Nothing is preferred: kinds at .9 and .1, 256 rows a round", fontsize=9, loc="left")
    canvas.savefig(folder / "drift_scales.svg", metadata={"Date": None, "Creator": None})

    canvas = Figure(figsize=(5.2, 3.0), layout="constrained")
    FigureCanvasSVG(canvas)
    axis = canvas.subplots()
    sizes = (6, 7, 8, 9, 10, 12)
    for law, style in (("normal", "-"), ("exponential", "--"), ("lognormal", ":")):
        d = {n: centred(law, np.random.default_rng(n), (DRAWN, n)) for n in sizes}
        new = [float((sign_flips.two_sided_p(d[n]) < LEVEL).mean()) for n in sizes]
        axis.plot(sizes, new, style, color="#0072B2", label=f"{law}, now")
        axis.plot(sizes, [float(one_sided(d[n]).mean()) for n in sizes], style, color="#D55E00", label=f"{law}, before")
    axis.axhline(LEVEL, color="#777777", lw=0.8)
    axis.set_xlabel("seeds")
    axis.set_ylabel("false verdicts of one claim")
    axis.set_ylim(0.0, None)
    axis.legend(frameon=False, fontsize=7, ncols=2)
    canvas.savefig(folder / "verdict_size.svg", metadata={"Date": None, "Creator": None})


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the exit code is 1 if a rate lies outside its limits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help=f"{SHORT} studies per row instead of {LONG:,}")
    parser.add_argument("--figures", type=Path, help="only draw the figures of statistics.md, into this folder")
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    if given.figures is not None:
        draw(given.figures)
        return 0
    found = list(rows(SHORT if given.short else LONG))
    sys.stdout.write(f"{table(found)}\n\n{len(found)} rows in {time.perf_counter() - began:.0f} s\n")
    return 0 if all(row.holds for row in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
