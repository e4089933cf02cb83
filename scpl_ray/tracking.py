"""Metrics for dashboards: TensorBoard event files always, MLflow or Weights & Biases where the config says so.

The run directory remains the authoritative record. A resumed run continues the same dashboard run, in which every round
is written once.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import logging
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from scpl_ray.config import Experiment
from scpl_ray.records import Metric

logger = logging.getLogger(__name__)

PACKAGES = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
RUN_TAG, PLACE_TAG = "scpl_ray.run", "scpl_ray.run_dir"
"""The tags by which MLflow's run is found: the id of the run or, of one that has none, where it lies."""
IN_FILTERS = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in "%'\"`\\")
"""The characters of a place that its tag holds as they are; MLflow's filters are written with quotes."""
WRITTEN = "rounds_written"
"""The dashboard metric whose values are the rounds that have been written there already."""


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """Which run dashboards show."""

    place: str
    """Its folder or URI; the last part of it is its name in dashboards."""
    id: str | None
    """What identifies it wherever it lies; ``None``: an earlier version began it, and its place identifies it."""

    @property
    def name(self) -> str:
        """What dashboards call it."""
        return PurePosixPath(self.place).name


class Tracker(Protocol):
    """One dashboard."""

    def open(self) -> None:
        """Begin the dashboard's run, or find the existing one."""
        ...

    def write(self, rows: Sequence[Metric]) -> None:
        """Write a round's metrics."""
        ...

    def close(self, *, finished: bool) -> None:
        """End the dashboard's run."""
        ...


def check(experiment: Experiment) -> None:
    """Check that the package of the configured dashboard is installed.

    Raises:
        ValueError: it is not installed.
    """
    to = experiment.tracking.to
    if to is not None and importlib.util.find_spec(to) is None:
        raise ValueError(f"tracking.to = {to!r}: not installed; pip install {PACKAGES[to]}, or leave tracking.to out")


class Boards:
    """The dashboards of a run. A dashboard that fails is skipped from then on, with a warning; it never stops the run.

    Groups are called in all dashboards as :func:`portable_names` calls them.

    Args:
        experiment: the config.
        run_dir: the run directory, which receives TensorBoard's files.
        place: the run's folder or URI, :attr:`~scpl_ray.storage.run_directory.Reader.place`.
        run_id: the ``id`` of its ``run.json``; anything but a text: it has none.
    """

    def __init__(self, experiment: Experiment, run_dir: Path, place: str, run_id: object) -> None:
        run = Run(place, run_id if isinstance(run_id, str) else None)
        names = portable_names(experiment.groups.names)
        self._boards: list[Tracker] = [TensorBoard(run_dir / "tensorboard", names)]
        if experiment.tracking.to == "mlflow":
            self._boards.append(MLflow(experiment, run, names))
        elif experiment.tracking.to == "wandb":
            self._boards.append(WeightsAndBiases(experiment, run_dir, run, names))
        self._each(lambda board: board.open())

    def write(self, rows: Sequence[Metric]) -> None:
        """Write a round's metrics to all dashboards."""
        self._each(lambda board: board.write(rows))

    def close(self, *, finished: bool) -> None:
        """End the dashboards' runs."""
        self._each(lambda board: board.close(finished=finished))

    def _each(self, do: Callable[[Tracker], None]) -> None:
        for board in list(self._boards):
            try:
                do(board)
            except Exception as error:
                # which exceptions the packages raise is not documented, and none of them concerns the run
                self._boards.remove(board)
                logger.warning(
                    "%s is left out from now on: %s; the run directory has everything, and `scpl run --resume` writes "
                    "the rounds that are missing there",
                    type(board).__name__,
                    error,
                    exc_info=True,
                )


def portable_names(groups: Sequence[str]) -> dict[str, str]:
    """The name of each group in dashboards: letters and digits of any script, ``.``, ``_`` and ``-``.

    All dashboards accept these characters in the name of a metric; every other character becomes ``_``, and a name that
    an earlier group has already is numbered.
    """
    names: dict[str, str] = {}
    for group in groups:
        plain = name = re.sub(r"[^\w.-]", "_", group)
        number = 2
        while name in names.values() or not name.strip("."):
            name, number = f"{plain}-{number}", number + 1
        names[group] = name
    return names


