"""What ``--dry-run`` prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from actors.placement import Layout
from scpl_ray.config import Experiment
from scpl_ray.protocols import Task
from scpl_ray.store import PHASES


def print_plan(console: Console, experiment: Experiment, task: Task, placed: Layout) -> None:
    """Print who would run where, and what each phase would do."""
    table = Table(title="processes", title_justify="left")
    for column in ("role", "number", "CPUs each", "GPUs each", "threads each"):
        table.add_column(column, justify="left" if column == "role" else "right")
    for role in placed.roles:
        table.add_row(role.name, str(role.count), f"{role.cpus:g}", f"{role.gpus:g}", str(role.threads))
    console.print(table)
    lines = phase_lines(experiment, task)
    table = Table(title=f"each of {experiment.loop.rounds} rounds", title_justify="left")
    table.add_column("phase")
    table.add_column("what it does")
    for phase in PHASES:
        if phase in lines:
            table.add_row(phase.replace("_", " "), lines[phase])
    console.print(table)
    if experiment.model.trust_remote_code:
        console.print("model.trust_remote_code is on: code that came with the model will run", markup=False)
    if experiment.feedback.function:
        console.print(f"code of yours that will run: {experiment.feedback.function}", markup=False)
    if task.data_report is not None:
        console.print(str(task.data_report), markup=False)
    console.print("the config is valid; nothing was started")


def phase_lines(experiment: Experiment, task: Task) -> dict[str, str]:
    """One line per phase."""
    e = experiment
    shares = ", ".join(f"{g} {s:g}" for g, s in zip(e.groups.names, e.groups.shares, strict=True))
    completions = e.queries.prompts_per_round * e.generation.samples_per_prompt
    evaluated = e.evaluation.samples_per_prompt * (
        len(task.group_prompts(e.evaluation.prompts_per_group))
        + len(task.neutral_prompts(e.evaluation.neutral_prompts))
    )
    lora, dpo = e.model.lora, e.training.objective == "dpo"
    lines = {
        "queries": f"{e.queries.prompts_per_round} {e.queries.prompts} prompts of {e.task.name}; first shares {shares}",
        "completions": f"{completions:,} completions by {e.generation.engine}, <= {e.generation.max_new_tokens} tokens",
        "scores": " + ".join(f"{weight:g} x {name}" for name, weight in e.reward.terms.items()),
        "selection": e.selection.strategy
        + (", then a matched random control" if e.selection.matched_control else "")
        + (f"; {e.training.dpo_pairs} pairs" if dpo else ""),
        "dataset": f"{e.cycle.kind}, real share {e.cycle.real_share:g}",
        "weights": f"{e.loop.kind} from {'the base' if e.loop.kind == 'retraining' else 'the last policy'}; "
        + (f"LoRA rank {lora.rank}" if lora else "all weights")
        + f"; DeepSpeed ZeRO {e.training.zero_stage}, {e.training.workers} worker(s), "
        + (f"DPO against the {e.training.dpo_reference}" if dpo else f"loss on {e.training.loss_on}"),
        "evaluation": f"{evaluated:,} completions of fixed held-out prompts",
        "feedback": f"{e.feedback.rule} on {e.feedback.measure}",
    }
    if e.reward.model is None and e.reward.terms.get("model"):
        lines["reward_model"] = f"Bradley-Terry on choices of the {e.reward.choices} (while the pool generates)"
    return lines
