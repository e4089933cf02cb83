"""The report of studies and runs: whole, broken and hostile ones."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs import report
from jobs.cli import app
from scpl_ray import results, study
from scpl_ray.config import Experiment
from scpl_ray.judge_card import Measured, JudgeCard, DEPLOYED
from scpl_ray.records import Completion, Metric, Query, from_table, to_table
from scpl_ray.report import data, evidence, text
from scpl_ray.store import Store
from scpl_ray.study import Study, StudyClaim
from tests import fakes
from tests.test_controller import loop

HOSTILE = "<script>alert(1)</script>"
NORTH, SOUTH = f"nord {HOSTILE} $x$", "جنوب"
SIZES = {
    "generation.engine": "transformers",
    "groups.names": [NORTH, SOUTH],
    "queries.prompts_per_round": 40,
    "evaluation.prompts_per_group": 10,
    "evaluation.neutral_prompts": 30,
    "loop.rounds": 3,
}
CLAIMS = (
    StudyClaim(
        name=f"raises preference {HOSTILE}",
        question="a",
        metric="preference_log_odds_round0",
        contrast={"performative": 1.0, "static": -1.0},
    ),
    StudyClaim(
        name="lowers the gap",
        question="b",
        metric="disparate_gap",
        contrast={"performative": 1.0, "static": -1.0},
        direction="below 0",
    ),
    StudyClaim(name="never ran", metric="disparate_gap", contrast={"absent": 1.0, "static": -1.0}),
)
STUDY = Study(
    name="remedy",
    title=f"Remedy {HOSTILE}",
    seeds=4,
    set=SIZES,
    arms={
        "unclaimed": {"selection.strategy": "tpp"},
        "static": {"feedback.rule": "static"},
        "performative": {"feedback.rule": "schedule", "feedback.step": [0.1, -0.1]},
        "absent": {"selection.strategy": "top"},
    },
    claims=CLAIMS,
)


def run_fakes(root: Path, experiment: Experiment, base: Path) -> None:
    store = Store.create(root, experiment, {"ray": f"1 {HOSTILE}"})
    loop(store, experiment, base).run()
    store.close()


def write_study(folder: Path, base: Path) -> Path:
    """Four arms; one without results, one failed seed, one run cut short."""
    fakes.make_base(base, 2)
    folder.mkdir()
    (folder / study.STUDY_FILE).write_text(study.dump(STUDY))
    found = []
    for trial in study.trials(STUDY, {}):
        if trial.arm == "absent" or (trial.arm, trial.seed) == ("static", 3):
            continue
        run_dir = folder / trial.folder
        run_fakes(run_dir, trial.experiment, base)
        if (trial.arm, trial.seed) == ("unclaimed", 2):
            shutil.rmtree(run_dir / "rounds" / "003")
            shutil.rmtree(run_dir / "rounds" / "002" / "feedback")
        found.append((trial.label, trial.seed, results.run_rows(run_dir)))
    results.write(results.table(found), folder)
    (folder / data.FAILED_FILE).write_text(json.dumps({"runs/static/seed-003": f"out of memory {HOSTILE} \x1b[31m"}))
    return folder


def card() -> JudgeCard:
    measured = Measured(DEPLOYED, "windows of 24 words", 10, 8, ((3, 1), (1, 3)), (0, 0))
    return JudgeCard((NORTH, SOUTH), 24, "0" * 64, {}, (measured,), {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    folder = write_study(root / "remedy", root / "base")
    for run_dir in (folder / "runs" / "static").iterdir():
        card().save(run_dir)
    path = folder / "runs/static/seed-000/rounds/003/evaluation/completions.parquet"
    answers = from_table(pq.read_table(path, partitioning=None), Completion)
    strange = "\x1b[31mred\u202egnp.exe\x00 <img src=x onerror=alert(1)> שלום"
    pq.write_table(to_table([with_text(c, strange) for c in answers], Completion), path)
    return folder


def with_text(completion: Completion, said: str) -> Completion:
    values = {name: getattr(completion, name) for name in Completion.__slots__}
    return Completion(**values | {"text": said})


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write([folder], tmp_path_factory.mktemp("out"))
