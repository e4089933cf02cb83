"""The table of what else differs between two arms: which groups gain and which lose."""

import io
from pathlib import Path

from rich.console import Console

from jobs.terminal.verdicts import GROUPS, print_verdicts
from scpl_ray.records import Metric
from scpl_ray.report import data, text
from scpl_ray.studies import results
from scpl_ray.studies.study import STUDY_FILE, Study, StudyClaim, dump

CLAIM = StudyClaim(name="better", metric="quality_mean", contrast={"loop": 1.0, "static": -1.0})


def rows_of(folder: Path, changes: dict[str, float]) -> dict[str, list[str]]:
    """The rows of the groups' quality, which is better than the control's by these numbers, for four seeds."""
    plan = Study(name="s", mode="analytic", seeds=4, arms={"loop": {}, "static": {}}, claims=(CLAIM,))
    (folder / STUDY_FILE).write_text(dump(plan))
    runs = [
        (
            arm,
            seed,
            [Metric(t, None, "quality_mean", 0.5) for t in (0, 1)]
            + [
                Metric(t, group, "quality", 0.5 + (by + (seed - 1.5) / 1000) * t * (arm == "loop"))
                for t in (0, 1)
                for group, by in changes.items()
            ],
        )
        for arm in ("loop", "static")
        for seed in range(4)
    ]
    results.write(results.table(runs), folder)
    (part,) = data.load([folder], {})
    console = Console(file=io.StringIO(), width=160)
    print_verdicts(console, part)
    shown = console.file.getvalue().split("in the last round")[-1].splitlines()  # type: ignore[attr-defined]
    return {line.split()[1]: line.split()[2:] for line in shown if line.strip().startswith("quality, ")}


def test_each_group_has_its_difference(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, {"south": -0.1, "north": 0.2})
    assert list(rows) == ["south", "north"]
    assert rows["north"][:3] == ["0.700", "0.500", "+0.200"]
    assert rows["south"][:3] == ["0.400", "0.500", f"{text.MINUS}0.100"]


def test_of_many_groups_those_that_differ_most_are_shown(tmp_path: Path) -> None:
    changes = {f"g{i:02d}": (i - 6) / 20 for i in range(13)}
    rows = rows_of(tmp_path, changes)
    assert len(rows) == GROUPS and not rows.keys() & {"g04", "g05", "g06", "g07"}
    assert sorted(rows) == list(rows), "in their own order"
