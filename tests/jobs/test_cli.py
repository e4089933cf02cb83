"""What the command line refuses, before anything starts."""

import errno
import re
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from jobs import cli
from jobs.cli import app
from jobs.driver import experiments, run
from scpl_ray import __version__
from scpl_ray.config import Experiment
from scpl_ray.storage.run_directory import Store
from tests.support.bad_input import lines, news

runner = CliRunner()


def refuse(*arguments: str) -> str:
    result = runner.invoke(app, ["run", *arguments])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "runs").exists(), "a refused run left a run directory"


NEWS = ["task.name=news", "groups.names=[left, right]"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loop.roundss=3"], "loop.roundss: unknown key; the nearest is loop.rounds"),
        (["loop.rounds=many"], "loop.rounds = 'many': input should be a valid integer"),
        (["groups.names=[one]", "groups.shares=[1.0]"], "holds 1 group; at least 2 are needed"),
        (["groups.shares=[0.9, 0.9]"], "sums to 1.8"),
        (["selection.strategy=best"], "selection.strategy = 'best': unknown; one of best_of_n, calibrated"),
        (["training.workers=64"], "lower training.workers to"),
        (["nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--cluster", "8cpu:16gib"], "describes a cluster for --dry-run; a run asks Ray"),
        (["--dry-run", "--cluster", "4x8xH100"], "'4x8xH100' is not [NODESx]CPUScpu:MEMORYgib"),
        (["--dry-run", "--cluster", "8cpu:16gib", "placement.gpus=dedicated"], "there are no GPUs; leave it out"),
        (["--resume", "."], "not a run directory"),
        (["--resume", "missing"], "not a run directory"),
        ([*NEWS, "task.data=nothing.jsonl"], "nothing.jsonl"),
        (["task.data=news.jsonl"], "task.name = 'language' is built in and reads no data; set task.name to maths"),
        (["cycle.real_share=0.2", "cycle.real_rows=3"], "cycle.real_share = 0.2 is given too; leave one of them out"),
        (["reward.terms={modle: 1.0}"], "unknown ['modle']; this task has ['model', 'finished', 'length', 'on_topic'"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments: list[str], message: str) -> None:
    assert message in refuse(*arguments)


LONG = f"groups.names=[{', '.join(f'a_long_name_of_group_{number}' for number in range(20))}]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["simulate", LONG], "2 numbers for 20 groups"),
        (["sweep", "study_drift_null", LONG, "--dry-run"], "2 numbers for 20 groups"),
        (["run", "x" * 300], "no such file"),
        (["sweep", "x" * 300], "no such study"),
        (["sweep", f"{'x' * 300}=y"], "give a study file or a built-in study"),
        (["sweep", "--resume", "s", "--quick"], "--resume s: continues that study; leave --quick out"),
        (["sweep", "--resume", "s", "--study-dir", "t"], "--resume s: continues that study; leave --study-dir out"),
        (["sweep", "study_drift_null", "--power", "--dry-run"], "--power: starts nothing; leave --dry-run out"),
        (
            ["sweep", "study_drift_null", "--power", "--study-dir", "t", "--cluster", "8cpu:16gib"],
            "--power: starts nothing; leave --cluster and --study-dir out",
        ),
        (["status", "~nobody-here/run"], "~nobody-here/run"),
        (["run", "--resume", "~nobody-here/run"], "not a run directory"),
        (["run", *NEWS, "task.data=~nobody-here/d.jsonl"], "~nobody-here/d.jsonl"),
        (["simulate", "name=2024-13-45"], "name=2024-13-45: not valid YAML: month must be in 1..12"),
        (["init", "news_tiny"], "scpl init my.yaml --from news_tiny"),
    ],
)
def test_what_cannot_be_meant_is_one_message(arguments: list[str], message: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit), (result.output, result.exception)
    assert message in " ".join(result.output.split())
    assert not Path("news_tiny").exists()


def test_names_that_look_like_markup_are_printed_as_they_are() -> None:
    strange = {"left": "[/x]", "right": "[bold]"}
    Path("d.jsonl").write_text(lines([{**row, "label": strange[row["label"]]} for row in news()]))
    for arguments in (
        [
            "data",
            "check",
            "d.jsonl",
            "--task",
            "news",
            "evaluation.prompts_per_group=4",
            "evaluation.neutral_prompts=4",
        ],
        ["run", "--dry-run", "groups.names=['[/x]', '[bold]']"],
    ):
        result = runner.invoke(app, arguments)
        assert result.exit_code == 0, (result.output, result.exception)
        assert "[/x]" in result.output and "[bold]" in result.output


def test_init_says_how_to_run_a_file_whose_name_begins_with_a_dash() -> None:
    assert "scpl run ./-x.yaml" in runner.invoke(app, ["init", "--", "-x.yaml"]).output


def test_data_files_are_read_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    assert "empty.jsonl" in refuse(*NEWS, "task.data=empty.jsonl")
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "label": "left", "source": "a", "title": "t"}\n')
    text = refuse(*NEWS, "task.data=rows.jsonl")
    assert "rows.jsonl" in text and "1" in text and "text" in text


def test_a_run_directory_in_use_or_full_is_refused(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "busy", Experiment(), {})
    assert "in use by process" in refuse("--resume", "busy")
    store.close()
    assert "not empty; continue that run with --resume" in refuse("--run-dir", "busy")


