"""``scpl measure --log``: a log made from a run's records gives back its shares, acceptance and gap."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from scpl_ray.records import Completion, Judgement, Metric, Query
from scpl_ray.storage.run_directory import Reader
from tests.support.finished_runs import finished
from tests.support.loops import small

runner = CliRunner()


def test_a_log_made_from_a_run_gives_back_its_numbers(tmp_path: Path) -> None:
    reader, experiment = Reader.open(finished(tmp_path / "run", small("loop.rounds=2")))
    rows: list[dict[str, object]] = []
    for t in range(experiment.loop.rounds + 1):
        group_of = {q.query_id: q.group for q in reader.read(t, "evaluation", "prompts", Query)}
        answers = reader.read(t, "evaluation", "completions", Completion)
        judged = reader.read(t, "evaluation", "judgements", Judgement)
        rows += [
            {"round": t, "region": group_of[c.query_id], "stars": j.quality, "kind": None}
            for c, j in zip(answers, judged, strict=True)
            if group_of[c.query_id] is not None
        ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = "{period: round, group: region, rating: stars}"
    result = runner.invoke(
        app, ["measure", "--log", str(path), "--fields", fields, "--output", str(tmp_path / "m.json")]
    )
    assert result.exit_code == 0, result.output
    assert "do the groups' ratings change differently?" in result.output
    found = json.loads((tmp_path / "m.json").read_text())
    for t, period in enumerate(found["periods"]):
        metrics = {(m.metric, m.group): m.value for m in reader.read(t, "evaluation", "metrics", Metric)}
        assert period["gap"] == pytest.approx(metrics["disparate_gap", None], abs=1e-12)
        for group in experiment.groups.names:
            assert period["rating"][group] == pytest.approx(metrics["quality", group], abs=1e-12)


def test_no_command_writes_over_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = finished(tmp_path / "run", small("loop.rounds=2"))
    log = tmp_path / "log.csv"
    log.write_text("period,group\n" + "1,a\n2,b\n" * 40)
    (tmp_path / "link.csv").symlink_to(log)
    (tmp_path / "my.yaml").write_text("loop: {rounds: 2}\nanalytic: {seeds: 4}\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words in (
        ["measure", "--log", "log.csv", "--output", str(log)],
        ["measure", "--log", "link.csv", "--output", "log.csv"],
        ["measure", "--log", "log.csv", "--output", "link.csv"],
        ["simulate", "my.yaml", "--output", "my.yaml"],
        ["simulate", "--from", "run", "--output", "run/metrics.parquet"],
        ["simulate", "--from", "run", "--output", "run/more.parquet"],
    ):
        result = runner.invoke(app, words)
        assert result.exit_code == 2 and f"--output {words[-1]}: " in result.output, (words, result.output)
        assert "which is read" in result.output and "give another file" in result.output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert run.is_dir()
    for words in (["measure", "--log", "log.csv"], ["simulate", "my.yaml"]):
        result = runner.invoke(app, [*words, "--output", "new"])
        assert result.exit_code == 0 and (tmp_path / "new").is_file(), result.output
        assert runner.invoke(app, [*words, "--output", "new"]).exit_code == 0


def test_who_asked_and_what_was_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "log.csv"
    lines = [f"2026-0{1 + i % 3}-05,{'ab'[int(rng.random() < 0.4)]},{int(rng.random() < 0.5)}" for i in range(600)]
    path.write_text("period,group,kept\n" + "\n".join(lines) + "\n")
    result = runner.invoke(app, ["measure", "--log", str(path), "--by", "month", "--output", str(tmp_path / "m.json")])
    assert result.exit_code == 0, result.output
    assert "no ratings of both what was kept and what was not to hold against it" in result.output
    month = [line.split(",") for line in lines if line.startswith("2026-02")]
    period = json.loads((tmp_path / "m.json").read_text())["periods"][1]
    assert period["share"]["a"] == pytest.approx(np.mean([row[1] == "a" for row in month]))
    assert period["kept"]["a"] == pytest.approx(np.mean([row[2] == "1" for row in month if row[1] == "a"]))


def test_whether_deviations_grow_is_said_of_periods(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "log.csv"
    rows = [f"{t},{'ab'[int(rng.random() < 0.4 + 0.1 * np.sin(t))]}" for t in range(24) for _ in range(300)]
    path.write_text("period,group\n" + "\n".join(rows) + "\n")
    arguments = ["measure", "--log", str(path), "--fit", "--output", str(tmp_path / "m.json")]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "m.json").read_text())["map"]
    numbers = f"rho(J) = {found['rho']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
    # 7 blocks of 3 transitions
    said = f"do deviations of the shares grow? {found['verdict']}: {numbers} in 22 periods: {found['reason']}"
    assert said in " ".join(result.output.split())
    assert "seeds" not in result.output and "rounds" not in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--log", "missing.jsonl"], "missing.jsonl"),
        (["--log", "log.csv", "--fields", "region"], "expected a mapping of field to column"),
        (["--log", "log.csv", "--output", "log.csv/x.json"], "with --output"),
    ],
)
def test_bad_use_is_one_message(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text("period,group\n1,a\n1,b\n")
    result = runner.invoke(app, ["measure", *arguments])
    assert result.exit_code == 2 and said in result.output, result.output


def test_too_few_periods_for_a_fit_are_told_before_anything_else(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("period,group\n1,a\n1,b\n2,a\n")
    output = tmp_path / "m.json"
    result = runner.invoke(app, ["measure", "--log", str(tmp_path / "log.csv"), "--fit", "--output", str(output)])
    assert result.exit_code == 2 and "at least 19 are needed" in result.output
    assert "by period" not in result.output and not output.exists()


def test_what_cannot_be_told_is_neither_shown_nor_not_shown(tmp_path: Path) -> None:
    rows = [f"1,{'ab'[i // 15]},{i % 2},{i // 15}" for i in range(30)]
    (tmp_path / "log.csv").write_text("period,group,kept,rating\n" + "\n".join(rows) + "\n")
    output = tmp_path / "m.json"
    result = runner.invoke(app, ["measure", "--log", str(tmp_path / "log.csv"), "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert "○ is what is kept different between groups of equal rating? cannot tell: kept: " in result.output
    (kept, rated) = json.loads(output.read_text())["findings"]
    assert (kept["p"], kept["p_adjusted"], kept["shown"]) == (None, None, None) and rated["p_adjusted"] == rated["p"]
