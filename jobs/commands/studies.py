"""The subcommands about many runs: ``scpl sweep``, ``scpl compare`` and ``scpl report``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.commands.arguments import CHECKING, Arguments
from jobs.configs import CONFIGS, STUDIES
from jobs.driver import experiments
from jobs.terminal.command import (
    PlannedNodes,
    base_name,
    fail,
    names_file,
    planned_nodes,
    split_arguments,
    study_path,
)
from jobs.terminal.display import unheard, wide_console
from scpl_ray.config import loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.paths import user_path
from scpl_ray.storage import locations
from scpl_ray.storage.errors import StoreError
from scpl_ray.studies import study
from scpl_ray.studies.study import Study

StudyDir = Annotated[str | None, typer.Option(help="Folder of the study (default: studies/NAME-TIME).")]


def sweep(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY] [KEY=VALUE]...",
            help="A study file, or a built-in study ("
            + ", ".join(STUDIES)
            + "), then what is different: name, size, seeds, "
            "arms (a list), or keys such as task.data, for all arms that do not set them themselves. With --resume "
            "only seeds, to more.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The seeds and arms of its section `quick`.")] = False,
    study_dir: StudyDir = None,
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
    seeds. [bold]scpl report studies/NAME-TIME[/] makes the
    page.
    """
    from jobs.driver import study as job

    try:
        if pilot is not None and not power:
            raise ConfigError(f"--pilot {pilot}: is read by --power; add that")
        if resume is not None:
            _leave_out(f"--resume {resume}: continues that study", {"--quick": quick, "--study-dir": study_dir})
        if power:
            unread = {"--dry-run": dry_run, "--cluster": cluster, "--study-dir": study_dir}
            _leave_out("--power: starts nothing", unread)
        given = list(arguments or [])
        named = bool(given) and names_file(given[0])
        if named == (resume is not None):
            raise ConfigError(
                "give a study file or a built-in study to begin one, or --resume STUDY_DIR to continue one"
            )
        keys = dict(map(loading.parse_override, given[named:]))
        if resume is not None:
            folder = _study_folder(resume)
            plan = job.open_study(folder, keys)
        else:
            with unheard(CHECKING):
                plan = study.load(study_path(given[0]), CONFIGS, quick=quick, keys=keys)
            folder = _new_folder(plan, study_dir)
        if power:
            _print_power(plan, pilot)
            return
        more = keys if resume is not None else None
        code = _perform(folder, plan, more, dry_run=dry_run, cluster=cluster)
    except (ValueError, StoreError) as error:
        raise fail(error) from error
    if code:
        raise typer.Exit(code)


def _leave_out(why: str, options: Mapping[str, str | bool | None]) -> None:
    """Raise :class:`ConfigError` if an option is given that something else makes meaningless."""
    if given := [name for name, value in options.items() if value not in (None, False)]:
        raise ConfigError(f"{why}; leave {' and '.join(given)} out")


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
    study_dir: StudyDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check both, start nothing.")] = False,
) -> None:
    """Ask whether a loop amplifies: run it and its control over seeds, and print the answer.

    [bold]scpl compare[/] holds the quick start against users who stay as they are. [bold]scpl compare my.yaml
    --against retraining[/] asks what incremental training does, [bold]--against selection.strategy=reweight[/] what
    a remedy would. It is a study of two arms: [bold]scpl sweep --resume studies/NAME-TIME[/] continues it,
    [bold]scpl report studies/NAME-TIME[/] makes the page.
    """
    from scpl_ray.studies.comparison import comparison

    try:
        path, overrides = split_arguments(arguments or [])
        plan = comparison(
            experiments.load(path, overrides),
            against,
            base=base_name(path),
            own=dict(map(loading.parse_override, overrides)),
            seeds=seeds,
            simulated=simulated,
        )
        code = _perform(_new_folder(plan, study_dir), plan, dry_run=dry_run)
    except (ValueError, StoreError) as error:
        raise fail(error) from error
    if code:
        raise typer.Exit(code)


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


def _perform(
    folder: Path, plan: Study, more: dict[str, Any] | None = None, *, dry_run: bool, cluster: str | None = None
) -> int:
    """Check a study and run it, or print its plan.

    Args:
        folder: its folder.
        plan: the study.
        more: the keys with which one that exists is continued; ``None``: it is new.
        dry_run: whether only the plan is printed.
        cluster: the nodes to plan for instead of this machine, as text.

    Returns:
        The exit code.

    Raises:
        ValueError, StoreError: it cannot run; nothing was started.
    """
    from jobs.driver import study as job

    found = None
    nodes = planned_nodes(cluster, dry_run=dry_run)
    with unheard(CHECKING):
        if more is not None and job.is_finished(folder, plan):
            trials: Sequence[study.Trial] = study.trials(plan, CONFIGS)
        else:
            plan, trials, found = job.checked(plan, dry_run=dry_run, cluster=nodes)
    if dry_run:
        job.print_plan(wide_console(), plan, trials, found)
        if plan.claims:
            from jobs.driver.pilot import print_power

            print_power(wide_console(), plan, trials, None)
        return 0
    if more is None:
        job.create(folder, plan)
    elif more:
        job.extend(folder, plan)
    return job.run(folder, plan, trials)


def _print_power(plan: Study, pilot: str | None) -> None:
    from jobs.driver import study as job
    from jobs.driver.pilot import print_power

    trials = study.trials(plan, CONFIGS, experiments.build)
    job.check(plan, trials)
    print_power(wide_console(), plan, trials, locations.local(pilot, "--pilot") if pilot else None)


def _new_folder(plan: Study, study_dir: str | None) -> Path:
    from jobs.driver import study as job

    return locations.local(study_dir, "--study-dir") if study_dir else job.new_folder(plan)


def _study_folder(resume: str) -> Path:
    folder = locations.local(resume, "--resume")
    if (folder / "run.json").is_file():
        raise ConfigError(
            f"--resume {resume}: this is the folder of one run; continue it with: "
            f"scpl run --resume {shlex.quote(resume)}"
        )
    return folder