def test_a_run_cannot_change_its_config_or_shrink(tmp_path: Path) -> None:
    Store.create(tmp_path / "old", Experiment(), {}).close()
    assert "seed cannot change in a run, only loop.rounds, gen" in refuse("--resume", "old", "seed=3")
    assert "loop.rounds=2 is fewer than the run's 5" in refuse("--resume", "old", "loop.rounds=2")
    for option in (["--dry-run"], ["--run-dir", "new"]):
        assert "leave --dry-run and --run-dir out" in refuse("--resume", "old", *option)


def test_how_many_processes_a_run_has_may_change_with_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.create(tmp_path / "old", Experiment.model_validate({"generation": {"replicas": 2}}), {}).close()
    # a refused one gives the run back
    assert "lower generation.replicas to" in refuse("--resume", "old", "generation.replicas=99")
    seen = []
    monkeypatch.setattr(run, "supervise", lambda store, experiment, task, *, verbose: seen.append((store, experiment)))
    result = runner.invoke(app, ["run", "--resume", "old", "generation.replicas=1", "loop.rounds=6"])
    assert result.exit_code == 0, result.output
    ((store, experiment),) = seen
    store.close()
    assert (experiment.generation.replicas, experiment.loop.rounds) == (1, 6)
    assert experiments.load(tmp_path / "old/config.yaml", []) == experiment


def test_a_preset_on_the_command_line_wins_over_the_keys_of_a_file() -> None:
    assert runner.invoke(app, ["init", "mine.yaml"]).exit_code == 0
    result = runner.invoke(app, ["run", "mine.yaml", "preset=retraining-accumulate", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "retraining" in result.output and "accumulate" in result.output


def test_dry_run_prints_the_plan_and_starts_nothing() -> None:
    result = runner.invoke(app, ["run", "--dry-run", "generation.replicas=2", "selection.matched_control=true"])
    assert result.exit_code == 0, result.output
    for text in ("engine", "1,024 completions", "DeepSpeed ZeRO 2", "matched random control", "nothing was started"):
        assert text in result.output


def test_the_plan_of_preference_training_names_pairs_and_reference() -> None:
    result = runner.invoke(app, ["run", "--dry-run", "training.objective=dpo"])
    assert result.exit_code == 0, result.output
    assert "best_of_n; accepted_rejected pairs" in result.output
    assert "DPO against the start" in result.output


def test_init_writes_a_config_that_runs(tmp_path: Path) -> None:
    assert runner.invoke(app, ["init", "mine.yaml"]).exit_code == 0
    assert runner.invoke(app, ["run", "mine.yaml", "--dry-run"]).exit_code == 0
    again = runner.invoke(app, ["init", "mine.yaml"])
    assert again.exit_code == 2 and "exists" in again.output
    assert runner.invoke(app, ["init", "no/such/folder.yaml"]).exit_code == 2
    assert runner.invoke(app, ["init", "x.yaml", "--from", "nothing"]).exit_code == 2


def test_doctor_finds_what_is_installed() -> None:
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "deepspeed" in result.output and "ready: scpl run" in result.output


def helps() -> dict[str, str]:
    """What ``--help`` prints, by command."""
    found, waiting = {}, [("", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        found[name] = runner.invoke(app, [*name.split(), "--help"]).output
        if isinstance(command, TyperGroup):
            waiting += [(f"{name} {each}", sub) for each, sub in command.commands.items()]
    return found


def test_no_help_text_is_eaten_as_markup() -> None:
    texts = helps()
    assert {"", " run", " judge train", " reward train", " sweep", " report"} <= set(texts)
    for name, text in texts.items():
        assert not re.search(r" \.(\s|│|$)", text), name
    joined = {name: " ".join(re.sub("[│╭╰╮╯─]", " ", text).split()) for name, text in texts.items()}
    assert "(default: runs/NAME-TIME)" in joined[" run"] and "(default: half)" in joined[" simulate"]
    assert "(default: studies/NAME-TIME)" in joined[" sweep"]
    assert "(default: PATH/report; ./report for several, or a URI)" in joined[" report"]
    assert "'reward.terms={model: 1.0}'" in joined[" reward train"]


@pytest.mark.parametrize("command", ["run", "init", "doctor"])
def test_help_teaches(command: str) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0 and len(result.output) > 200


def test_the_version_is_printed_before_any_command() -> None:
    result = runner.invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"scpl_ray {__version__}\n")


def test_help_still_says_what_the_program_is_for() -> None:
    assert "measure their bias" in " ".join(runner.invoke(app, ["--help"]).output.split())


def test_names_of_files_are_no_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.commands import measuring
    from jobs.driver import checkpoints
    from scpl_ray.config import loading

    seen = []
    monkeypatch.setattr(checkpoints, "measure_checkpoints", lambda names, path, keys, *_, **__: seen.extend(keys) or 0)
    for name in ("a: b #1.jsonl", "2024", "[x].jsonl", "é \"q\" 'r'.csv", "null", "𠮷.jsonl"):
        seen.clear()
        measuring.measure(checkpoints="a,b", task="news", data=name)
        assert dict(map(loading.parse_override, seen)) == {"task.name": "news", "task.data": name}


def test_a_folder_that_is_gone_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    monkeypatch.undo()
    assert ended.value.code == 2
    assert "the working directory is gone" in capsys.readouterr().err


def test_output_that_cannot_be_written_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli, "app", full)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1 and capsys.readouterr().err == "scpl: No space left on device\n"