def scalars(rows: Sequence[Metric], names: Mapping[str, str]) -> dict[str, float]:
    """The value of each metric by ``<metric>/<group>``, or by ``<metric>`` where it is over all groups.

    Args:
        rows: the metrics of a round.
        names: the dashboards' names of groups; a group that is not in it keeps its own.
    """
    return {
        row.metric if row.group is None else f"{row.metric}/{names.get(row.group, row.group)}": row.value
        for row in rows
    }


class TensorBoard:
    """Event files in the run directory."""

    def __init__(self, folder: Path, names: Mapping[str, str]) -> None:
        self._folder, self._names = folder, names

    def open(self) -> None:
        """Begin an event file."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(self._folder))

    def write(self, rows: Sequence[Metric]) -> None:
        """Write a round's metrics."""
        for tag, value in scalars(rows, self._names).items():
            self._writer.add_scalar(tag, value, rows[0].round)
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        """Close the event file."""
        self._writer.close()


class MLflow:
    """A run of an MLflow experiment, which a resumed run finds by a tag."""

    def __init__(self, experiment: Experiment, run: Run, names: Mapping[str, str]) -> None:
        self._experiment, self._of, self._names = experiment, run, names

    def open(self) -> None:
        """Find the run by its tag, or create it."""
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        experiment, of = self._experiment, self._of
        self._client = MlflowClient()
        name = experiment.tracking.project
        known = self._client.get_experiment_by_name(name)
        where = known.experiment_id if known else self._client.create_experiment(name)
        tag = PLACE_TAG if of.id is None else RUN_TAG
        here = urllib.parse.quote(of.id or of.place, safe=IN_FILTERS, errors="surrogatepass")
        before = self._client.search_runs([where], f"tags.`{tag}` = '{here}'", max_results=1)
        if before:
            self._run = before[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            run = self._client.create_run(where, run_name=of.name, tags={tag: here})
            self._run = run.info.run_id
            params = [Param(key, str(value)) for key, value in flat(experiment).items()]
            self._client.log_batch(self._run, params=params, tags=[RunTag("scpl_ray.name", experiment.name)])
        self._written = {int(m.value) for m in self._client.get_metric_history(self._run, WRITTEN)} if before else set()

    def write(self, rows: Sequence[Metric]) -> None:
        """Write a round's metrics unless they have been written already."""
        import time

        from mlflow.entities import Metric as Point

        round_ = rows[0].round
        if round_ in self._written:
            return
        now = int(time.time() * 1000)
        points = [Point(tag, value, now, round_) for tag, value in scalars(rows, self._names).items()]
        for start in range(0, len(points), 900):
            self._client.log_batch(self._run, metrics=points[start : start + 900])
        self._client.log_batch(self._run, metrics=[Point(WRITTEN, round_, now, round_)])
        self._written.add(round_)

    def close(self, *, finished: bool) -> None:
        """Mark the run as finished or stopped."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


class WeightsAndBiases:
    """A run of a W&B project, with an id derived from the run's; its steps are the rounds."""

    def __init__(self, experiment: Experiment, run_dir: Path, run: Run, names: Mapping[str, str]) -> None:
        self._names = names
        self._settings: dict[str, Any] = {
            "project": experiment.tracking.project,
            "name": run.name,
            "id": hashlib.sha256((run.id or run.place).encode(errors="surrogatepass")).hexdigest()[:16],
            "dir": str(run_dir),
            "config": flat(experiment),
        }

    def open(self) -> None:
        """Begin the run with this id, or resume it."""
        import wandb

        self._run = wandb.init(resume="allow", **self._settings)

    def write(self, rows: Sequence[Metric]) -> None:
        """Write a round's metrics; W&B itself ignores a step that it has already."""
        self._run.log(scalars(rows, self._names), step=rows[0].round)

    def close(self, *, finished: bool) -> None:
        """Mark the run as finished or stopped."""
        self._run.finish(exit_code=0 if finished else 1)


def flat(experiment: Experiment) -> dict[str, Any]:
    """The value of every config key, by its dotted name."""
    return dict(_leaves(experiment.model_dump(mode="json"), ""))


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
