"""Whole runs on users' data, each another way, with the real engines and a tiny model that learned the data's text."""

from functools import partial
from pathlib import Path

import pytest

from scpl_ray.records import Completion, Judgement, Metric, Query
from scpl_ray.storage.run_directory import Reader
from tests.support import maths_data, news_data, preference_data
from tests.support.commands import finish, scpl
from tests.support.tiny_models import save_model

pytestmark = pytest.mark.engines

SMALL = [
    "model.base_training_sentences=128",
    "model.vocabulary=512",
    "task.max_prompt_tokens=160",
    "loop.rounds=2",
    "queries.prompts_per_round=16",
    "generation.samples_per_prompt=2",
    "generation.max_new_tokens=32",
    "selection.strategy=tpp",
    "evaluation.prompts_per_group=8",
    "evaluation.neutral_prompts=16",
    "evaluation.samples_per_prompt=2",
    "generation.replicas=1",
    "reward.replicas=1",
]
TASKS = {
    "maths": (
        maths_data.rows,
        "maths_tiny",
        ["groups.names=[farm, shop]", "groups.shares=[0.6, 0.4]"],
        {"pass_at_1", "pass_at_2", "quality_correct", "quality_parsed"},
    ),
    "news": (news_data.rows, "news_tiny", [], {"quality_rouge_l", "quality_repetition_free"}),
    "preference": (
        partial(preference_data.responses, 160),
        "preference_tiny",
        ["groups.names=[academy, business, stage]", "groups.shares=[0.5, 0.3, 0.2]", "task.judge_model=encoder"],
        {"quality_win_rate", "quality_reward"},
    ),
}
WAYS = {
    "maths": [
        "training.objective=dpo",
        "training.dpo_reference=base",
        "training.workers=2",
        "training.zero_stage=3",
        "feedback.rule=linear",
    ],
    "news": [
        "model.lora=null",
        "generation.engine=transformers",
        "training.worker_lifetime=round",
        "model.family=gpt2",
        "loop.kind=retraining",
    ],
    "preference": [
        "generation.refresh=adapter",
        "selection.strategy=vrs",
        "cycle.kind=accumulate",
        "model.family=qwen2",
    ],
}
JUDGES = {"maths": "kinds by a TF-IDF classifier: macro F1", "news": "kinds by a TF-IDF classifier: macro F1"}
JUDGES["preference"] = "quality and kinds by a reward model with one output per group: pairs it has not seen ordered"


@pytest.mark.long
@pytest.mark.parametrize("name", TASKS)
def test_two_rounds_on_a_users_own_data(name: str, tmp_path: Path) -> None:
    rows, config, overrides, metrics = TASKS[name]
    data = news_data.write_jsonl(tmp_path / "data.jsonl", rows())
    save_model(tmp_path / "encoder", "llama", hidden=64)
    words = ("run", "--run-dir", "run", config, f"task.data={data}", *SMALL, *overrides, *WAYS[name])
    output = finish(scpl(tmp_path, *words, cache=tmp_path / "cache"))
    assert "training the tiny base model" in output and JUDGES[name] in output
    reader, experiment = Reader.open(tmp_path / "run")
    groups = experiment.groups.names
    # the base model that the run started from learned this task's text
    (card,) = (tmp_path / "cache").glob(f"base-{name}-{experiment.model.family}-*/card.json")
    assert '"examples": 128' in card.read_text()
    for round_ in (0, 1, 2):
        found = reader.read(round_, "evaluation", "metrics", Metric)
        assert metrics <= {r.metric for r in found if r.group in groups}
        assert {"disparate_gap", "undecided_count"} <= {r.metric for r in found if r.group is None}
        assert all(0.0 <= r.value <= 1.0 for r in found if r.metric == "quality")
        assert len(reader.read(round_, "evaluation", "judgements", Judgement)) == 2 * (len(groups) * 8 + 16)
    queries = reader.read(2, "queries", "queries", Query)
    assert len(queries) == 16 and {q.group for q in queries} == set(groups)
    assert all(q.reference for q in queries)
    completions = reader.read(2, "completions", "completions", Completion)
    assert {c.policy_version for c in completions} == {1} and all(c.prompt_token_ids for c in completions)
    weights = reader.manifest(2, "weights")
    assert weights is not None and weights.facts["steps"] > 0 and weights.facts["weight_change"] > 0
    dpo = experiment.training.objective == "dpo"
    assert set(weights.facts["last_figures"]) == ({"reward_margin", "reward_accuracy"} if dpo else set())
    own, fixed = (
        next(r.value for r in found if (r.group, r.metric) == (None, f"perplexity_{policy}"))
        for policy in ("current", "round0")
    )
    assert own != fixed
