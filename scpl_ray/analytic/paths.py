"""The result of a simulation: the paths of every seed, with the same metric names as in a run."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pyarrow as pa

from scpl_ray.config import Experiment
from scpl_ray.evaluation import bias, disparity
from scpl_ray.feedback.population import initial_shares
from scpl_ray.records import SCHEMAS, Metric
from scpl_ray.shares import FloatArray, check_fraction


@dataclasses.dataclass(frozen=True, eq=False)
class Paths:
    """What S seeds of one experiment measured in rounds 0..T; numbers that do not exist are NaN."""

    experiment: Experiment
    arrivals: FloatArray
    """User mass that asked the round's queries (in round 0: those of round 1), shape (S, T + 1, K)."""
    quality: FloatArray
    """Measured quality per group, shape (S, T + 1, K)."""
    quality_without_own_kind: FloatArray
    """The part of the quality that does not ask for the group's own kind, shape (S, T + 1, K)."""
    gap_null: FloatArray
    """Gap of measured quality that chance alone shows among groups that are served alike, as difficult to serve as they
    were for the base model (in round 0: equally difficult), shape (S, T + 1)."""
    own_kind: FloatArray
    """Measured share of the group's own kind in the answers to its prompts, shape (S, T + 1, K)."""
    kinds: FloatArray
    """Measured shares of the kinds on neutral prompts, shape (S, T + 1, K)."""
    win_rate: FloatArray
    """Mean logistic(reward) of the round's completions per group, shape (S, T + 1, K); NaN in round 0 and where a group
    asked nothing."""
    kept_shares: FloatArray
    """Weighted group shares of the kept completions, shape (S, T + 1, K); NaN in round 0."""
    kept_fraction: FloatArray
    """Fraction of the completions that was kept, shape (S, T + 1); NaN in round 0."""
    candidate_kinds: FloatArray
    """Shares of the kinds among the round's completions, shape (S, T + 1, K); NaN in round 0."""
    kept_kinds: FloatArray
    """The same among the rows that were kept, without their weights."""
    data_kinds: FloatArray
    """The same with their weights: of what the round gives to the data cycle."""
    mean_rewards: FloatArray
    """Mean reward of each kind, shape (S, T + 1, K); NaN in round 0."""
    revealing_law: FloatArray
    """P_t(kind | a prompt that reveals group g), shape (S, T + 1, K, K)."""
    neutral_law: FloatArray
    """P_t(kind | a neutral prompt), shape (S, T + 1, K)."""

    @property
    def shares(self) -> FloatArray:
        """Share of each group in the round's queries, shape (S, T + 1, K)."""
        return np.asarray(self.arrivals / self.arrivals.sum(axis=-1, keepdims=True))

    @property
    def disparity(self) -> disparity.DisparateBias:
        """Disparate bias of the measured quality; its fields have shape (S, T + 1)."""
        return disparity.disparate_bias(self.quality)

    def preference(self, reference: Literal["balanced", "round0"]) -> bias.PreferenceBias:
        """Preference bias against equal shares (``balanced``) or those measured in ``round0``."""
        groups, evaluated = self.experiment.groups, self.experiment.evaluation
        total = evaluated.neutral_prompts * evaluated.samples_per_prompt
        advantaged = int(np.argmax(initial_shares(self.experiment)))
        if reference == "balanced":
            return bias.preference_bias(
                self.kinds, bias.balanced(len(groups.names)), advantaged=advantaged, total=total
            )
        found = bias.preference_bias(
            self.kinds, self.kinds[:, :1], advantaged=advantaged, total=total, reference_total=total
        )
        # round 0 is compared with its own answers, not with a second count of them
        for distance in (found.total_variation, found.kl):
            distance[:, 0] = 0.0
        return found

    def series(self) -> dict[tuple[str, str | None], FloatArray]:
        """Paths of shape (S, T + 1) by (metric, group), with the same metric names as in a run."""
        unequal = self.disparity
        found: dict[tuple[str, str | None], FloatArray] = {}
        for k, name in enumerate(self.experiment.groups.names):
            for metric, values in (
                ("share", self.shares),
                ("quality", self.quality),
                ("quality_without_own_kind", self.quality_without_own_kind),
                ("own_kind_share", self.own_kind),
                ("kind_share", self.kinds),
                ("win_rate", self.win_rate),
                ("kept_share", self.kept_shares),
            ):
                found[metric, name] = values[..., k]
        for reference, preference in (("balanced", self.preference("balanced")), ("round0", self.preference("round0"))):
            found[f"preference_log_odds_{reference}", None] = preference.log_odds
            found[f"total_variation_{reference}", None] = preference.total_variation
        found["disparate_gap", None] = unequal.gap
        found["disparate_gap_null", None] = self.gap_null
        found["quality_worst", None] = unequal.worst
        found["quality_mean", None] = unequal.mean
        without = disparity.disparate_bias(self.quality_without_own_kind)
        found["disparate_gap_without_own_kind", None] = without.gap
        found["quality_worst_without_own_kind", None] = without.worst
        found["quality_mean_without_own_kind", None] = without.mean
        found["kept_fraction", None] = self.kept_fraction
        return found

    def table(self) -> pa.Table:
        """Tidy rows: the columns of :class:`scpl_ray.records.Metric` and ``seed`` (0..S-1).

        There are no prompts, so there are no bounds.
        """
        schema = SCHEMAS[Metric].append(pa.field("seed", pa.int32(), nullable=False))
        parts = []
        for (metric, group), values in self.series().items():
            seed, round_ = np.nonzero(~np.isnan(values))
            n = len(seed)
            columns = {
                "round": pa.array(round_, pa.int32()),
                "group": pa.nulls(n, pa.string()) if group is None else pa.repeat(group, n),
                "metric": pa.repeat(metric, n),
                "value": pa.array(values[seed, round_], pa.float64()),
                "low": pa.nulls(n, pa.float64()),
                "high": pa.nulls(n, pa.float64()),
                "seed": pa.array(seed, pa.int32()),
            }
            parts.append(pa.table(columns, schema=schema))
        return pa.concat_tables(parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Band:
    """Mean over seeds and a band of central quantiles; all arrays have the same shape."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray


def band(values: FloatArray, confidence: float = 0.95) -> Band:
    """Mean and central quantiles over seeds, shape (...) for values (S, ...): the range expected of single runs.

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    check_fraction("confidence", confidence)
    low, high = np.quantile(values, [0.5 - confidence / 2.0, 0.5 + confidence / 2.0], axis=0)
    return Band(np.asarray(values.mean(axis=0)), np.asarray(low), np.asarray(high))
