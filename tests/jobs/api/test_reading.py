"""Runs and studies as pandas frames, on a run that was made with fakes."""

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scpl_ray as scpl
from jobs.api import plain, reading, running
from jobs.driver import experiments
from scpl_ray import protocols
from scpl_ray.config import code, errors
from scpl_ray.records import Completion, Example
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import BASE, Reader, Store
from scpl_ray.storage.run_facts import CHECKPOINTS
from tests.docs.pages import DOCS, blocks
from tests.support.finished_runs import finished
from tests.support.loops import SMALL, small

STUDY = blocks(DOCS / "first-study.md", "yaml")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with ``runs/first`` and ``studies/first``, as the pages and the doctests have it."""
    folder = tmp_path_factory.mktemp("python")
    (folder / "runs").mkdir()
    finished(folder / "runs" / "first", experiments.load(None, SMALL))
    (folder / "my_study.yaml").write_text(STUDY)
    before = Path.cwd()
    os.chdir(folder)
    try:
        running.sweep("my_study.yaml", study_dir="studies/first")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("module", [reading, running, protocols, code, errors], ids=lambda module: module.__name__)
def test_the_examples_in_the_documentation_of_the_interface(module: object, tmp_path: Path) -> None:
    names = {"scpl": scpl, "read": scpl.read, "load": scpl.load, "sweep": scpl.sweep, "simulate": scpl.simulate}
    failed, tried = doctest.testmod(
        module, extraglobs={} if module in (code, errors, protocols) else names, optionflags=doctest.ELLIPSIS
    )
    assert tried and not failed


def test_importing_the_package_imports_nothing_heavy_and_every_name_is_there() -> None:
    code = (
        "import sys, scpl_ray as scpl; assert not {m for m in sys.modules if '.' not in m} & "
        "{'torch', 'ray', 'pandas', 'numpy', 'pydantic', 'jobs', 'actors', 'matplotlib'}; "
        "run = scpl.read('runs/first'); run.rounds; print(sorted({'torch', 'ray', 'transformers', 'matplotlib'} & "
        "set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    for name in scpl.__all__:
        assert getattr(scpl, name) is not None and name in dir(scpl)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = scpl.nothing
    assert importlib.import_module("scpl_ray.studies").__name__ == "scpl_ray.studies"


def test_frames_hold_what_the_records_hold() -> None:
    run = scpl.read("runs/first")
    assert isinstance(run, scpl.Run) and run.finished and run.code == []
    reader, experiment = Reader.open(Path("runs/first"))
    assert run.experiment == experiment and run.path == Path("runs/first")
    assert run.shares.shape == (4, 2) and np.allclose(run.shares.sum(axis=1), 1)
    assert len(run.metrics) == len(run.metrics.drop_duplicates(["round", "group", "metric"]))
    answers = run.completions(2)
    recorded = reader.read(2, "completions", "completions", Completion)
    kept = {example.example_id for example in reader.read(2, "selection", "kept", Example)}
    assert answers.completion_id.tolist() == [c.completion_id for c in recorded]
    assert set(answers[answers.kept].completion_id) == kept and answers.weight[answers.kept].mean() == pytest.approx(1)
    assert {"reward", "term_model", "group", "prompt", "text"} <= set(answers.columns)
    evaluated = run.evaluation(0)
    assert evaluated.group.isna().sum() == 30 and evaluated.quality.between(0, 1).all()
    assert "term_own_kind" in evaluated.columns
    assert float(run.overall.loc[3, "disparate_gap"]) >= 0


def test_what_is_not_there_is_a_message() -> None:
    run = scpl.Run("runs/first")
    for call in (run.completions, run.evaluation, run.policy):
        for round_ in (9, -1):
            with pytest.raises(StoreError, match=f"round {round_} has no .* yet; it has done rounds"):
                call(round_)
    with pytest.raises(StoreError, match="round 0 has no selection"):
        run.completions(0)
    with pytest.raises(StoreError, match="not a run directory"):
        scpl.read("nowhere")
    with pytest.raises(StoreError, match="no study"):
        scpl.Study("runs/first")
    with pytest.raises(StoreError, match="must be a local folder"):
        scpl.read("s3://bucket/run")


def test_a_measurement_of_checkpoints_gives_no_policies(tmp_path: Path) -> None:
    """What it holds of models is the base of its adapters, which is none of those that it measured."""
    store = Store.create(tmp_path / "m", small(), {}, {CHECKPOINTS: ["ckA", "ckB"]})
    for t, phase in ((0, "base"), (0, "evaluation"), (1, "evaluation")):
        with store.phase(t, phase) as begun:
            begun.facts[BASE] = str(tmp_path)
    store.close()
    for t in (0, 1):
        with pytest.raises(StoreError, match=r"m: holds answers of the measured checkpoints ckA, ckB, not the models"):
            scpl.read(tmp_path / "m").policy(t)  # type: ignore[union-attr]


def test_a_notebook_shows_runs_studies_pages_and_figures(tmp_path: Path) -> None:
    run, study = scpl.read("runs/first"), scpl.read("studies/first")
    assert "<table" in run._repr_html_() and "3 of 3 rounds" in run._repr_html_()
    assert study._repr_html_().count("<li>") == 2 and "Supported" in study._repr_html_()
    page = run.report(tmp_path / "page")
    assert page.path == tmp_path / "page" / "report.html"
    assert page._repr_html_().lower().startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    figures = run.figures
    assert figures._repr_html_().count("data:image/svg+xml;base64,") == len(figures) > 2
    assert len(figures.save(tmp_path / "figures")) == 2 * len(figures)


def test_a_study_as_frames() -> None:
    study = scpl.read("studies/first")
    assert isinstance(study, scpl.Study)
    assert list(study.metrics.columns) == ["arm", "seed", "round", "group", "metric", "value", "low", "high"]
    assert study.shares.loc[("static", 3, 5)].to_dict() == {"north": 0.6, "south": 0.4}
    assert study.verdicts.shape == (2, 8) and study.runs == [] and study.failed == {}


def test_simulating_and_loading_check_as_the_command_line_does() -> None:
    loop = scpl.Loop(rounds=2)
    paths = scpl.simulate(scpl.Experiment(loop=loop, preset="retraining"), seeds=3)
    assert set(paths["round"]) == {0, 1, 2} and paths.seed.nunique() == 3
    assert running._checked(scpl.Experiment(preset="retraining")).loop.kind == "retraining"
    with pytest.raises(ValueError, match="the nearest is news_tiny"):
        scpl.load("news_tyni")
    with pytest.raises(ValueError, match=r"loop.roundss: unknown key; the nearest is loop.rounds"):
        scpl.load(keys={"loop.roundss": 2})
    with pytest.raises(ValueError, match=r"only generation.samples_per_prompt = 4 candidates"):
        scpl.run(scpl.Experiment(selection=scpl.Selection(strategy="best_of_n", best_of=9)))
    assert not list(Path("runs").glob("quickstart*"))


def test_objects_of_a_notebook_are_taken_as_plain_values(tmp_path: Path) -> None:
    keys = {"loop.rounds": np.int64(2), "groups.shares": np.array([0.25, 0.75]), "task.data": Path("rows.jsonl")}
    with pytest.raises(ValueError, match=r"task.data"):
        scpl.load(keys=keys)
    loaded = scpl.load(keys={**keys, "task.data": None, "feedback.sensitivity": (np.float64(1.0), 2)})
    assert (
        loaded.groups.shares == (0.25, 0.75) and loaded.loop.rounds == 2 and loaded.feedback.sensitivity == (1.0, 2.0)
    )
    assert plain.plain({"data": [Path("a/b")]}) == {"data": ["a/b"]}
    assert plain.dumped({"a": np.float64(0.5), "b": (1, 2)}, flow=True) == "{a: 0.5, b: [1, 2]}"
    assert (plain.dumped("x y", flow=True), plain.dumped(np.int64(3), flow=True)) == ("x y", "3")
    for seeds in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=r"seeds: .* at least 1"):
            scpl.simulate(loaded, seeds=seeds)  # type: ignore[arg-type]


def test_texts_that_look_like_numbers_stay_texts() -> None:
    from scpl_ray.config import loading

    for text in ("1e5", "1e-3", "010", "null"):
        assert loading.parse_override(f"name={plain.dumped(text, flow=True)}") == ("name", text)


def test_one_object_may_stand_in_two_arms_of_a_study(tmp_path: Path) -> None:
    shares = [0.5, 0.5]
    arms = {name: {"groups.shares": shares, "selection.beta": beta} for name, beta in (("a", 1.0), ("b", 2.0))}
    content = {"name": "s", "mode": "analytic", "seeds": np.int64(2), "set": {"loop.rounds": 1}, "arms": arms}
    made = scpl.sweep(content, study_dir=tmp_path / "s")
    assert made.arms == ["a", "b"] and "*" not in (tmp_path / "s/study.yaml").read_text()


def test_a_comparison_is_a_study_with_a_verdict(tmp_path: Path) -> None:
    keys = {"feedback.rule": "retention", "feedback.sensitivity": [0.2, 2.0], "loop.rounds": 2}
    made = scpl.compare(keys=keys, against="static", simulated=True, study_dir=tmp_path / "c")
    assert made.arms == ["loop", "static"] and len(made.verdicts) == 1
    with pytest.raises(ValueError, match="give at least 2"):
        scpl.compare(keys=keys, seeds=1)
    with pytest.raises(ValueError, match="nothing to compare"):
        scpl.compare(keys={"feedback.rule": "static"}, simulated=True)


USER = '''"""What a user's own file looks like to a type checker."""
import scpl_ray as scpl


