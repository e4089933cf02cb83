"""What ``--dry-run`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.placement.cluster import Node
from actors.placement.disk import Disk, run_line
from actors.placement.layout import Layout, Seat
from actors.placement.memory import Estimate
from scpl_ray.config import Experiment, code
from scpl_ray.feedback.rules import RULES
from scpl_ray.protocols import Task
from scpl_ray.selection.steering import steering_prompts
from scpl_ray.selection.strategies import STRATEGIES
from scpl_ray.storage.run_directory import PHASES
from scpl_ray.training.objectives import OBJECTIVES

UNKNOWN = "unknown until the model's config is here; a folder with its config.json is enough: model.name=FOLDER"


def print_plan(
    console: Console, experiment: Experiment, task: Task | None, placed: Layout | None, written: Disk | None = None
) -> None:
    """Print where each process would run and with how much memory, what each phase would do, and what fills the disk.

    Args:
        console: the console to print on.
        experiment: the config.
        task: its task; ``None``: it could not be built; see :func:`print_missing`.
        placed: the layout; ``None``: it depends on a cluster that is not connected yet.
        written: the bytes of the run; ``None``: a model's config is not on this machine yet.
    """
    if placed is None:
        console.print(
            "processes: placed when the run has asked the cluster of RAY_ADDRESS; to plan now, describe it by --cluster"
        )
    else:
        _print_processes(console, placed)
    lines = phase_lines(experiment, task)
    table = Table(title=f"each of {experiment.loop.rounds} rounds", title_justify="left")
    table.add_column("phase")
    table.add_column("what it does")
    for phase in PHASES:
        if phase in lines:
            table.add_row(phase.replace("_", " "), escape(lines[phase]))
    console.print(table)
    console.print(f"disk: {UNKNOWN}" if written is None else run_line(written))
    if experiment.model.trust_remote_code:
        console.print("model.trust_remote_code is on: code that came with the model will run", markup=False)
    for key, name in code.references(experiment).items():
        console.print(f"code of yours that will run: {key} = {name}", markup=False)
    for line in unused_code(experiment):
        console.print(line, markup=False)
    if task is None:
        return
    if task.data_report is not None:
        console.print(str(task.data_report), markup=False)
    console.print("the config is valid; nothing was started")


def unused_code(experiment: Experiment) -> list[str]:
    """A line for each function of the user's that is named and that another key leaves unused."""
    return [f"code of yours that will not run: {key}, because {why}" for key, why in code.unused(experiment).items()]


def print_missing(console: Console, made: Mapping[str, str], unchecked: Mapping[str, str], *, whole: bool) -> None:
    """Print what a run would make first, and what could not be checked without it or because it is not here.

    Args:
        console: the console to print on.
        made: the cost of each thing, by its name.
        unchecked: why a thing could not be checked, by its name.
        whole: whether the task is complete without them; otherwise it is said what was not checked.
    """
    if made:
        console.print("a run would make first, once, and keep:", markup=False)
    for name, cost in made.items():
        console.print(f"  {name}: {cost}", markup=False)
    print_unchecked(console, unchecked)
    if not whole:
        console.print(
            "without it the task is not complete: the lengths and numbers of its prompts were not checked\n"
            "the rest is valid; nothing was started, made or downloaded"
        )


def print_unchecked(console: Console, unchecked: Mapping[str, str]) -> None:
    """Print what could not be checked in a plan for other machines: the reasons by the names of the things."""
    if unchecked:
        console.print("not checked, because it is not here, and this plan is for other machines:", markup=False)
    for name, why in unchecked.items():
        console.print(f"  {name} ({why})", markup=False)


def _print_processes(console: Console, placed: Layout) -> None:
    how = {
        "cpu": "without GPUs",
        "dedicated": "each with GPUs of its own",
        "colocated": "an engine, a scorer and a worker take turns on each GPU",
    }
    table = Table(title=f"processes, {how[placed.mode]}", title_justify="left")
    for column in ("role", "number", "CPUs each", "GPUs each", "threads each", "where"):
        table.add_column(column, justify="left" if column in ("role", "where") else "right")
    for role in placed.roles:
        gpus = f"{role.shares} x {role.gpus:g}" if role.shares > 1 else f"{role.gpus:g}"
        cells = (role.name, str(role.count), f"{role.cpus:g}", gpus, str(role.threads))
        table.add_row(*cells, _where(placed.of(role)))
    console.print(table)
    if placed.estimates is None:
        console.print(f"memory: {UNKNOWN}; only CPUs and GPUs were counted")
        return
    table = Table(title="memory of each process in GiB, at most (activations and libraries: estimates)")
    table.title_justify = "left"
    for column in ("role", "of what", "sum", "on"):
        table.add_column(column, justify="right" if column == "sum" else "left")
    for role in placed.roles:
        estimate = placed.estimates[role.name]
        parts = ", ".join(f"{name} {gib:.2f}" for name, gib in estimate.working.items())
        nodes = [seat.node for seat in placed.of(role)]
        if placed.mode == "cpu":
            smallest = min(node.memory_gib for node in nodes)
            if (besides := estimate.host - estimate.total) > 0.005:
                parts += f", weights that are read or kept {besides:.2f}"
            table.add_row(role.name, parts, f"{estimate.host:.2f}", f"a host of {smallest:.0f}")
        else:
            smallest = min(node.gpu_memory_gib for node in nodes)
            table.add_row(role.name, parts, f"{estimate.total:.2f}", f"each GPU of {smallest:.0f}")
            host = min(node.memory_gib for node in nodes)
            table.add_row("", "weights that are read, kept or asleep", f"{estimate.host:.2f}", f"a host of {host:.0f}")
    console.print(table)
    console.print(_fullest_host(placed, placed.estimates))
    if placed.mode == "colocated":
        engine, scorer, worker = (placed.estimates[role.name] for role in placed.roles)
        smallest = min(seat.node.gpu_memory_gib for seat in placed.seats)
        used = placed.engine.memory_share * smallest
        generating, training = used + scorer.total + worker.idle, engine.idle + scorer.idle + worker.total
        console.print(
            f"a shared GPU of {smallest:.0f} GiB: while completions are written engine {used:.2f} "
            f"({placed.engine.memory_share:g} of it), scorer {scorer.total:.2f}, worker {worker.idle:.2f}, together "
            f"{generating:.2f}; while the worker trains engine {engine.idle:.2f}, scorer {scorer.idle:.2f}, worker "
            f"{worker.total:.2f}, together {training:.2f}"
        )


