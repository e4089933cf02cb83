"""The lengths of a task's prompts: what a prompt has beyond ``task.max_prompt_tokens`` no model would see."""

from __future__ import annotations

from pathlib import Path

from scpl_ray.config import Experiment
from scpl_ray.models.tokens import encode_prompt, load_tokenizer
from scpl_ray.protocols import Task

DRAWN = 16
"""Training prompts per group that are looked at; every round draws others."""
_WHOLE = 2**20
"""More tokens than any prompt has."""


def check(experiment: Experiment, task: Task, tokenizer: Path) -> None:
    """Check that the held-out prompts of a task, and some that it draws for training, are not cut.

    Args:
        experiment: ``task.max_prompt_tokens``, and how many held-out prompts it asks for.
        task: its task.
        tokenizer: the folder of the tokenizer of its model.

    Raises:
        ValueError: the end of a prompt would be lost, which may be what tells the groups apart.
    """
    limit, groups = experiment.task.max_prompt_tokens, experiment.groups.names
    queries = [
        *task.group_prompts(experiment.evaluation.prompts_per_group),
        *task.neutral_prompts(experiment.evaluation.neutral_prompts),
        *task.draw(dict.fromkeys(groups, DRAWN), seed=1, prefix="try"),
    ]
    loaded = load_tokenizer(tokenizer, trust_remote_code=experiment.model.trust_remote_code)
    prompts = {query.prompt: query.query_id for query in queries}
    lengths = {prompt: len(encode_prompt(loaded, prompt, _WHOLE)) for prompt in prompts}
    over = [prompt for prompt, length in lengths.items() if length > limit]
    if over:
        longest = max(over, key=lengths.__getitem__)
        raise ValueError(
            f"task.max_prompt_tokens = {limit}: {len(over)} of {len(prompts)} prompts of {experiment.task.name!r} are "
            f"longer and would lose their ends; the longest, {prompts[longest]}, has {lengths[longest]} tokens; set it "
            f"to {lengths[longest]} or more, or write shorter prompts"
        )
