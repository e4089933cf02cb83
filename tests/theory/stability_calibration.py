"""How often the intervals and verdicts on stability, gaps and fitted parameters are right, by simulation.

``python -m tests.theory.stability_calibration`` prints the table; tests run parts of it with fewer repetitions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from scpl_ray.analytic import calibration, fixed_points, model
from scpl_ray.analytic.loop import simulate
from scpl_ray.analytic.paths import Paths
from scpl_ray.config import Experiment
from scpl_ray.evaluation.disparity import gap_null
from scpl_ray.feedback.stability import GroupMap, Part, estimate_group_map, estimate_loop_map
from scpl_ray.shares import FloatArray
from scpl_ray.studies.series import Series
from scpl_ray.studies.stability import arm_stability

Row = tuple[str, float, float, int, str]
"""What is measured, its nominal value, its measured value, the number of repetitions, and the condition."""
CONFIDENCE = 0.95
MANY_ANSWERS = {"evaluation": {"neutral_prompts": 4000, "prompts_per_group": 4000}}
SLOW_RUNAWAY = {
    "groups": {"shares": (0.57, 0.43)},
    "queries": {"prompts_per_round": 256},
    "task": {"marker_strength": 0.5},
    "feedback": {"measure": "own_kind", "beta": 4.0},
    "analytic": {"prior_rows": 3000.0},
}
"""A loop whose shares rest within ten rounds, and rise with the kinds to about .94 in 300."""


def experiment(*changes: dict[str, dict[str, object]]) -> Experiment:
    """The default experiment with these keys by section; later changes win."""
    tree: dict[str, dict[str, object]] = {}
    for change in changes:
        for section, keys in change.items():
            tree.setdefault(section, {}).update(keys)
    return Experiment.model_validate(tree)


# rho ----------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Rates:
    """Fractions of the repetitions."""

    told: float
    """Those that gave an interval."""
    coverage: float
    """Of these, those that contain the true value."""
    stable: float
    """Those that said stable."""
    unstable: float
    plain_stable: float
    """Those that would have said stable without a correction for noise."""


def linear_loop(
    jacobian: Sequence[Sequence[float]],
    seeds: int,
    rounds: int,
    answers: int,
    rng: np.random.Generator,
    *,
    same_chance: bool = False,
) -> list[Part]:
    """A loop of log-odds x' = J x + N(0, .15^2) around 0: the first is a share, the others are kinds in ``answers``.

    With ``same_chance`` an answer is drawn by the same uniform in every round, as from one seed to one prompt.
    """
    slope = np.asarray(jacobian)
    path = [0.3 * rng.standard_normal((seeds, len(slope)))]
    for _ in range(rounds):
        path.append(path[-1] @ slope.T + 0.15 * rng.standard_normal(path[-1].shape))
    shares = expit(np.stack(path, axis=1))
    if same_chance:
        chance = rng.random((seeds, 1, len(slope) - 1, answers))
        counted = (chance < shares[..., 1:, None]).mean(axis=-1)
    else:
        counted = rng.binomial(answers, shares[..., 1:]) / answers
    parts = [Part("shares", _two(shares[..., 0]))]
    return parts + [Part("kinds", _two(counted[..., k]), answers) for k in range(counted.shape[-1])]


def rho_of_linear_loops(
    jacobian: Sequence[Sequence[float]],
    seeds: int,
    rounds: int,
    answers: int,
    repetitions: int,
    seed: int = 0,
    *,
    same_chance: bool = False,
) -> Rates:
    """Estimate rho(J) of :func:`linear_loop` again and again."""
    rng = np.random.default_rng(seed)
    rho = float(np.abs(np.linalg.eigvals(np.asarray(jacobian))).max())
    found, plain = [], []
    for _ in range(repetitions):
        parts = linear_loop(jacobian, seeds, rounds, answers, rng, same_chance=same_chance)
        found.append(estimate_loop_map(parts))
        as_exact = [dataclasses.replace(p, values=np.clip(p.values, 1e-3, 1 - 1e-3), draws=np.inf) for p in parts]
        plain.append(estimate_loop_map(as_exact))
    return _rates(found, rho, np.mean([one.high < 1.0 for one in plain]))


def rho_of_arms(changes: dict[str, dict[str, object]], seeds: int, rounds: int, repetitions: int) -> Rates:
    """Estimate rho(J) of simulated studies; the truth is what 2,000 seeds show whose policies are known exactly."""
    longer = experiment(changes, {"loop": {"rounds": 40}, "analytic": {"seeds": 2000}})
    truth = fixed_points.stability(simulate(longer)).estimate
    assert truth is not None
    config = experiment(changes, {"loop": {"rounds": rounds}, "analytic": {"seeds": seeds * repetitions}})
    paths = simulate(config)
    found, alone = [], []
    for i in range(repetitions):
        one, _ = arm_stability(series_of(paths, range(i * seeds, (i + 1) * seeds)), "arm", config)
        assert one is not None
        found.append(one)
        shares = paths.shares[i * seeds : (i + 1) * seeds, 1:]
        alone.append(estimate_group_map(shares, state="shares", draws=np.inf).verdict == "stable")
    return _rates(found, truth.rho, np.mean(alone))


def series_of(paths: Paths, rows: range) -> Series:
    """Some seeds of a simulation, as the results of the arm ``arm``."""
    return Series(("arm",), tuple(rows), {"arm": {key: path[list(rows)] for key, path in paths.series().items()}})


def _rates(found: Sequence[GroupMap], rho: float, plain_stable: float) -> Rates:
    told = [one for one in found if not np.isnan(one.rho)]
    return Rates(
        told=len(told) / len(found),
        coverage=float(np.mean([one.low <= rho <= one.high for one in told])) if told else float("nan"),
        stable=float(np.mean([one.verdict == "stable" for one in found])),
        unstable=float(np.mean([one.verdict == "unstable" for one in found])),
        plain_stable=float(plain_stable),
    )


def _two(share: FloatArray) -> FloatArray:
    return np.stack([share, 1.0 - share], axis=-1)


# gaps ---------------------------------------------------------------------------------------------------------------


def gaps(offset: float, repetitions: int, gain: float = 0.0, prompts: int = 100) -> tuple[float, float, float, float]:
    """Mean gap, mean gap by chance at the base's difficulty, and how often p <= .05: with that difficulty, without.

    Prompts of the first of two groups are easier by ``offset``, and that group gains ``gain`` on top of all others.
    """
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], prompts)
    lean = np.where(groups == 0, offset / 2, -offset / 2)
    rows = []
    for seed in range(repetitions):
        easy = np.clip(0.5 + 0.2 * rng.standard_normal(2 * prompts) + lean, 0.02, 0.98)
        base = (rng.random(2 * prompts) < easy).astype(np.float64)
        served = np.clip(easy + 0.05 + np.where(groups == 0, gain, 0.0), 0.0, 1.0)
        now = (rng.random(2 * prompts) < served).astype(np.float64)
        found = gap_null(now, groups, 2, seed=seed, base=base, permutations=199)
        equal = gap_null(now, groups, 2, seed=seed, permutations=199)
        rows.append((found.gap, found.null_mean, found.p <= 0.05, equal.p <= 0.05))
    mean = np.mean(rows, axis=0).tolist()
    return mean[0], mean[1], mean[2], mean[3]


# fitting ------------------------------------------------------------------------------------------------------------

THREE_GROUPS: dict[str, dict[str, object]] = {
    "groups": {"names": ("a", "b", "c"), "shares": (0.6, 0.25, 0.15)},
    "loop": {"rounds": 8},
    "analytic": {
        "choice_gain": 0.7,
        "reward_sd": 0.35,
        "quality_ceiling": 0.8,
        "learning_exponent": 0.3,
        "prior_rows": 100.0,
    },
}


def observed(truth: Experiment) -> calibration.Observed:
    """One simulated seed, seen as a run whose config knows none of the true parameters."""
    paths = simulate(truth.model_copy(update={"analytic": truth.analytic.model_copy(update={"seeds": 2})}))
    rounds, k = truth.loop.rounds, len(truth.groups.names)
    law = model.asked_law(paths.revealing_law[0], paths.neutral_law[0], truth.task.marker_strength)
    means = np.full((rounds + 1, k), np.nan)
    spread = means.copy()
    for t in range(1, rounds + 1):
        mu = model.mean_rewards(paths.shares[0, t], model.choice_gain(truth), truth.analytic.kind_advantage)
        means[t] = law[t - 1] @ mu
        spread[t] = model.reward_sds(truth)[0] ** 2 + law[t - 1] @ mu**2 - means[t] ** 2
    return calibration.Observed(
        experiment=truth.model_copy(update={"analytic": experiment().analytic}),
        shares=paths.shares[0],
        quality=paths.quality[0],
        quality_without_own_kind=paths.quality_without_own_kind[0],
        own_kind=paths.own_kind[0],
        kind_counts=paths.kinds[0] * truth.evaluation.neutral_prompts * truth.evaluation.samples_per_prompt,
        log_odds=paths.preference("balanced").log_odds[0],
        rewards=means,
        reward_variance=spread,
        data_shares=np.vstack([np.full(k, 1 / k), paths.kept_shares[0, 1:]]),
    )


def fits(prompts: int, repetitions: int, *changes: dict[str, dict[str, object]]) -> list[calibration.Calibration]:
    """Fits to simulated runs with so many prompts per round and as many of each kind in the evaluation."""
    sizes: dict[str, dict[str, object]] = {
        "queries": {"prompts_per_round": prompts},
        "evaluation": {"prompts_per_group": prompts, "neutral_prompts": prompts},
    }
    truths = [experiment(THREE_GROUPS, *changes, sizes) for _ in range(repetitions)]
    return [
        calibration.calibrate(observed(truth.model_copy(update={"seed": seed})), 4) for seed, truth in enumerate(truths)
    ]


def fitted(found: Sequence[calibration.Calibration], name: str) -> list[calibration.Fitted]:
    """One parameter of several fits."""
    return [next(p for p in one.parameters if p.name == name) for one in found]


# the table ----------------------------------------------------------------------------------------------------------

JACOBIANS: dict[str, list[list[float]]] = {
    "one share, rho .9": [[0.9]],
    "share and kind, rho .856": [[0.4, 0.2], [0.1, 0.8]],
    "share and kind, rho 1": [[0.4, 0.2], [0.0, 1.0]],
    "share and kind, rho 1.1": [[0.4, 0.2], [0.0, 1.1]],
    "share and three kinds, rho 1 thrice": [[0.5, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]],
}


def rows(scale: float = 1.0) -> list[Row]:
    """The table; ``scale`` multiplies the numbers of repetitions."""
    table: list[Row] = []

    def times(count: int) -> int:
        return max(2, round(count * scale))

    n = times(300)
    for name, jacobian in JACOBIANS.items():
        for seeds, rounds in ((10, 5), (10, 20), (20, 10)):
            found = rho_of_linear_loops(jacobian, seeds, rounds, 200, n)
            where = f"{name}; {seeds} seeds, {rounds} rounds, 200 answers; an interval in {found.told:.0%}"
            table.append(("coverage of rho", CONFIDENCE, found.coverage, n, where))
            if "rho 1" in name:
                table.append(("stable, wrongly", 0.025, found.stable, n, where))
                table.append(("stable, wrongly, with noise ignored", 0.025, found.plain_stable, n, where))
        same = rho_of_linear_loops(jacobian, 20, 10, 200, n, same_chance=True)
        where = f"{name}; 20 seeds, 10 rounds, 200 answers that have the same chance in all rounds"
        table.append(("coverage of rho", CONFIDENCE, same.coverage, n, where))
        if "rho 1" in name:
            table.append(("stable, wrongly", 0.025, same.stable, n, where))
        if "rho 1.1" not in name:
            table.append(("unstable, wrongly", 0.025, same.unstable, n, where))
    arms: dict[str, dict[str, dict[str, object]]] = {
        "retraining": {"loop": {"kind": "retraining"}},
        "retraining, users react to kinds": {
            "loop": {"kind": "retraining"},
            "feedback": {"measure": "own_kind", "beta": 6.0},
        },
    }
    n = times(100)
    for name, changes in arms.items():
        small: dict[str, dict[str, object]] = {
            "selection": {"strategy": "none"},
            "queries": {"prompts_per_round": 100},
            "groups": {"shares": (0.5, 0.5)},
        }
        for seeds, rounds in ((10, 5), (10, 20), (30, 20)):
            found = rho_of_arms({**small, **MANY_ANSWERS, **changes}, seeds, rounds, n)
            where = f"{name}; {seeds} seeds, {rounds} rounds, 4,000 answers; stable in {found.stable:.0%}"
            table.append(("coverage of rho", CONFIDENCE, found.coverage, n, where))
    found = rho_of_arms(SLOW_RUNAWAY, 10, 10, n)
    table.append(("stable, wrongly", 0.0, found.stable, n, "shares .57 to .94 in 300 rounds; 10 seeds, 10 rounds"))
    table.append(("stable, by the shares alone", 0.0, found.plain_stable, n, "the same"))

    n = times(300)
    for offset in (0.0, 0.1, 0.3):
        gap, chance, p, equal = gaps(offset, n)
        table.append(("gap by chance", gap, chance, n, f"prompts of one group easier by {offset}"))
        table.append(("p <= .05, served alike", 0.05, p, n, f"prompts of one group easier by {offset}"))
        table.append(("the same, equal difficulty assumed", 0.05, equal, n, f"easier by {offset}"))
    table.append(
        ("p <= .05, gap turned round", 1.0, gaps(0.1, n, gain=-0.2)[2], n, "easier by .1, now served .2 worse")
    )

    n = times(20)
    for prompts in (500, 4000, 20_000):
        ones = fits(prompts, n)
        gain = fitted(ones, "choice_gain")
        where = f"three groups, {prompts} prompts per round"
        table.append(("choice_gain, mean", 0.7, float(np.mean([p.after for p in gain])), n, where))
        for name, true in (("choice_gain", 0.7), ("prior_rows", 100.0), ("spillover", 0.0)):
            inside = np.mean([p.low <= true <= p.high for p in fitted(ones, name)])
            table.append((f"coverage of {name}", CONFIDENCE, float(inside), n, where))
    return table


def main() -> None:
    """Print the table."""
    for what, nominal, measured, n, condition in rows():
        print(f"{what:36} nominal {nominal:6.3f}  measured {measured:6.3f}  of {n:4d}  {condition}", flush=True)


if __name__ == "__main__":
    main()
