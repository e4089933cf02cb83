"""Preference pairs for DPO: which completion of a prompt is preferred to which other one.

A rule is one function and one record in :data:`RULES`. Two completions make a pair only if their tokens and their
rewards differ: a pair of equal texts has no gradient, and equal rewards prefer neither. A pair that prefers the lower
reward is refused. Where the strategy has a target, the pairs are weighted, or their number reduced, so that they meet
it. The result does not depend on the order of rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

import numpy as np

from scpl_ray.seeds import uniforms
from scpl_ray.selection.candidates import Candidates, Selected, selected
from scpl_ray.shares import FloatArray, IntArray

_NONE = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """The M pairs of a round."""

    chosen: Selected
    """The chosen completions, their weights and statistics."""
    rejected: IntArray
    """Positions of the rejected completions in the candidates, shape (M,)."""
    left_out: dict[str, int]
    """Pairs that were not made, by reason: ``no_partner`` (no completion of the prompt was left to reject),
    ``identical`` (the same tokens), ``tie`` (the same reward), ``inverted`` (the rejected completion would have the
    higher reward: selection kept the other by chance, or for its group) and ``target`` (too many of a class)."""
    inverted: int
    """Pairs whose rejected completion has the higher reward: none, but in a control that pairs by chance."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Drawn:
    chosen: IntArray
    rejected: IntArray
    """Position of the rejected completion; ``_NONE`` where there is no partner."""
    weights: FloatArray


def _accepted_rejected(candidates: Candidates, kept: Selected, chance: FloatArray | None) -> _Drawn:
    """Pair each kept completion, with its weight, with the worst one of its prompt that was not kept.

    The worst has the lowest reward, and of equal ones it is the last; in a control it is chosen at random.
    """
    is_kept = np.zeros(candidates.size, dtype=bool)
    is_kept[kept.indices] = True
    order = candidates.best_first[::-1] if chance is None else np.lexsort((candidates.candidate_rank, chance))
    partner = _first_per_prompt(candidates, order[~is_kept[order]])
    rejected = [partner.get(int(prompt), _NONE) for prompt in candidates.prompts[kept.indices]]
    return _Drawn(kept.indices, np.array(rejected, dtype=np.int64), kept.weights)


def _best_worst(candidates: Candidates, kept: Selected, chance: FloatArray | None) -> _Drawn:
    """Pair the completion of each prompt that has the highest reward with the one that has the lowest, weight 1.

    Of equal ones these are the first and the last; in a control it is random which of the two is the chosen one.
    """
    best = _first_per_prompt(candidates, candidates.best_first)
    worst = _first_per_prompt(candidates, candidates.best_first[::-1])
    chosen = np.array(list(best.values()), dtype=np.int64)
    rejected = np.array([worst[prompt] for prompt in best], dtype=np.int64)
    whole = chosen != rejected
    if chance is not None:
        swapped = chance[chosen] < 0.5
        chosen, rejected = np.where(swapped, rejected, chosen), np.where(swapped, chosen, rejected)
    return _Drawn(chosen, np.where(whole, rejected, _NONE), np.ones(len(chosen)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairRule:
    """A registered rule."""

    meaning: str
    """Which completion the rule prefers to which."""
    draw: Callable[[Candidates, Selected, FloatArray | None], _Drawn]
    needs: Literal["nothing", "completions"]
    """What the selection strategy must reject (its ``rejects``) so that this rule can form pairs."""
    otherwise: str
    """What is wrong with other strategies, and what to change."""


RULES: dict[str, PairRule] = {
    "accepted_rejected": PairRule(
        meaning="each kept completion against its prompt's worst not kept",
        draw=_accepted_rejected,
        needs="completions",
        otherwise="rejects nothing that training.dpo_pairs = 'accepted_rejected' could pair; choose another, or use "
        "best_worst with none",
    ),
    "best_worst": PairRule(
        meaning="each prompt's best against its worst",
        draw=_best_worst,
        needs="nothing",
        otherwise="training.dpo_pairs = 'best_worst' makes its pairs of all completions; set none, or use "
        "accepted_rejected",
    ),
}


def pair(
    candidates: Candidates,
    kept: Selected,
    token_ids: Sequence[Hashable],
    rule: str,
    *,
    control: bool,
    round_: int,
    seed: int,
) -> Pairs:
    """Pairs of a round by the configured rule.

    Args:
        candidates: the round's completions.
        kept: what selection kept of them.
        token_ids: what the token ids of each completion are compared by, in the order of the candidates.
        rule: a name in :data:`RULES`.
        control: pair by chance instead of by reward; with a matched random selection, no pair expresses a preference.
        round_: enters the random stream.
        seed: the run's seed.

    Raises:
        ValueError: no pair is left, or none of a class that the target wants; the message says what to do.
    """
    chance = uniforms(seed, "pairs", round_, list(candidates.completion_ids)) if control else None
    drawn = RULES[rule].draw(candidates, kept, chance)
    rewards = candidates.rewards
    whole = drawn.rejected != _NONE
    same = np.array(
        [p and token_ids[c] == token_ids[r] for c, r, p in zip(drawn.chosen, drawn.rejected, whole, strict=True)],
        dtype=bool,
    )
    differ = whole & ~same
    tied = differ & (rewards[drawn.chosen] == rewards[drawn.rejected])
    inverted = differ & (rewards[drawn.chosen] < rewards[drawn.rejected])
    refused = inverted & (not control)
    left_out = {
        "no_partner": int((~whole).sum()),
        "identical": int(same.sum()),
        "tie": int(tied.sum()),
        "inverted": int(refused.sum()),
        "target": 0,
    }
    usable = np.flatnonzero(differ & ~tied & ~refused)
    if len(usable) == 0:
        counts = ", ".join(f"{reason} {count}" for reason, count in left_out.items())
        raise ValueError(
            f"training.dpo_pairs: {rule!r} finds no pair among {candidates.size} completions ({counts}); raise "
            "generation.samples_per_prompt or generation.temperature, or change selection or reward.terms"
        )
    usable = usable[np.argsort(drawn.chosen[usable])]
    weights = drawn.weights[usable]
    if kept.meet is not None:
        # what found no partner is not spread over the classes as the target is
        met, weights = kept.meet(drawn.chosen[usable])
        left_out["target"] = len(usable) - len(met)
        usable = usable[met]
    return Pairs(
        chosen=selected(candidates, drawn.chosen[usable], weights, f"{rule} pairs of {kept.strategy}"),
        rejected=drawn.rejected[usable],
        left_out=left_out,
        inverted=int(inverted[usable].sum()),
    )


def _first_per_prompt(candidates: Candidates, order: IntArray) -> dict[int, int]:
    """Map each prompt to its first row in this order of rows."""
    first: dict[int, int] = {}
    for row in order.tolist():
        first.setdefault(int(candidates.prompts[row]), row)
    return first
