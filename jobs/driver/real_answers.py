"""The lengths of the real answers that a run is to train on, which nothing cuts."""

from __future__ import annotations

from pathlib import Path

from scpl_ray.config import Experiment
from scpl_ray.models import limits, sources, tiny, tiny_base
from scpl_ray.models.tokens import encode_answer, encode_prompt, load_tokenizer
from scpl_ray.protocols import Task
from scpl_ray.seeds import derive_seed
from scpl_ray.selection.cycles import real_rows_needed

EXAMPLES = 256
"""Most examples whose lengths are looked at; a run looks at all of them, when it trains."""


def check(experiment: Experiment, task: Task) -> None:
    """Check the first real examples that a run trains on, drawn as it draws them.

    Nothing is checked where a tiny model makes its tokenizer itself.

    Raises:
        ValueError: one is longer than training or the model takes.
        NotMadeError: in a plan, the tokenizer is not here.
    """
    cycle = experiment.cycle
    count = min(EXAMPLES, real_rows_needed(experiment.queries.prompts_per_round, cycle))
    if not count:
        return
    folder = tokenizer_of(experiment, task)
    if folder is None:
        return
    lengths = _lengths(experiment, task, folder, count)
    name = max(lengths, key=lambda one: sum(lengths[one]), default=None)
    if name is None:
        return
    asked, written = lengths[name]
    if over := [f"{what} ({most})" for what, most in _limits(experiment).items() if asked + written > most]:
        key = f"cycle.real_rows = {cycle.real_rows}" if cycle.real_rows else f"cycle.real_share = {cycle.real_share:g}"
        raise ValueError(
            f"{key}: of {len(lengths)} real examples the longest, {name}, has {asked + written} tokens ({asked} of its "
            f"prompt and {written} of its answer), more than {' and '.join(over)}, and no answer is cut; raise what "
            "can be raised, give the task shorter answers, or set it to 0"
        )


def tokenizer_of(experiment: Experiment, task: Task) -> Path | None:
    """The folder of the tokenizer of a run's model; ``None``: a tiny model makes it itself.

    Raises:
        NotMadeError: in a plan, it is not here.
    """
    return task.tokenizer if experiment.model.built_here else sources.resolve_tokenizer(experiment, ())


def _lengths(experiment: Experiment, task: Task, folder: Path, count: int) -> dict[str, tuple[int, int]]:
    """Tokens of the prompt and of the answer of real examples, by the id of the query."""
    tokenizer = load_tokenizer(folder, trust_remote_code=experiment.model.trust_remote_code)
    key = () if experiment.cycle.real == "anchored" else (1,)
    most = experiment.task.max_prompt_tokens
    return {
        query.query_id: (len(encode_prompt(tokenizer, query.prompt, most)), len(encode_answer(tokenizer, answer)))
        for query, answer in task.real_examples(count, seed=derive_seed(experiment.seed, "real", *key))
    }


def _limits(experiment: Experiment) -> dict[str, int]:
    """The tokens that a sequence may have, by what limits them."""
    training, model = experiment.training, experiment.model
    found = {"training.tokens_per_micro_batch": training.tokens_per_micro_batch}
    if training.steps is not None:  # a longer one makes a step longer, so that arms are not trained equally much
        found["training.tokens_per_step"] = training.tokens_per_step
    if model.built_here:
        return found | {"the positions of the tiny model": tiny_positions(experiment)}
    config = sources.found_config(experiment)
    positions = None if config is None else limits.positions(config)
    return found if positions is None else found | {f"the positions of {model.name}": positions}


def tiny_positions(experiment: Experiment) -> int:
    """The longest sequence of a tiny model."""
    return tiny_base.POSITIONS if experiment.task.name != "language" else tiny.POSITIONS