def _fullest_host(placed: Layout, estimates: Mapping[str, Estimate]) -> str:
    """What all processes hold in the memory of the host that is used most, in words."""
    held: dict[Node, float] = {}
    for seat in placed.seats:
        held[seat.node] = held.get(seat.node, 0.0) + estimates[seat.role].host
    node = max(held, key=lambda node: held[node] / max(node.memory_gib, 1e-9))
    counts = {role.name: sum(seat.node == node for seat in placed.of(role)) for role in placed.roles}
    parts = ", ".join(f"{count} x {name} {estimates[name].host:.2f}" for name, count in counts.items() if count)
    return f"the fullest host, {node.name} of {node.memory_gib:.0f} GiB: {parts}, together {held[node]:.2f}"


def _where(seats: Sequence[Seat]) -> str:
    """The nodes in order, each with its devices."""
    by_node: dict[str, list[str]] = {}
    for seat in seats:
        by_node.setdefault(seat.node.name, []).append("+".join(map(str, seat.gpus)))
    return "; ".join(
        f"{name}: GPU {', '.join(devices)}" if any(devices) else f"{name}: {len(devices)}"
        for name, devices in by_node.items()
    )


def phase_lines(experiment: Experiment, task: Task | None) -> dict[str, str]:
    """One line of description per phase; without the task the evaluation has the prompts that are asked for."""
    e = experiment
    shares = ", ".join(f"{g} {s:g}" for g, s in zip(e.groups.names, e.groups.shares, strict=True))
    completions = e.queries.prompts_per_round * e.generation.samples_per_prompt
    asked, aside = len(e.groups.names) * e.evaluation.prompts_per_group + e.evaluation.neutral_prompts, 0
    if task is not None:
        of_groups, neutral = e.evaluation.prompts_per_group, e.evaluation.neutral_prompts
        prompts = [*task.group_prompts(of_groups), *task.neutral_prompts(neutral)]
        asked = len(prompts)
        aside = len(steering_prompts(e, task.group_prompts, prompts))
    evaluated = e.evaluation.samples_per_prompt * asked
    lora, objective = e.model.lora, OBJECTIVES[e.training.objective]
    target = f"{e.selection.target} {e.selection.target_of}" if STRATEGIES[e.selection.strategy].reads_target else ""
    lines = {
        "queries": f"{e.queries.prompts_per_round} {e.queries.prompts} prompts of {e.task.name}; first shares {shares}",
        "completions": f"{completions:,} completions by {e.generation.engine}, <= {e.generation.max_new_tokens} tokens",
        "scores": " + ".join(f"{weight:g} x {name}" for name, weight in e.reward.terms.items()),
        "selection": e.selection.strategy
        + (f" to {target}" if target else "")
        + (", then a matched random control" if e.selection.matched_control else "")
        + (f"; {e.training.dpo_pairs} pairs" if objective.pairs else ""),
        "dataset": f"{e.cycle.kind}, real share {e.cycle.real_share:g}",
        "weights": f"{e.loop.kind} from {'the base' if e.loop.starts_from_base else 'the last policy'}; "
        + (f"LoRA rank {lora.rank}" if lora else "all weights")
        + f"; DeepSpeed ZeRO {e.training.zero_stage}, {e.training.workers} worker(s), "
        + objective.about(e.training),
        "evaluation": f"{evaluated:,} completions of fixed held-out prompts"
        + (f", and {aside:,} of others that steer selection" if aside else ""),
        "feedback": e.feedback.rule + (f" on {e.feedback.measure}" if RULES[e.feedback.rule].reacts else ""),
    }
    if e.reward.model is None and e.reward.terms.get("model"):
        lines["reward_model"] = f"Bradley-Terry on choices of the {e.reward.choices} (while the pool generates)"
    return lines
