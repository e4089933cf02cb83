"""Runs and studies that are on disk, as pandas frames, pages and figures. Nothing that their configs name is imported.

The examples read a small run in ``runs/first`` and an analytic study in ``studies/first``.
"""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scpl_ray.records import SCHEMAS, Completion, Example, Judgement, Metric, Query, Score
from scpl_ray.storage import locations, retention, run_facts
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import Reader
from scpl_ray.studies import study
from scpl_ray.studies.study import STUDY_FILE

if TYPE_CHECKING:  # pandas takes a second to import
    import pandas as pd
    import pyarrow as pa

    from scpl_ray.report.axes import Figure
    from scpl_ray.report.data import Part


class Report:
    """A page that was written; a notebook shows it below the cell."""

    def __init__(self, path: Path) -> None:
        self.path = path
        """``report.html``; its figures and ``report.json`` lie beside it."""

    def __repr__(self) -> str:
        return f"Report({str(self.path)!r})"

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" sandbox style="width: 100%; height: 40em; border: 0"></iframe>'


class Figures:
    """The figures of the page; a notebook shows them below the cell."""

    def __init__(self, figures: tuple[Figure, ...]) -> None:
        self.figures = figures

    def __repr__(self) -> str:
        return f"Figures({', '.join(figure.name for figure in self.figures)})"

    def __len__(self) -> int:
        return len(self.figures)

    def save(self, folder: str | Path) -> list[Path]:
        """Write every figure as SVG and PNG into a folder, which is made; returns the files."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        files = []
        for figure in self.figures:
            for suffix, data in (("svg", figure.svg), ("png", figure.png)):
                files.append(target / f"{figure.name}.{suffix}")
                files[-1].write_bytes(data)
        return files

    def _repr_html_(self) -> str:
        return "".join(
            f"<figure><figcaption>{html.escape(figure.title)}</figcaption>"
            f'<img alt="{html.escape(figure.alt, quote=True)}" '
            f'src="data:image/svg+xml;base64,{base64.b64encode(figure.svg).decode()}"/></figure>'
            for figure in self.figures
        )


class Run:
    """One run directory, finished or not. Everything is read from disk when it is asked for."""

    def __init__(self, path: str | Path) -> None:
        """Open a run.

        Raises:
            StoreError: the folder is not a run directory.
        """
        self._reader, self.experiment = Reader.open(locations.local(str(path), "read"))
        """Its config."""

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._reader.root

    @property
    def finished(self) -> bool:
        """Whether the last round is done."""
        last = self.experiment.loop.rounds
        rounds = None if self._reader.checkpoints else last
        return run_facts.is_summed_up(self.path, rounds) and self.rounds[-1:] == [last]

    @property
    def rounds(self) -> list[int]:
        """The rounds that were evaluated, from 0.

        >>> read("runs/first").rounds
        [0, 1, 2, 3]
        """
        last = self.experiment.loop.rounds
        return [t for t in range(last + 1) if self._reader.manifest(t, "evaluation") is not None]

    @property
    def metrics(self) -> pd.DataFrame:
        """Every number of every round: ``round``, ``group`` (missing: over all groups), ``metric``, ``value``.

        ``low`` and ``high`` are the bounds of its 95% interval over the prompts, missing where a metric has none.

        >>> run = read("runs/first")
        >>> list(run.metrics.columns)
        ['round', 'group', 'metric', 'value', 'low', 'high']
        """
        import pyarrow as pa

        tables = [self._table(t, "evaluation", "metrics", Metric) for t in self.rounds]
        found: pd.DataFrame = pa.concat_tables([SCHEMAS[Metric].empty_table(), *tables]).to_pandas()
        return found

    @property
    def overall(self) -> pd.DataFrame:
        """The numbers over all groups, a row per round and a column per metric.

        >>> float(read("runs/first").overall.loc[0, "preference_log_odds_round0"])
        0.0
        """
        found = self.metrics
        return found[found.group.isna()].pivot(index="round", columns="metric", values="value")

    @property
    def shares(self) -> pd.DataFrame:
        """The share of each group among the queries, a row per round and a column per group.

        >>> read("runs/first").shares.loc[0].to_dict()
        {'north': 0.5, 'south': 0.5}
        """
        return _shares(self.metrics, ["round"], self.experiment.groups.names)

    def completions(self, round_: int) -> pd.DataFrame:
        """What the policy answered in a round, with its rewards, and whether it was kept.

        Columns: ``completion_id``, ``query_id``, ``group``, ``prompt``, ``text``, ``finish_reason``, ``reward``, one
        ``term_...`` per reward term, ``kept``, and ``weight`` (missing where it was not kept).

        Args:
            round_: from 1; the answers are those of the policy of the round before.

        Raises:
            StoreError: the round has not come to its selection yet.

        >>> answers = read("runs/first").completions(1)
        >>> bool(answers.kept.any()), bool(answers[~answers.kept].weight.isna().all())
        (True, True)
        """
        self._check(round_, "selection")
        queries = self._table(round_, "queries", "queries", Query).to_pandas()[["query_id", "group", "prompt"]]
        answers = self._table(round_, "completions", "completions", Completion)
        shown = answers.select(["completion_id", "query_id", "text", "finish_reason"]).to_pandas()
        scores = _terms(self._table(round_, "scores", "scores", Score))
        kept = self._table(round_, "selection", "kept", Example).select(["example_id", "weight"]).to_pandas()
        weights = kept.groupby("example_id").weight.sum()
        found = shown.merge(queries, on="query_id").merge(scores, on="completion_id")
        found["kept"] = found.completion_id.isin(weights.index)
        found["weight"] = found.completion_id.map(weights)
        first = ["completion_id", "query_id", "group", "prompt", "text", "finish_reason", "reward"]
        return found[[*first, *(name for name in found.columns if name not in first)]]

    def evaluation(self, round_: int) -> pd.DataFrame:
        """What the policy that a round trained answers to the held-out prompts, and what the judge says of it.

        Columns: ``completion_id``, ``query_id``, ``group`` (missing: a neutral prompt), ``prompt``, ``text``, ``kind``,
        ``quality``, one ``term_...`` per part of the quality, and ``log_odds`` (how surely it is of each kind, where
        the judge errs). The prompts are the same in every round.

        Args:
            round_: 0 is the base model.

        Raises:
            StoreError: the round was not evaluated yet.

        >>> run = read("runs/first")
        >>> bool((run.evaluation(0).prompt == run.evaluation(3).prompt).all())
        True
        """
        self._check(round_, "evaluation")
        prompts = self._table(round_, "evaluation", "prompts", Query).to_pandas()[["query_id", "group", "prompt"]]
        answers = self._table(round_, "evaluation", "completions", Completion)
        shown = answers.select(["completion_id", "query_id", "text"]).to_pandas()
        judged = _terms(self._table(round_, "evaluation", "judgements", Judgement))
        found = shown.merge(prompts, on="query_id").merge(judged, on="completion_id")
        first = ["completion_id", "query_id", "group", "prompt", "text", "kind", "quality"]
        return found[[*first, *(name for name in found.columns if name not in first)]]

    def policy(self, round_: int) -> Path:
        """The folder of the policy that a round trained.

        With ``model.lora`` it is a PEFT adapter for ``AutoPeftModelForCausalLM.from_pretrained``, which finds the base
        model by itself; where all weights are trained, and in round 0, it is a whole model for
        ``AutoModelForCausalLM``.

        Raises:
            StoreError: the round has trained no policy yet, or the folder is gone, or this is a measurement of
                checkpoints, which holds no policies.
        """
        if self._reader.checkpoints:
            names = ", ".join(self._reader.checkpoints)
            raise StoreError(
                f"{self.path}: holds answers of the measured checkpoints {names}, not the models; load those"
            )
        if round_ == 0:
            return self._reader.base()
        self._check(round_, "weights")
        weights = retention.policy_left(self._reader, self.experiment, self.path, round_)
        return weights.adapter or weights.model

    @property
    def code(self) -> list[dict[str, Any]]:
        """The code of the user's own with which the rounds were made, as it is kept in ``code.json``; empty for most.

        An entry holds ``from_round``, ``code`` (the functions by config key) and ``files`` (SHA-256 and text by name).
        """
        return self._reader.code

    @property
    def figures(self) -> Figures:
        """The figures of the page.

        >>> read("runs/first").figures
        Figures(shares, preference, ...)
        """
        return _figures(_part(self.path))

    def report(self, output: str | Path | None = None) -> Report:
        """Write the page and its figures, as ``scpl report``; into its folder ``report`` if not told where."""
        return _report(self.path, output)

    def __repr__(self) -> str:
        done = f"{max(self.rounds, default=0)} of {self.experiment.loop.rounds} rounds"
        return f"Run({str(self.path)!r}: {done})"

    def _repr_html_(self) -> str:
        columns = ["preference_log_odds_round0", "disparate_gap", "quality_mean", "quality_worst", "distinct_2"]
        found = self.overall
        shown = self.shares.join(found[[name for name in columns if name in found.columns]])
        return f"<p>{html.escape(repr(self))}</p>{shown.to_html(float_format='{:.3f}'.format)}"

    def _table(self, round_: int, phase: str, name: str, kind: type[Any]) -> pa.Table:
        return self._reader.table(round_, phase, name, kind)

    def _check(self, round_: int, phase: str) -> None:
        if round_ < 0 or self._reader.manifest(round_, phase) is None:
            raise StoreError(f"{self.path}: round {round_} has no {phase} yet; it has done rounds {self.rounds}")


class Study:
    """The folder of a study, finished or not."""

    def __init__(self, path: str | Path) -> None:
        """Open a study.

        Raises:
            StoreError: the folder holds no study, or none with a result.
            ValueError: the study file or its results are damaged.
        """
        self.path = locations.local(str(path), "read")
        """Its folder."""
        if not (self.path / STUDY_FILE).is_file():
            raise StoreError(f"{path}: no study, {STUDY_FILE} is missing; give the folder that `scpl sweep` made")
        self._part = _part(self.path)

    @property
    def name(self) -> str:
        """Its title, or its name."""
        return self._part.title

    @property
    def arms(self) -> list[str]:
        """The arms, those of claims first.

        >>> read("studies/first").arms
        ['static', 'shifting', 'shifting-random']
        """
        return list(self._part.arms)

    @property
    def metrics(self) -> pd.DataFrame:
        """Every number: ``arm``, ``seed``, ``round``, ``group`` (missing: over all groups), ``metric``, ``value``.

        ``low`` and ``high`` are the bounds of the within-run interval: of one run, not between seeds.
        """
        return self._part.table.to_pandas()

    @property
    def shares(self) -> pd.DataFrame:
        """The share of each group among the queries, a row per arm, seed and round."""
        return _shares(self.metrics, ["arm", "seed", "round"], ())

    @property
    def verdicts(self) -> pd.DataFrame:
        """The claims, one a row: ``name``, ``outcome``, ``estimate``, ``low``, ``high``, ``p_adjusted``, ``sentence``.

        ``not_compared`` says which seeds are left out, and is empty where none is.

        >>> read("studies/first").verdicts.outcome.tolist()
        ['supported', 'supported']
        """
        import pandas as pd

        from scpl_ray.report import words
        from scpl_ray.studies import verdicts

        columns = ["name", "outcome", "estimate", "low", "high", "p_adjusted", "sentence", "not_compared"]
        plan = self._part.study
        if plan is None or not plan.claims:
            return pd.DataFrame(columns=columns)
        family = verdicts.judge(self._part.series, plan)
        rows = []
        for judged in family.judged:
            found = judged.verdict
            numbers = (
                (found.estimate, found.interval.low, found.interval.high, found.p_adjusted) if found else (None,) * 4
            )
            rows.append((judged.name, judged.outcome, *numbers, words.sentence(judged, family), words.left_out(judged)))
        return pd.DataFrame(rows, columns=columns)

    @property
    def runs(self) -> list[Run]:
        """Its run directories; none where the study was simulated."""
        return [Run(run.reader.root) for run in self._part.runs]

    @property
    def failed(self) -> dict[str, str]:
        """The reasons of failed trials, by folder."""
        file = self.path / study.FAILED_FILE
        return dict(json.loads(file.read_bytes())) if file.is_file() else {}

    @property
    def figures(self) -> Figures:
        """The figures of the page."""
        return _figures(self._part)

    def report(self, output: str | Path | None = None) -> Report:
        """Write the page and its figures, as ``scpl report``; into its folder ``report`` if not told where."""
        return _report(self.path, output)

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r}: {len(self.arms)} arms, {len(self._part.series.measured)} seeds)"

    def _repr_html_(self) -> str:
        sentences = "".join(f"<li>{html.escape(text)}</li>" for text in self.verdicts.sentence)
        return f"<p>{html.escape(repr(self))}</p><ul>{sentences}</ul>"


def read(path: str | Path) -> Run | Study:
    """Open the folder of a run or of a study.

    Raises:
        StoreError: the folder is neither, or a study without a result.

    >>> read("runs/first")
    Run('runs/first': 3 of 3 rounds)
    >>> read("studies/first")
    Study('studies/first': 3 arms, 10 seeds)
    """
    folder = locations.local(str(path), "read")
    return Study(folder) if (folder / STUDY_FILE).is_file() else Run(folder)


def _part(folder: Path) -> Part:
    from jobs.configs import CONFIGS
    from scpl_ray.report import data

    (part,) = data.load([folder], CONFIGS, {folder.resolve(): str(folder)})
    return part


def _figures(part: Part) -> Figures:
    from scpl_ray.report import figures
    from scpl_ray.studies import verdicts

    there = [arm for arm in part.arms if arm in part.series.values]
    family = verdicts.judge(part.series, part.study) if part.study is not None and part.study.claims else None
    return Figures(tuple(figures.draw_all(part, there[: figures.MAX_ARMS], family)))


def _report(folder: Path, output: str | Path | None) -> Report:
    from jobs import report

    return Report(report.write([folder], Path(output) if output is not None else None))


def _shares(metrics: pd.DataFrame, index: list[str], groups: tuple[str, ...]) -> pd.DataFrame:
    found = metrics[metrics.metric == "share"].pivot(index=index, columns="group", values="value")
    return found[[group for group in groups if group in found.columns]] if groups else found


def _terms(table: pa.Table) -> pd.DataFrame:
    """A table with a column ``term_NAME`` per term in the place of its map of terms."""
    import pandas as pd

    terms = [{f"term_{name}": value for name, value in row} for row in table["terms"].to_pylist()]
    return pd.concat([table.drop_columns(["terms"]).to_pandas(), pd.DataFrame(terms)], axis="columns")
