"""How likely the evaluation texts are, and whether the engines drew them with the weights that they were given.

The engines say how likely their texts are under the policy that drew them, before temperature and nucleus. A separate
pass of the scorers over a few of the same texts must find the same, up to rounding. An engine that serves other weights
than those on disk, such as last round's, is found out on every device: on GPUs its kernels differ between two runs of
one prompt as much as a probe of a few tokens would, while over a sample of texts rounding averages out and old weights
do not (https://github.com/huggingface/trl/pull/5312 measures about .2 nats per token where they are old).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence

import numpy as np

from scpl_ray.records import Completion, Weights

logger = logging.getLogger(__name__)

Nats = list[tuple[float, int]]
"""Negative log-likelihood of each text, summed over its tokens, and their number."""
Pass = Callable[[Weights, Sequence[Completion]], Nats]
"""Passes texts through a model, and returns how likely they are under it."""
SAMPLE_TEXTS = (8, 32)
"""Fewest and most texts whose log-probabilities are compared, spread evenly over the evaluation prompts: every eighth
in between."""


@dataclasses.dataclass(frozen=True, slots=True)
class Likelihoods:
    """Of the texts of one evaluation, in their order."""

    base: Nats
    """Under the base model."""
    current: Nats
    """Under the policy that wrote them."""
    differences: Sequence[float]
    """Of each text of the sample, how far engine and scorer are apart: nats per token, at least 0."""


def of_texts(
    passed: Pass,
    base: Weights,
    policy: Weights,
    completions: Sequence[Completion],
    bound: float,
    before: Nats | None = None,
) -> Likelihoods:
    """Likelihoods of texts under the base model and under the policy that wrote them.

    Only the texts of the sample pass through the policy. In round 0, where it is the base model, nothing else does.

    Args:
        passed: passes texts through a model.
        base: the base model.
        policy: what the engines were given.
        completions: the texts; if their log-probabilities are not known, all of them pass through the policy too.
        bound: largest mean difference that rounding explains, in nats per token.
        before: how likely the texts are under the base model, where it is another one than the policy and they have
            passed through it already.

    Raises:
        RuntimeError: the engines drew with other weights.
    """
    if any(c.log_probability is None for c in completions):
        after = passed(policy, completions)
        return Likelihoods(_under_base(passed, base, completions, before if policy != base else after), after, ())
    current = [(-float(c.log_probability or 0.0), len(c.token_ids)) for c in completions]
    known = current if policy == base else before
    sample = sampled(len(completions))
    apart = differences([current[i] for i in sample], passed(policy, [completions[i] for i in sample]))
    check(apart, policy, bound)
    return Likelihoods(_under_base(passed, base, completions, known), current, apart)


def _under_base(passed: Pass, base: Weights, completions: Sequence[Completion], known: Nats | None) -> Nats:
    return passed(base, completions) if known is None else known


def sampled(count: int) -> list[int]:
    """Indices of the texts that are compared: the same every round, from the first to the last group of prompts."""
    fewest, most = SAMPLE_TEXTS
    compared = min(count, most, max(fewest, count // 8))
    return sorted({round(i) for i in np.linspace(0, count - 1, compared)})


def differences(drawn: Nats, passed: Nats) -> list[float]:
    """Per text, how far two measurements of its log-probability are apart, in nats per token.

    Raises:
        ValueError: they are not of the same texts.
    """
    found = []
    for (ours, tokens), (theirs, others) in zip(drawn, passed, strict=True):
        if tokens != others:
            raise ValueError(f"a text has {tokens} tokens in one pass and {others} in the other")
        found.append(abs(ours - theirs) / max(tokens, 1))
    return found


def check(apart: Sequence[float], policy: Weights, bound: float) -> None:
    """Check that the engines drew with the weights that they were given.

    Numbers that are not finite are left to the metrics, which say that training diverged.

    Raises:
        RuntimeError: the mean difference is beyond the bound.
    """
    if not apart or not np.isfinite(apart).all():
        return
    mean, worst = float(np.mean(apart)), float(np.max(apart))
    logger.info("policy version %d: sampling_logp_difference %.2g, worst %.2g", policy.policy_version, mean, worst)
    if mean > bound:
        raise RuntimeError(
            f"sampling_logp_difference = {mean:.3g} nats per token over {len(apart)} evaluation texts (worst "
            f"{worst:.3g}), above {bound:g}: the engines did not draw with policy version {policy.policy_version} as "
            f"it is on disk ({policy.adapter or policy.model}), but with older or other weights; resume the run, which "
            "starts engines anew, and if it happens again set generation.refresh to its other value or "
            "generation.engine=transformers"
        )
