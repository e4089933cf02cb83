"""``evaluation.lm_eval``: refused where the harness is not installed, and what is read of what it returns."""

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors import harness
from jobs.cli import app
from scpl_ray.evaluation.catalogue import kind_of
from scpl_ray.records import Metric
from scpl_ray.storage.run_directory import Store
from tests.support import fakes
from tests.support.loops import loop, small

absent = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-evaluation-harness is here")


@absent
@pytest.mark.parametrize("words", [["run", "--dry-run"], ["run"]])
def test_without_the_harness_its_tasks_are_refused_in_one_message(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    keys = ["generation.engine=transformers", "evaluation.lm_eval=[arc_easy]"]
    result = CliRunner().invoke(app, [*words, *keys])
    assert result.exit_code == 2 and "pip install lm_eval, or leave the key out" in result.output, result.output
    assert "evaluation.lm_eval = ['arc_easy']" in result.output and not (tmp_path / "runs").exists()


def test_scores_are_named_by_task_metric_and_filter() -> None:
    found = {
        "results": {
            "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": "N/A"},
            "arc_easy": {"acc,none": 0.5, "acc_stderr,none": 0.01, "acc_norm,none": 0.75, "sample_len": 10},
        },
        "groups": {"mmlu": {"acc,none": 0.3}},
    }
    assert harness.scores(found, ["gsm8k", "arc_easy", "mmlu"]) == {
        "lm_eval_gsm8k_exact_match_strict-match": 0.25,
        "lm_eval_arc_easy_acc": 0.5,
        "lm_eval_arc_easy_acc_norm": 0.75,
        "lm_eval_mmlu_acc": 0.3,
    }


def test_a_name_of_several_tasks_without_a_score_of_its_own_is_scored_by_its_tasks() -> None:
    """A tag of the harness, such as ``ai2_arc``, stands for its tasks, and so does a group that adds nothing up."""
    scored = {"arc_easy": {"alias": "arc_easy", "acc,none": 0.5}, "arc_challenge": {"acc,none": 0.25}}
    expected = {"lm_eval_arc_easy_acc": 0.5, "lm_eval_arc_challenge_acc": 0.25}
    assert harness.scores({"results": scored}, ["ai2_arc"]) == expected
    group = {"alias": "arc", "name": "arc"}
    found = {"results": {"arc": group, **scored}, "groups": {"arc": group}}
    assert harness.scores(found, ["arc"]) == expected
    with pytest.raises(ValueError, match="no score of ai2_arc"):
        harness.scores({"results": {"arc_easy": {"alias": "arc_easy"}}}, ["ai2_arc"])


def test_every_policy_is_asked_and_its_scores_stand_beside_the_other_metrics(tmp_path: Path) -> None:
    experiment = small("loop.rounds=2", "evaluation.lm_eval=[arc_easy]")
    base = fakes.make_base(tmp_path / "base", 2)
    store = Store.create(tmp_path / "run", experiment, {})
    loop(store, experiment, base).run()
    store.close()
    rows = [store.read(t, "evaluation", "metrics", Metric) for t in range(3)]
    found = [[row.value for row in one if row.metric == "lm_eval_arc_easy_acc"] for one in rows]
    assert found == [[0.0], [0.25], [0.5]]
    kind = kind_of("lm_eval_arc_easy_acc")
    assert kind is not None and kind.overall and kind.unit == "score"
