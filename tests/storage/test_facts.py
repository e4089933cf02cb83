"""Odd facts in a manifest: whoever reads them finds the phase undone, or one message, and never another error."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.driver import run as job
from scpl_ray.evaluation import measure
from scpl_ray.records import Metric
from scpl_ray.report import data, evidence, seconds
from scpl_ray.storage import facts, manifests
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import Reader, Store
from scpl_ray.studies import results
from scpl_ray.studies.series import Series
from tests.support.finished_runs import finished
from tests.support.loops import run, small

ODD: tuple[Any, ...] = (None, "many", float("nan"), [0.5] * 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("facts") / "run", small("loop.rounds=1"))


@pytest.fixture
def edited(whole: Path) -> Any:
    """Change the facts of a phase, and put them back at the end."""
    kept: dict[Path, bytes] = {}

    def edit(round_: int, phase: str, change: Callable[[dict[str, Any]], None]) -> Path:
        path = whole / manifests.phase_folder(round_, phase) / manifests.MANIFEST
        kept.setdefault(path, path.read_bytes())
        values = json.loads(kept[path])
        change(values)
        path.write_text(json.dumps(values))
        return whole

    yield edit
    for path, content in kept.items():
        path.write_bytes(content)


def readers(part: data.Part) -> None:
    """Everything that reads facts: reports, closing tables, and an evaluation that is done again."""
    seconds.phase_seconds([(run.reader, run.experiment) for run in part.runs])
    for arm in part.arms:
        evidence.selected(part.series, part.runs, arm)
    (run,) = part.runs
    manifests.restarts(run.reader.committed())
    job.seconds_by_round(run.reader, run.experiment)
    measure.asked(run.reader, 1, run.experiment)  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", ["completions", "selection", "dataset", "weights", "evaluation"])
def test_every_reader_of_every_fact_has_a_message(whole: Path, edited: Any, phase: str) -> None:
    (part,) = data.load([whole], {})
    readers(part)
    manifest = Reader(whole).manifest(1, phase)
    assert manifest is not None
    for name in sorted({*manifest.facts, "seconds"} & {*facts.FORMS, "seconds"}):
        for odd in (*ODD, ...):

            def change(values: dict[str, Any], name: str = name, odd: Any = odd) -> None:
                inner = values if name in values else values["facts"]
                if odd is ...:
                    inner.pop(name, None)
                else:
                    inner[name] = odd

            edited(1, phase, change)
            try:
                readers(part)
            except StoreError as error:
                assert str(whole) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "odd", "said"),
    [
        ("kept", "many", "facts: kept = 'many'"),
        ("candidates", 0, "facts: candidates = 0"),
        ("shares_before", [0.5, "x"], r"facts: shares_before\[1\] = 'x'"),
        ("shares_after", None, "facts: shares_after = None"),
        ("effective_sample_size", float("inf"), "facts: effective_sample_size = inf"),
        ("processes", [{"role": "x"}], r"facts: processes\[0\]\['actor_id'\]"),
    ],
)
def test_the_log_names_the_fact(
    whole: Path, edited: Any, name: str, odd: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    edited(1, "selection", lambda values: values["facts"].update({name: odd}))
    assert Reader(whole).manifest(1, "selection") is None
    assert re.search(said, caplog.text) and "rounds/001/selection" in caplog.text


def test_facts_for_other_groups_are_a_message(whole: Path, edited: Any) -> None:
    edited(1, "selection", lambda values: values["facts"].update(shares_before=[1.0], shares_after=[1.0]))
    (part,) = data.load([whole], {})
    with pytest.raises(StoreError, match="has 1 shares_before, its config 2 groups"):
        evidence.selected(part.series, part.runs, part.arms[0])
    with pytest.raises(StoreError, match="has 1 shares_after, its config 2 groups"):
        measure.asked(Reader(whole), 1, part.runs[0].experiment)  # type: ignore[arg-type]
    result = CliRunner().invoke(app, ["report", str(whole)])
    assert result.exit_code == 2 and "has 1 shares_before" in result.output and "Traceback" not in result.output


@pytest.mark.parametrize("odd", [None, [], {"north": 0.5}, {"north": 0.5, "south": "x"}, {"north": 2.0, "south": 0.0}])
def test_so_are_odd_shares(whole: Path, odd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(whole)
    monkeypatch.setattr(reader, "read_json", lambda *_: odd)
    with pytest.raises(StoreError, match="expected one share for each of north, south"):
        measure.asked(reader, 1, small())  # type: ignore[arg-type]


def test_what_was_kept_is_that_of_its_group_in_whatever_order_groups_are_named(tmp_path: Path) -> None:
    """JSON files hold their keys in the alphabet's order, and facts are in the order of the groups."""
    rows, _ = run(tmp_path / "run", small("loop.rounds=1", "groups.names=[south, north]", "groups.shares=[0.9, 0.1]"))
    of = {(row.metric, row.group): row.value for row in rows}
    assert of["share", "south"] == 0.9 and of["kept_share", "south"] > 0.6
    manifest = Reader(tmp_path / "run").manifest(1, "selection")
    assert manifest is not None
    assert [of["kept_share", "south"], of["kept_share", "north"]] == manifest.facts["shares_after"]


def test_a_round_beyond_all_runs_takes_no_memory() -> None:
    rows = [("a", 0, [Metric(2**31 - 1, None, "gap", 0.5)])]
    with pytest.raises(ValueError, match="round 2,147,483,647 is beyond the 10,000 rounds"):
        Series.of(results.table(rows))


def test_a_run_whose_last_phase_has_odd_facts_is_resumed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = finished(tmp_path / "run", small("loop.rounds=1"))
    path = root / "rounds/001/feedback/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "facts": {"processes": 3}}))
    store, _ = Store.open(root)
    assert store.manifest(1, "feedback") is None and "facts: processes = 3" in caplog.text
    store.close()
