"""Measurements of speed: ``python -m jobs.benchmark overhead``, ``peers``, ``simulate``, ``memory`` and ``gpu``."""

from __future__ import annotations

import enum
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs.benchmark.plain_simulation import simulate_plainly
from jobs.commands.arguments import Arguments
from jobs.configs import CONFIGS
from jobs.driver import experiments
from jobs.terminal.command import fail, split_arguments
from jobs.terminal.display import wide_console
from scpl_ray.analytic.loop import simulate as simulate_arrays
from scpl_ray.config import Experiment, loading
from scpl_ray.config.errors import ConfigError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

SIZES = {"small": None, "real": "news_smollm2"}
"""The built-in config of each size of ``peers``; ``None``: the quick start."""
PLAIN_ROUNDS = 10
"""Number of rounds of one seed for which the plain loop is timed."""


@app.callback()
def benchmark() -> None:
    """Measure the speed of this installation."""


@app.command()
def simulate(arguments: Arguments = None) -> None:
    """The analytic mode beside a plain Python loop; the default keys over 100 rounds unless told otherwise."""
    try:
        path, overrides = split_arguments(arguments or [])
        experiment = loading.load(path, overrides if path else ["loop.rounds=100", *overrides])
        simulation(experiment, wide_console())
    except ValueError as error:
        raise fail(error) from error


@app.command()
def overhead(arguments: Arguments = None) -> None:
    """Seconds per phase of a run, beside bare vLLM and bare DeepSpeed on the same work; three rounds unless told."""
    from jobs.benchmark.overhead import overhead as measure

    try:
        path, overrides = split_arguments(arguments or [])
        experiment = experiments.load(path, overrides if path else ["loop.rounds=3", *overrides])
        measure(experiment)
    except ValueError as error:
        raise fail(error) from error


class Size(enum.StrEnum):
    """The rounds that are compared with a chain of scripts."""

    SMALL = "small"
    REAL = "real"


@app.command()
def peers(
    arguments: Arguments = None,
    size: Annotated[
        Size, typer.Option(help="small: the quick start; real: news_smollm2, which needs task.data=FILE.")
    ] = Size.SMALL,
    output: Annotated[Path, typer.Option(help="Folder for peers-SIZE.json and peers-SIZE.md.")] = Path("benchmarks"),
    page: Annotated[
        Path | None, typer.Option(help="A Markdown page; the table replaces its part between the marks of its name.")
    ] = None,
) -> None:
    """The last of two rounds beside a chain of scripts: vLLM, a reward loop, TRL's SFTTrainer, an evaluation."""
    from jobs.benchmark.peers.measure import peers as measure

    try:
        named, overrides = split_arguments(arguments or [])
        path = named or CONFIGS.get(str(SIZES[size]))
        experiment = experiments.load(path, ["loop.rounds=2", "store.keep=all", *overrides])
        if experiment.training.objective != "sft" or experiment.generation.refresh != "reload":
            raise ConfigError(
                "training.objective, generation.refresh: the chain fine-tunes and merges; leave them at sft and reload"
            )
        measure(experiment, size, output, page)
    except (ValueError, RuntimeError) as error:
        raise fail(error) from error


@app.command()
def memory(arguments: Arguments = None) -> None:
    """Memory of the driver with simulated processes; 100,000 prompts of 128 tokens, four completions, unless told."""
    from jobs.benchmark.driver_memory import driver_memory as measure

    size = ["queries.prompts_per_round=100_000", "task.max_prompt_tokens=128", "generation.max_new_tokens=128"]
    try:
        path, overrides = split_arguments(arguments or [])
        once = ["loop.rounds=1", "reward.terms={rule: 1.0}", "selection.strategy=tpp"]
        experiment = experiments.load(path, [*(size if path is None else []), *once, *overrides])
    except ValueError as error:
        raise fail(error) from error
    measure(experiment, wide_console())


@app.command()
def gpu(arguments: Arguments = None) -> None:
    """One GPU: engine, training, refresh of weights, each beside its limit; two rounds unless told."""
    from jobs.benchmark.gpu import benchmark as measure
    from jobs.terminal.display import chatter_to

    try:
        path, overrides = split_arguments(arguments or [])
        experiment = experiments.load(path, overrides if path else ["loop.rounds=2", *overrides])
        if experiment.generation.refresh != "reload":
            raise ConfigError("generation.refresh = 'adapter': both ways of refreshing are measured; leave it out")
    except ValueError as error:
        raise fail(error) from error
    with tempfile.TemporaryDirectory() as folder, chatter_to(Path(folder) / "output.log") as screen:
        measure(experiment, wide_console(screen))


def simulation(experiment: Experiment, console: Console) -> None:
    """Print group-rounds per second of the array code and the plain loop, and their ratio.

    Raises:
        ValueError: the plain loop does not know this set-up.
    """
    groups, seeds = len(experiment.groups.names), experiment.analytic.seeds
    short = experiment.loop.model_copy(update={"rounds": min(PLAIN_ROUNDS, experiment.loop.rounds)})
    began = time.perf_counter()
    simulate_plainly(experiment.model_copy(update={"loop": short}), experiment.seed)
    plain = time.perf_counter() - began
    began = time.perf_counter()
    simulate_arrays(experiment)
    arrays = time.perf_counter() - began
    table = Table(title="analytic mode", title_justify="left")
    for column in ("code", "seeds", "rounds", "seconds", "group-rounds per second"):
        table.add_column(column, justify="left" if column == "code" else "right")
    speeds = []
    for name, n, rounds, seconds in (
        ("plain Python loop", 1, short.rounds, plain),
        ("scpl simulate", seeds, experiment.loop.rounds, arrays),
    ):
        speeds.append(groups * n * rounds / seconds)
        table.add_row(name, f"{n:,}", f"{rounds:,}", f"{seconds:.2f}", f"{speeds[-1]:,.0f}")
    console.print(table)
    console.print(f"{speeds[1] / speeds[0]:,.0f} times as fast")


if __name__ == "__main__":
    app()
