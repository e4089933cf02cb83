"""The ``scpl`` command. Each subcommand is one job."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs import looking
from jobs.configs import CONFIGS, STUDIES
from jobs.driver import experiments
from jobs.terminal.command import PlannedNodes, fail, planned_nodes, split_arguments, study_path, user_path
from jobs.terminal.display import unheard, wide_console
from scpl_ray import __version__
from scpl_ray.config import loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.schema import MAY_CHANGE
from scpl_ray.protocols import Task
from scpl_ray.storage import locations
from scpl_ray.storage.errors import StoreError
from scpl_ray.studies import study

CHECKING = "checking the config, its data and its models"

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] [KEY=VALUE]...",
        help="A YAML file or a built-in config (" + ", ".join(CONFIGS) + "), then keys to change, e.g. loop.rounds=3. "
        "Without a config: the quick start, offline, on a CPU.",
    ),
]


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
    from jobs.driver import inputs, resuming
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
                    store = locations.create(run_dir or loop.new_run_dir(experiment), experiment, loop.versions())
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
            job.run(experiments.load(path, overrides), console, output=output)
        elif path is not None:
            raise ConfigError(f"--from {from_run}: brings its own config; leave {path} out, give only key=value pairs")
        else:
            with locations.readable([from_run]) as runs:
                for folder, name in runs.items():
                    job.run_from(folder, overrides, console, name=name, output=output, fit_rounds=fit_rounds)
    except (ValueError, StoreError) as error:
        raise fail(error) from error


judge = typer.Typer(no_args_is_help=True, help="The judge that tells kinds of text: train it and print its card.")
app.add_typer(judge, name="judge")
reward = typer.Typer(no_args_is_help=True, help="Reward models with one output per group: train one for reward.model.")
app.add_typer(reward, name="reward")
Output = Annotated[
    Path, typer.Option(parser=user_path, metavar="PATH", help="New folder for the model and its card.json.")
]


@judge.command("train")
def judge_train(output: Output, arguments: Arguments = None) -> None:
    """Train the judge that a run of this config uses, and print how often it errs on text it has not seen.

    [bold]scpl judge train news_smollm2 task.data=ARTICLES.jsonl --output judges/news[/] fits a TF-IDF classifier in
    seconds; with [bold]task.judge=encoder[/] an encoder is fine-tuned, which takes minutes. [bold]scpl judge train
    preference_smollm2 task.data=ANSWERS.jsonl --output judges/preference[/] fits a reward model with one output per
    group. A run trains the same judge by itself, once, and keeps it.
    """
    from jobs.judge import train_judge

    try:
        train_judge(experiments.load(*split_arguments(arguments or [])), output)
    except ValueError as error:
        raise fail(error) from error


@reward.command("train")
def reward_train(output: Output, arguments: Arguments = None) -> None:
    """Train a reward model with one output per group on the training questions, and print how it orders unseen pairs.

    [bold]scpl reward train preference_smollm2 task.data=ANSWERS.jsonl --output rewards/mine[/], then
    [bold]scpl run preference_smollm2 task.data=ANSWERS.jsonl reward.model=rewards/mine 'reward.terms={model: 1.0}'[/]:
    each query is scored by the output of the group that asks it.
    """
    from jobs.judge import train_reward_model

    try:
        train_reward_model(experiments.load(*split_arguments(arguments or [])), output)
    except ValueError as error:
        raise fail(error) from error


data = typer.Typer(no_args_is_help=True, help="Data of your own: look at a file before a run.")
app.add_typer(data, name="data")


@data.command("check")
def data_check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="As task.data: a file or a Hub data set id.")],
    task: Annotated[str, typer.Option(help="maths, news or preference.")],
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As for scpl run.")] = None,
) -> None:
    """Say what a task makes of a file: rows kept and left out by reason, groups, lengths, and settings that fit.

    [bold]scpl data check ARTICLES.csv --task news 'task.fields={text: body}'[/] answers within seconds, without a
    model. It ends with 1 where a run would stop.
    """
    from jobs.data import check

    try:
        usable = check(file, task, keys or [], wide_console())
    except ValueError as error:
        raise fail(error) from error
    if not usable:
        raise typer.Exit(1)


@app.command()
def sweep(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY] [KEY=VALUE]...",
            help="A study file, or a built-in study (" + ", ".join(STUDIES) + "), then what is different: size, seeds, "
            "arms (a list), or keys of all arms such as task.data. With --resume only seeds, to more.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The seeds and arms of its section `quick`.")] = False,
    study_dir: Annotated[str | None, typer.Option(help="Folder of the study (default: studies/NAME-TIME).")] = None,
    resume: Annotated[str | None, typer.Option(help="Continue the study in this folder; finished rounds stay.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check every arm, list the trials, say what they can decide, start nothing."),
    ] = False,
    cluster: PlannedNodes = None,
    power: Annotated[
        bool, typer.Option("--power", help="Only say how many seeds decide each claim, from the analytic mode.")
    ] = False,
    pilot: Annotated[
        str | None,
        typer.Option(metavar="STUDY_DIR", help="With --power: from this study, which was run, and its cost."),
    ] = None,
) -> None:
    """Run a study: arms, controls and seeds under Ray Tune, or without a language model.

    [bold]scpl sweep study_paper_tiny --quick[/] is a first look at the paper's claims on the built-in task.
    [bold]scpl sweep my_study.yaml[/] runs yours; `scpl_ray/studies/study.py` says what a study file holds.
    [bold]scpl sweep paper_news size=smollm2 task.data=ARTICLES.jsonl seeds=5[/] runs a study with a larger model.
    [bold]scpl sweep --resume studies/NAME-TIME[/] continues a study where it stopped, with [bold]seeds=20[/] to more
    seeds. [bold]scpl report studies/NAME-TIME[/] makes the page.
    """
    from jobs.driver import study as job
    from jobs.driver.pilot import print_power

    found = None
    try:
        if pilot is not None and not power:
            raise ConfigError(f"--pilot {pilot}: is read by --power; add that")
        given = list(arguments or [])
        named = bool(given) and ("=" not in given[0] or user_path(given[0]).is_file())
        if named == (resume is not None):
            raise ConfigError(
                "give a study file or a built-in study to begin one, or --resume STUDY_DIR to continue one"
            )
        keys = dict(map(loading.parse_override, given[named:]))
        if resume is not None:
            folder = locations.local(resume, "--resume")
            if (folder / "run.json").is_file():
                raise ConfigError(
                    f"--resume {resume}: this is the folder of one run; continue it with: "
                    f"scpl run --resume {shlex.quote(resume)}"
                )
            plan = job.open_study(folder, keys)
        else:
            plan = study.load(study_path(given[0]), CONFIGS, quick=quick, keys=keys)
            folder = locations.local(study_dir, "--study-dir") if study_dir else job.new_folder(plan)
        if power:
            trials = study.trials(plan, CONFIGS, experiments.build)
            job.check(plan, trials)
            print_power(wide_console(), plan, trials, locations.local(pilot, "--pilot") if pilot else None)
            return
        nodes = planned_nodes(cluster, dry_run=dry_run)
        with unheard(CHECKING):
            if resume is not None and job.is_finished(folder, plan):
                trials = study.trials(plan, CONFIGS)
            else:
                plan, trials, found = job.checked(plan, dry_run=dry_run, cluster=nodes)
        if dry_run:
            job.print_plan(wide_console(), plan, trials, found)
            if plan.claims:
                print_power(wide_console(), plan, trials, None)
            return
        if resume is None:
            job.create(folder, plan)
        elif keys:
            job.extend(folder, plan)
        code = job.run(folder, plan, trials)
    except (ValueError, StoreError) as error:
        raise fail(error) from error
    if code:
        raise typer.Exit(code)


@app.command()
def compare(
    arguments: Arguments = None,
    against: Annotated[
        str,
        typer.Option(
            metavar="CONTROL",
            help="static: the same users in every round. retraining: from the base model in every round. Or KEY=VALUE.",
        ),
    ] = "static",
    seeds: Annotated[int, typer.Option(min=2, help="Seeds of each; fewer than 6 give an interval, no verdict.")] = 6,
    simulated: Annotated[
        bool, typer.Option("--simulate", help="Without a language model, in the analytic mode: seconds.")
    ] = False,
    study_dir: Annotated[str | None, typer.Option(help="Folder of the study (default: studies/NAME-TIME).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check both, start nothing.")] = False,
) -> None:
    """Ask whether a loop amplifies: run it and its control over seeds, and print the answer.

    [bold]scpl compare[/] holds the quick start against users who stay as they are. [bold]scpl compare my.yaml
    --against retraining[/] asks what incremental training does, [bold]--against selection.strategy=reweight[/] what
    a remedy would. It is a study of two arms: [bold]scpl sweep --resume studies/NAME-TIME[/] continues it,
    [bold]scpl report studies/NAME-TIME[/] makes the page.
    """
    from jobs.driver import study as job
    from scpl_ray.studies.comparison import comparison

    found = None
    try:
        path, overrides = split_arguments(arguments or [])
        plan = comparison(
            experiments.load(path, overrides),
            against,
            base=study.QUICK_START if path is None else str(path.resolve()),
            overrides=overrides,
            seeds=seeds,
            simulated=simulated,
        )
        folder = locations.local(study_dir, "--study-dir") if study_dir else job.new_folder(plan)
        with unheard(CHECKING):
            plan, trials, found = job.checked(plan, dry_run=dry_run)
        if dry_run:
            job.print_plan(wide_console(), plan, trials, found)
            return
        job.create(folder, plan)
        code = job.run(folder, plan, trials)
    except (ValueError, StoreError) as error:
        raise fail(error) from error
    if code:
        raise typer.Exit(code)


@app.command()
def measure(
    log: Annotated[str, typer.Option(metavar="FILE", help="JSONL, CSV or Parquet, one row per answer.")],
    fields: Annotated[
        str | None,
        typer.Option(
            metavar="MAPPING", help="Your columns: '{period: date, group: region, kept: accepted, rating: stars}'."
        ),
    ] = None,
    by: Annotated[
        Literal["day", "week", "month"] | None, typer.Option(help="Length of a period, where the log holds dates.")
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Also estimate whether deviations of the shares grow from period to period.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(parser=user_path, metavar="PATH", help="Also write the numbers to this JSON file.")
    ] = None,
) -> None:
    """Measure what a pipeline that is in use does to the groups it serves, from its log alone.

    [bold]scpl measure --log answers.jsonl[/] reads period and group of every answer, and kept, rating and kind where
    they are logged: shares, acceptance, the gap in ratings and the kinds per period, whether they drift, and whether
    what is kept differs between groups whose answers are rated alike.
    """
    from jobs.measure import measure_log

    try:
        measure_log(log, fields, by, wide_console(), fit=fit, output=output)
    except (ValueError, StoreError) as error:
        raise fail(error) from error


@app.command()
def report(
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH...", help="Folders of studies or of runs, or s3://BUCKET/PATH of runs.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            parser=user_path, help="Folder to write to (default: PATH/report; ./report for several, or a URI)."
        ),
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Also write the claims as claims.csv.")] = False,
    latex: Annotated[
        bool, typer.Option("--latex", help="Also write claims.tex, a paragraph methods.tex, and references.bib.")
    ] = False,
) -> None:
    """Write what a study or single runs say on one page: verdicts, paths, flags, samples.

    [bold]scpl report studies/NAME[/] writes report.html, its figures and report.json. The page needs no network.
    """
    from jobs import report as job

    try:
        page = job.write(paths, output, csv=csv, latex=latex)
    except (ValueError, StoreError) as error:
        raise fail(error) from error
    print(f"{page} written")


app.command()(looking.sample)
app.command()(looking.status)
app.command("list")(looking.names)


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
    sys.path.append(str(Path.cwd()))
    for stream in (sys.stdout, sys.stderr):
        # a name in letters that this terminal cannot show must not stop a run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="scpl" if sys.argv[0].endswith("scpl") else None)
