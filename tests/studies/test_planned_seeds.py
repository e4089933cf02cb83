"""Seeds that a study was to have and has not: they are counted, and the study is said not to be finished."""

import io
import json
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from jobs.api.reading import read
from jobs.terminal.verdicts import print_verdicts
from scpl_ray.records import Metric
from scpl_ray.report import data, export, page, words
from scpl_ray.studies import results, verdicts
from scpl_ray.studies.series import Series
from scpl_ray.studies.study import FAILED_FILE, STUDY_FILE, Study, StudyClaim, dump

PLANNED, FIRST = 12, 3
CLAIM = StudyClaim(name="better", metric="quality_mean", contrast={"loop": 1.0, "static": -1.0})


def study_of(folder: Path, missing: Collection[int], failed: Collection[int] = ()) -> data.Part:
    """A study in which no arm has these seeds, some of them because all their runs failed."""
    plan = Study(
        name="s",
        mode="analytic",
        set={"seed": FIRST},
        seeds=PLANNED,
        arms={"loop": {}, "static": {"feedback.rule": "static"}},
        claims=(CLAIM,),
    )
    (folder / STUDY_FILE).write_text(dump(plan))
    runs = [
        (arm, seed, [Metric(t, None, "quality_mean", quality + seed / 1000) for t in (0, 1)])
        for arm, quality in (("loop", 0.6), ("static", 0.5))
        for seed in range(FIRST, FIRST + PLANNED)
        if seed not in missing
    ]
    results.write(results.table(runs), folder)
    reasons = {f"runs/{arm}/seed-{seed:03d}": "out of memory" for arm in ("loop", "static") for seed in failed}
    (folder / FAILED_FILE).write_text(json.dumps(reasons))
    (part,) = data.load([folder], {})
    return part


def test_seeds_that_all_arms_lack_are_left_out_by_name_and_could_undo_the_verdict(tmp_path: Path) -> None:
    part = study_of(tmp_path, (13, 14))
    assert part.study is not None
    family = verdicts.judge(part.series, part.study)
    (judged,) = family.judged
    assert judged.outcome == "supported" and judged.stands is False
    assert judged.left_out == dict.fromkeys((13, 14), ("loop", "static"))
    assert words.left_out(judged) == "Not compared: seeds 13, 14 (no number in loop, static)."
    assert "The seeds that are not compared could undo it" in words.sentence(judged, family)
    console = Console(file=io.StringIO(), width=200)
    print_verdicts(console, part)
    assert words.left_out(judged) in " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    (row,) = export.claims(part, "s")
    assert dict(zip(export.COLUMNS, row, strict=True))["not_compared"] == "13 14"
    assert read(tmp_path).verdicts.not_compared.tolist() == [words.left_out(judged)]


def test_means_beside_a_difference_are_those_of_the_seeds_that_it_compares(tmp_path: Path) -> None:
    part = study_of(tmp_path, ())
    rows = [row for row in part.table.to_pylist() if (row["arm"], row["seed"]) != ("static", FIRST)]
    for row in rows:
        row["metric"] = "disparate_gap"
        row["value"] += 9.0 * ((row["arm"], row["seed"]) == ("loop", FIRST))
    results.write(pa.Table.from_pylist(rows, schema=results.SCHEMA), tmp_path)
    (part,) = data.load([tmp_path], {})
    console = Console(file=io.StringIO(), width=200)
    print_verdicts(console, part)
    shown = console.file.getvalue().split("in the last round")[-1]  # type: ignore[attr-defined]
    (row,) = [line for line in shown.splitlines() if line.split()[:2] == ["disparate", "gap"]]
    first, second, difference = (float(number) for number in row.split()[2:5])
    assert first - second == pytest.approx(difference, abs=0.002)


@pytest.mark.parametrize(
    ("missing", "failed", "said"),
    [
        ((), (), ""),
        ((13, 14), (), "10 of 12 planned seeds are there in every arm; the study is not finished."),
        ((13, 14), (14,), "10 of 12 planned seeds are there in every arm; the study is not finished."),
        ((13, 14), (13, 14), "10 of 12 planned seeds are there in every arm; runs of the others failed."),
    ],
)
def test_a_study_that_lacks_seeds_says_so_wherever_it_is_summed_up(
    missing: Collection[int], failed: Collection[int], said: str, tmp_path: Path
) -> None:
    part = study_of(tmp_path, missing, failed)
    assert words.unfinished(part) == said
    console = Console(file=io.StringIO(), width=200)
    print_verdicts(console, part)
    shown = page.summary(page.view(part, ""))
    for told in (console.file.getvalue(), shown["headline"], export.methods(part)):  # type: ignore[attr-defined]
        assert said in told and ("planned seeds" in told) == bool(said)
    assert len(shown["seeds"]) == PLANNED - len(missing)


def test_planned_seeds_have_rows_without_numbers() -> None:
    found = Series.of(results.table([("x", 5, [Metric(0, None, "m", 1.0)])]), [4, 5, 6])
    assert found.seeds == (4, 5, 6) and found.measured == (5,) and found.reached("x").tolist() == [-1, 0, -1]
    assert Series.of(results.table([]), [1]).measured == ()
