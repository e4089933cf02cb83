"""``scpl measure``: the bias of what is there already, models or logs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.configs import CONFIGS
from jobs.terminal.command import check_output, fail, split_arguments
from jobs.terminal.display import wide_console
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.paths import user_path
from scpl_ray.storage.errors import StoreError


def measure(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG] [KEY=VALUE]...",
            help="With --checkpoints: how they are asked, a YAML file or a built-in config ("
            + ", ".join(CONFIGS)
            + "), "
            "then keys to change; model.name=FOLDER says where the adapters' base model lies.",
        ),
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            metavar="BASE,CKPT,...",
            help="Folders of models or of PEFT adapters, or Hub ids; the others are held against the first.",
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="With --checkpoints: as task.name.")] = None,
    data: Annotated[str | None, typer.Option(metavar="FILE", help="With --checkpoints: as task.data.")] = None,
    log: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="JSONL, CSV, TSV or Parquet, one row per answer, instead of models."),
    ] = None,
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
        Path | None,
        typer.Option(
            parser=user_path,
            metavar="PATH",
            help="Of checkpoints: the folder of the measurement (default: measured/NAME-TIME). Of a log: a JSON file.",
        ),
    ] = None,
) -> None:
    """Measure the bias of models that were trained anywhere, or what a log says of a pipeline that is in use.

    [bold]scpl measure --checkpoints BASE,CKPT1,CKPT2 --task news --data ARTICLES.jsonl[/] asks all of them the same
    held-out prompts, with the seeds, judge and metrics of a run: preference and disparate bias of each, a table, and a
    folder that [bold]scpl report[/] reads. [bold]scpl measure --log answers.jsonl[/] reads period and group of every
    answer, and kept, rating and kind where they are logged: shares, acceptance, the gap in ratings and the kinds per
    period, whether they drift, and whether what is kept differs between groups whose answers are rated alike.
    """
    of_models = {"CONFIG or KEY=VALUE": arguments, "--task": task, "--data": data}
    of_logs = {"--fields": fields, "--by": by, "--fit": fit or None}
    try:
        if (log is None) == (checkpoints is None):
            raise ConfigError("give what is to be measured: --checkpoints BASE,CKPT,... or --log FILE, and not both")
        code = 0
        if log is not None:
            _unasked(of_models, "--log")
            from jobs.measure import measure_log

            check_output(output, user_path(log))
            measure_log(log, fields, by, wide_console(), fit=fit, output=output)
        elif checkpoints is not None:
            _unasked(of_logs, "--checkpoints")
            from jobs.driver.checkpoints import measure_checkpoints

            path, overrides = split_arguments(arguments or [])
            # quoted, so that no name of a file is read as YAML
            overrides += [
                f"{key}={json.dumps(value, ensure_ascii=False)}"
                for key, value in (("task.name", task), ("task.data", data))
                if value is not None
            ]
            given = any(text.partition("=")[0] == "task.name" for text in overrides)
            names = [name.strip() for name in checkpoints.split(",")]
            code = measure_checkpoints(names, path, overrides, output, task_given=given)
    except (ValueError, StoreError) as error:
        raise fail(error) from error
    if code:
        raise typer.Exit(code)


def _unasked(options: Mapping[str, object], beside: str) -> None:
    """Refuse options that say nothing beside another one."""
    if given := [name for name, value in options.items() if value is not None and value != []]:
        raise ConfigError(f"{given[0]}: says nothing beside {beside}; leave it out")
