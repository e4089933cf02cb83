"""Every exception that the phases of a run can raise, read from their source, and whether the plan finds it first.

A function that raises must stand in :data:`WHO_FINDS_IT`, by itself or with its module: whoever writes a new check that
a user can run into says here whether ``--dry-run`` finds it, and in which row, or why it cannot.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bad_input import CASES
from tests.support.plan_faults import FAULTS

ROOT = Path(__file__).resolve().parents[3]
PHASES = (
    *("scpl_ray/controller.py", "scpl_ray/training", "scpl_ray/models", "scpl_ray/evaluation", "scpl_ray/selection"),
    *("scpl_ray/feedback", "scpl_ray/judges", "actors"),
)
INSIDE = "inside: the arguments come from this program, which checked what they are made of"
MEASURED = "run: depends on what models write or on how training goes"
MACHINES = "run: depends on machines, networks or processes while they work"
ENTRY = "plan: the plan calls it"
WHO_FINDS_IT = {
    "scpl_ray/controller": INSIDE,
    # data become sequences
    "scpl_ray/training/batches": "run: examples are written by the phases before",
    "scpl_ray/training/batches:training_pairs": "plan: dpo has pairs, scpl_ray.checks",
    "scpl_ray/training/batches:plan_steps": "plan row: a sequence that no micro-batch takes",
    "scpl_ray/training/reward_model": INSIDE,
    "scpl_ray/training/reward_model:RewardModel.score": "plan row: a reward model with other outputs",
    "scpl_ray/training/reward_model:fit": MEASURED,
    "scpl_ray/training/classifiers:_wrap": "run: the tokenizer is read with the model, and both may name no length",
    "scpl_ray/training/master": "run: weights are written by the rounds before",
    "scpl_ray/training/worker": MEASURED,
    # models
    "scpl_ray/models/adapters": MEASURED,
    "scpl_ray/models/adapters:add_adapter": "plan row: an adapter of experts",
    "scpl_ray/models/checkpoints": "plan: of scpl measure --checkpoints, before anything starts",
    "scpl_ray/models/likelihood": INSIDE,
    "scpl_ray/models/limits": ENTRY,
    "scpl_ray/models/limits:check_config": "plan row: a model without attention",
    "scpl_ray/models/limits:check_positions": "plan row: more tokens than a model has positions",
    "scpl_ray/models/limits:check_tokenizer": "plan row: a tokenizer of another model",
    "scpl_ray/models/loading:_check": "plan row: a model that was saved with what wraps it",
    "scpl_ray/models/precision": ENTRY,
    "scpl_ray/models/prompts": ENTRY,
    "scpl_ray/models/sentences": ENTRY,
    "scpl_ray/models/smollm2": ENTRY,
    "scpl_ray/models/smollm2:convert": "run: the plan converts nothing",
    "scpl_ray/models/sources": ENTRY,
    "scpl_ray/models/sources:_on_disk": "bad input: a model that is no folder",
    "scpl_ray/models/sources:_locate": "plan row: a model that nobody has",
    "scpl_ray/models/sources:_hub_files": "plan row: a reward model that nobody has",
    "scpl_ray/models/sources:check_outputs": "plan row: a reward model with other outputs",
    "scpl_ray/models/sources:checked": "plan row: a reward model without weights",
    "scpl_ray/models/sources:_check_weights": "bad input: a model with damaged weights",
    "scpl_ray/models/sources:_check_architecture": "bad input: a model with code of its own",
    "scpl_ray/models/template": "plan: tasks write their evaluation prompts",
    "scpl_ray/models/template_process": "plan: tasks write their evaluation prompts",
    "scpl_ray/models/tiny_base": "plan: tasks make their tokenizer",
    "scpl_ray/models/tokens": "plan: tasks count the tokens of their prompts",
    "scpl_ray/models/tokens:encode_answer": "plan row: a tokenizer without an end",
    # arithmetic on records
    "scpl_ray/evaluation": INSIDE,
    "scpl_ray/evaluation/measure:_text": MEASURED,
    "scpl_ray/selection": MEASURED,
    "scpl_ray/selection/strategies:_best_of_n": "bad input: best of more than are drawn",
    "scpl_ray/selection/strategies:select": "bad input: an unknown strategy",
    "scpl_ray/feedback": INSIDE,
    "scpl_ray/feedback/formulas": MEASURED,
    "scpl_ray/feedback/formulas:schedule": "bad input: a step that does not sum to 0",
    "scpl_ray/feedback/rules:_schedule_step": "bad input: a schedule without its step",
    "scpl_ray/feedback/rules:_custom_function": "bad input: a custom rule that is not there",
    "scpl_ray/feedback/rules:_check_per_group": "plan: scpl_ray.checks",
    "scpl_ray/feedback/rules:_check_schedule": "plan: scpl_ray.checks",
    "scpl_ray/feedback/rules:validate": "bad input: an unknown rule",
    "scpl_ray/feedback/rules:try_custom": "plan row: a rule that fails",
    "scpl_ray/feedback/rules:advance": MEASURED,
    "scpl_ray/judges": "plan: judges that take seconds are fitted in a temporary folder; others when they are made",
    # processes
    "actors": MACHINES,
    "actors/engines/base:Engine._prepare": "plan row: more tokens than a model has positions",
    "actors/engines/registry": ENTRY,
    "actors/engines/vllm:adapter_rank": "plan row: an adapter that vLLM does not serve",
    "actors/engines/vllm:kv_cache_bytes": "plan row: heads that vLLM has not on a CPU",
    "actors/placement/cluster": ENTRY,
    "actors/placement/layout": "bad input: too many workers",
    "actors/reward": INSIDE,
}
"""By module, or module and function: ``plan row`` or ``bad input`` and a row of that table, or a reason in words."""


@functools.cache
def raising() -> tuple[tuple[str, str], ...]:
    """Module and function of every ``raise`` of a new exception in the phases."""
    return tuple(_raising())


def _raising() -> Iterator[tuple[str, str]]:
    for place in PHASES:
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            module = str(file.relative_to(ROOT).with_suffix(""))
            waiting: list[tuple[ast.AST, tuple[str, ...]]] = [(ast.parse(file.read_text(encoding="utf-8")), ())]
            while waiting:
                node, names = waiting.pop()
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    names = (*names, node.name)
                if isinstance(node, ast.Raise) and node.exc is not None:
                    yield module, ".".join(names)
                waiting += [(child, names) for child in ast.iter_child_nodes(node)]


def found_by(module: str, function: str) -> str | None:
    parts = module.split("/")
    places = [f"{module}:{function}", *("/".join(parts[:i]) for i in range(len(parts), 0, -1))]
    return next((WHO_FINDS_IT[place] for place in places if place in WHO_FINDS_IT), None)


def test_of_every_exception_it_is_known_whether_the_plan_finds_it() -> None:
    everywhere = raising()
    assert len(everywhere) > 150
    unknown = sorted({f"{module}:{function}" for module, function in everywhere if not found_by(module, function)})
    assert unknown == [], "say in WHO_FINDS_IT whether the plan finds these, and in which row"


@pytest.mark.parametrize("place", [place for place in WHO_FINDS_IT if ":" in place])
def test_no_function_is_listed_that_raises_nothing(place: str) -> None:
    assert tuple(place.split(":")) in raising()


def test_rows_that_are_named_exist() -> None:
    for place, who in WHO_FINDS_IT.items():
        kind, _, what = who.partition(": ")
        assert kind in ("plan row", "bad input", "plan", "run", "inside"), place
        if kind == "plan row":
            assert what in FAULTS, place
        if kind == "bad input":
            assert what in CASES, place