def told(done: scpl.RoundDone) -> None:
    print(done.round, done.shares["north"], done.value("disparate_gap"))


def main() -> float:
    experiment = scpl.load(keys={"loop.rounds": 2})
    other = scpl.Experiment(loop=scpl.Loop(rounds=3), feedback=scpl.Feedback(rule="static"))
    run = scpl.run(experiment, run_dir="runs/mine", callbacks=[told])
    assert other.loop.rounds == 3
    reveal_type(run)
    study = scpl.sweep("my_study.yaml", quick=True)
    page = study.report().path
    read = scpl.read(page.parent)
    if isinstance(read, scpl.Run):
        reveal_type(read.policy(1))
        return float(read.shares.iloc[-1, 0])
    reveal_type(read)
    return float(len(read.verdicts))
'''
SETTINGS = """[mypy]
plugins = pydantic.mypy
follow_imports = silent
ignore_missing_imports = True
[mypy-torch.*,ray.*,transformers.*,numpy.*,pyarrow.*,pandas.*,matplotlib.*,yaml.*,typer.*,rich.*]
follow_imports = skip
[mypy-jobs.driver.*,jobs.cli,jobs.report,scpl_ray.report.*,scpl_ray.studies.*,scpl_ray.storage.*,scpl_ray.analytic.*]
follow_imports = skip
"""
"""What the signatures do not need is left out, so that the check takes seconds."""
WRONG = 'import scpl_ray as scpl\n\nrun = scpl.run(3)\nrun.policies(1)\nscpl.Loop(rounds="x")\n'


def test_a_users_file_is_checked_strictly_against_the_interface(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "wrong.py").write_text(WRONG)
    root = Path(__file__).parents[3]
    for package in ("scpl_ray", "jobs", "actors"):
        assert (root / package / "py.typed").is_file()
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "--strict", "user.py", "wrong.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(root)},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("user.py") and "error" in line] == []
    for revealed in ("jobs.api.reading.Run", "pathlib.Path", "jobs.api.reading.Study"):
        assert any(f'Revealed type is "{revealed}"' in line for line in lines), lines
    assert sum(line.startswith("wrong.py") and "error" in line for line in lines) == 3, lines
