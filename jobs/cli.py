"""The ``scpl`` command. Each subcommand is one job."""

from __future__ import annotations

import contextlib
import errno
import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from actors.startup import imports_stay
from jobs.commands import looking, measuring, models, sharing, studies
from jobs.commands.arguments import CHECKING, Arguments
from jobs.driver import experiments
from jobs.terminal.command import PlannedNodes, check_output, fail, planned_nodes, split_arguments
from jobs.terminal.display import unheard, wide_console
from scpl_ray import __version__
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.paths import user_path
from scpl_ray.config.schema import MAY_CHANGE
from scpl_ray.protocols import Task
from scpl_ray.storage import locations
from scpl_ray.storage.errors import StoreError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"scpl_ray {__version__}")
        raise typer.Exit


@app.callback(
    help="Self-consuming performative loops of language models: run them, measure their bias, test the remedy."
)
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options of ``scpl`` itself, before its command."""
    imports_stay()


@app.command()
def run(
    arguments: Arguments = None,
    run_dir: Annotated[
        str | None, typer.Option(help="Folder, or s3://BUCKET/PATH, for this run (default: runs/NAME-TIME).")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Continue this run; " + ", ".join(MAY_CHANGE) + " may change, rounds only to more; data and models "
            "that have moved may be named again."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan, start nothing.")
    ] = False,
    cluster: PlannedNodes = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="With --resume: hash all files, not only those that have changed since."),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Debug messages in logs/driver.log.")] = False,
) -> None:
    """Run a self-consuming performative loop.

    [bold]scpl run[/] runs the quick start. [bold]scpl run loop.kind=retraining selection.strategy=tpp[/] changes it.
    [bold]scpl run my.yaml --dry-run[/] shows the plan. [bold]scpl run --resume runs/NAME-TIME[/] continues a run where
    it stopped, whatever stopped it. [bold]--run-dir s3://BUCKET/PATH[/] keeps the run in an object store: it is done
    in a working copy below $SCPL_CACHE and carried over at every commit.
    """
    from jobs.driver import inputs, provenance, resuming
    from jobs.driver import run as loop
    from jobs.driver.dry_run import print_dry_run
    from jobs.driver.ray_session import check_address

    task: Task | None
    try:
        nodes = planned_nodes(cluster, dry_run=dry_run)
        if verify and resume is None:
            raise ConfigError("--verify: compares the files of a run with its manifests; give the run with --resume")
        with unheard(CHECKING):
            if resume is not None:
                if dry_run or run_dir is not None:
                    raise ConfigError(f"--resume {resume}: continues that run; leave --dry-run and --run-dir out")
                store, experiment, task = resuming.reopen(resume, arguments or [], thorough=verify)
            else:
                experiment = experiments.load(*split_arguments(arguments or []))
                if not dry_run:
                    check_address()
                    task = loop.checked_plan(experiment)[0]
                    experiment = inputs.anchored(experiment)
                    place = run_dir or loop.new_run_dir(experiment)
                    store = locations.create(place, experiment, loop.versions(), provenance.began())
        if dry_run:
            print_dry_run(wide_console(), experiment, nodes)
            return
    except (ValueError, StoreError) as error:
        raise fail(error) from error
    if task is None:
        with contextlib.closing(store):
            resuming.show(store, experiment, wide_console())
        return
    code = loop.supervise(store, experiment, task, verbose=verbose)
    if code:
        raise typer.Exit(code)


@app.command()
def simulate(
    arguments: Arguments = None,
    from_run: Annotated[
        str | None,
        typer.Option("--from", help="Fit to the first rounds of this run and predict its later ones; no CONFIG then."),
    ] = None,
    fit_rounds: Annotated[int | None, typer.Option(help="With --from: rounds to fit on (default: half).")] = None,
    output: Annotated[
        Path | None,
        typer.Option(parser=user_path, metavar="PATH", help="Also write every seed's numbers to this Parquet file."),
    ] = None,
) -> None:
    """Simulate the same loop without a language model: thousands of seeds in seconds.

    [bold]scpl simulate[/] simulates the quick start. [bold]scpl simulate my.yaml loop.rounds=100
    analytic.seeds=1000[/] looks further ahead. [bold]scpl simulate --from runs/NAME-TIME
    selection.strategy=quotas[/] fits a run and says what it would have done with another selection.
    """
    from jobs import simulate as job

    console = wide_console()
    try:
        path, overrides = split_arguments(arguments or [])
        if from_run is None:
            if fit_rounds is not None:
                raise ConfigError(f"--fit-rounds {fit_rounds}: needs a run to fit to, --from RUN_DIR")
            check_output(output, path)
            job.run(experiments.load(path, overrides), console, output=output)
        elif path is not None:
            raise ConfigError(f"--from {from_run}: brings its own config; leave {path} out, give only key=value pairs")
        else:
            with locations.readable([from_run]) as runs:
                for folder, name in runs.items():
                    check_output(output, folder)
                    job.run_from(folder, overrides, console, name=name, output=output, fit_rounds=fit_rounds)
    except (ValueError, StoreError) as error:
        raise fail(error) from error


app.add_typer(models.judge, name="judge")
app.add_typer(models.reward, name="reward")
app.add_typer(models.data, name="data")
app.command()(studies.sweep)
app.command()(studies.compare)
app.command()(measuring.measure)
app.command()(studies.report)
app.command()(looking.sample)
app.command()(looking.status)
app.command("list")(looking.names)
app.command()(sharing.push)


@app.command()
def init(
    path: Annotated[
        Path | None,
        typer.Argument(parser=user_path, metavar="[PATH]", help="Config to write (default: experiment.yaml)."),
    ] = None,
    config: Annotated[str | None, typer.Option("--from", help="Start from this built-in config.")] = None,
    task: Annotated[
        Path | None,
        typer.Option(parser=user_path, metavar="FILE.py", help="Write an example of a task of your own instead."),
    ] = None,
) -> None:
    """Write a config with every key, its default and its meaning; or a task of your own to change.

    [bold]scpl init my.yaml[/] writes a config. [bold]scpl init --task pets.py[/] writes a working task in one file, in
    which every part says what it is for.
    """
    from jobs import init as job

    try:
        if task is not None:
            if path is not None or config is not None:
                raise ConfigError(f"--task {task}: writes a task; leave {path or f'--from {config}'} out")
            said = job.write_task(task)
        else:
            experiment = experiments.load(*split_arguments([config] if config else []))
            said = job.write_config(path or Path("experiment.yaml"), experiment)
    except ConfigError as error:
        raise fail(error) from error
    print(said)


@app.command()
def doctor(
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Try the devices instead: about three minutes, nothing is downloaded.")
    ] = False,
) -> None:
    """Say what is installed, what is missing and how to install it.

    [bold]scpl doctor --gpu[/] tries what a run needs of its GPUs: driver, compiler, NCCL, an engine that starts,
    serves an adapter, sleeps and wakes, training steps on two ranks, memory that returns, and copies between devices.
    Each line of its table passed, failed with what to do, or could not run. Without a GPU it tries what it can on the
    CPU.
    """
    if gpu:
        from jobs.devices.table import examine_devices as healthy
    else:
        from jobs.doctor import examine as healthy
    if not healthy(wide_console()):
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the ``scpl`` command; rules and other code of the user's may lie in the working directory."""
    try:
        sys.path.append(str(Path.cwd()))
    except FileNotFoundError:
        print("scpl: the working directory is gone; change to one that exists", file=sys.stderr)
        raise SystemExit(2) from None
    for stream in (sys.stdout, sys.stderr):
        # a name in letters that this terminal cannot show must not stop a run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app(prog_name="scpl" if sys.argv[0].endswith("scpl") else None)
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.stdout = io.StringIO()  # else what could not be written is tried again at the end
        print(f"scpl: {error.strerror}", file=sys.stderr)
        raise SystemExit(1) from None
