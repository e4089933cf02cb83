"""The scorer pool with real Ray actors."""

import dataclasses
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.placement.role import Role
from actors.reward import RayScorer, Reader
from scpl_ray.config import Experiment, Lora
from scpl_ray.models.adapters import add_adapter, load_model, merge_adapter, save_adapter
from scpl_ray.models.likelihood import negative_log_likelihood
from scpl_ray.protocols import Choice, Task
from scpl_ray.records import Completion, Judgement, Query, Score, Weights
from scpl_ray.training import reward_model
from tests.support.tiny_models import save_model

pytestmark = pytest.mark.engines

Start = Callable[..., RayScorer]


class Rules:
    """The part of a task that scorers use."""

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        return {"first": float(text.startswith("w5")), "on_topic": float(str(query.topic) in text)}

    def judge(self, work: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        return [Judgement(one, query.topic, len(text) / 1000, {}) for query, one, text in work]


class RulesOfMany(Rules):
    """Rules that read many texts together."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def rule_terms_of(self, texts: Sequence[tuple[Query, str]]) -> list[dict[str, float]]:
        self.calls.append(len(texts))
        return [self.rule_terms(query, text) for query, text in texts]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture(scope="module")
def start(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    scorers = []

    def new(
        replicas: int, generation: dict[str, str] | None = None, readers: Role | None = None, **terms: float
    ) -> RayScorer:
        experiment = Experiment.model_validate({"reward": {"terms": terms}, "generation": generation or {}})
        role = Role("scorer", replicas, 0.2, 0.0, 1)
        logs = tmp_path_factory.mktemp("logs")
        scorers.append(RayScorer(experiment, Rules(), role, logs, readers=readers, deadline_s=120.0))
        return scorers[-1]

    yield new
    for scorer in scorers:
        scorer.close()


@pytest.fixture(scope="module")
def two(start: Start) -> RayScorer:
    return start(2, model=1.0, first=0.5, on_topic=-2.0)


@pytest.fixture(scope="module")
def fitted(two: RayScorer, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("fitted")
    return folder, two.fit(choices(), base=base, output=folder, seed=3)


def choices() -> list[Choice]:
    draw = np.random.default_rng(1)
    return [
        Choice(f"w{draw.integers(3, 99)}", f"w100 w{draw.integers(3, 99)}", f"w101 w{draw.integers(3, 99)}")
        for _ in range(100)
    ]


def answered(count: int) -> tuple[list[Query], list[Completion]]:
    """Queries and two completions of each."""
    draw = np.random.default_rng(0)
    queries, completions = [], []
    for i in range(count):
        prompt = tuple(draw.integers(3, 150, draw.integers(1, 9)).tolist())
        queries.append(Query(f"q{i}", "a", " ".join(f"w{t}" for t in prompt), None, f"w{i % 9 + 3}"))
        for s in range(2):
            ids = (*draw.integers(3, 150, draw.integers(0, 15)).tolist(), 1)
            text = " ".join(f"w{t}" for t in ids[:-1])
            completions.append(Completion(f"q{i}-s{s}", f"q{i}", s, 0, 0, prompt, ids, text, "stop"))
    return queries, completions


def score(scorer: RayScorer, chunk: int = 20) -> list[Score]:
    queries, completions = answered(60)
    for i in range(0, 120, chunk):
        scorer.submit(queries[::-1], completions[i : i + chunk])
    return scorer.collect()


def test_rules_that_read_texts_together_get_them_together() -> None:
    queries, completions = answered(3)
    texts = [(queries[i // 2], completion.text) for i, completion in enumerate(completions)]
    task, reader = RulesOfMany(), object.__new__(Reader)
    reader._task = cast(Task, task)
    assert reader.rule_terms(["first"], texts) == [{"first": Rules().rule_terms(*one)["first"]} for one in texts]
    assert task.calls == [6]
    with pytest.raises(ValueError, match="second"):
        reader.rule_terms(["second"], texts)


def test_rewards_are_weighted_sums_in_order(two: RayScorer, fitted: tuple[Path, dict[str, float]]) -> None:
    folder, figures = fitted
    assert figures["held_out_pairs"] == 10
    two.use(folder)
    queries, completions = answered(60)
    scores = score(two)
    assert [s.completion_id for s in scores] == [c.completion_id for c in completions]
    torch.set_num_threads(1)
    model = reward_model.load(folder, torch.float32, "cpu")
    for one, completion in zip(scores, completions, strict=True):
        query = queries[int(completion.query_id[1:])]
        assert one.terms.keys() == {"model", "first", "on_topic"}
        assert one.terms["model"] == model.score([(query.prompt, completion.text)], 8192)[0]
        rules = Rules().rule_terms(query, completion.text)
        assert {name: one.terms[name] for name in rules} == rules
        assert one.reward == pytest.approx(
            one.terms["model"] + 0.5 * one.terms["first"] - 2.0 * one.terms["on_topic"], abs=1e-12
        )
    assert two.collect() == []


def test_one_or_two_replicas_any_chunks_any_death(
    two: RayScorer, start: Start, base: Path, fitted: tuple[Path, dict[str, float]]
) -> None:
    two.use(fitted[0])
    expected = score(two)
    _, completions = answered(60)
    likelihoods = two.negative_log_likelihood(Weights(0, base), completions * 3)
    one = start(1, model=1.0, first=0.5, on_topic=-2.0)
    one.use(fitted[0])
    assert score(one, chunk=7) == expected
    (before,) = one.processes()
    queries, completions = answered(60)
    for i in range(0, 120, 10):
        one.submit(queries, completions[i : i + 10])
    os.kill(before.pid, signal.SIGKILL)
    assert one.collect() == expected
    assert one.negative_log_likelihood(Weights(0, base), completions * 3) == likelihoods
    (after,) = one.processes()
    assert (after.actor_id, after.restarts) == (before.actor_id, 1)


def test_same_choices_same_reward_model(
    two: RayScorer, base: Path, fitted: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    assert two.fit(choices(), base=base, output=tmp_path, seed=3) == fitted[1]
    assert (tmp_path / "model.safetensors").read_bytes() == (fitted[0] / "model.safetensors").read_bytes()


def test_new_reward_model_replaces_the_old(
    two: RayScorer, base: Path, fitted: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    two.use(fitted[0])
    old = score(two)
    swapped = [Choice(c.prompt, c.rejected, c.chosen) for c in choices()]
    two.fit(swapped, base=base, output=tmp_path, seed=3)
    two.use(tmp_path)
    new = score(two)
    assert np.corrcoef([s.terms["model"] for s in old], [s.terms["model"] for s in new])[0, 1] < 0
    two.use(fitted[0])
    assert score(two) == old


def test_likelihoods(two: RayScorer, base: Path) -> None:
    _, completions = answered(60)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    expected = negative_log_likelihood(model, [(c.prompt_token_ids, c.token_ids) for c in completions], 8192)
    assert two.negative_log_likelihood(Weights(0, base), completions) == expected
    assert two.negative_log_likelihood(Weights(0, base), []) == []


def test_likelihoods_of_a_served_adapter_are_those_of_the_merged_model(
    two: RayScorer, start: Start, base: Path, tmp_path: Path
) -> None:
    _, completions = answered(40)
    network = add_adapter(load_model(base, torch.float32), Lora(rank=4, alpha=8.0))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0.0, 0.05)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    save_adapter(trained, network.peft_config["default"], base, tmp_path / "adapter")
    merge_adapter(base, tmp_path / "adapter", tmp_path / "model", torch.float32, trust_remote_code=False)
    scorer = start(1, generation={"refresh": "adapter"}, model=1.0)
    before = scorer.negative_log_likelihood(Weights(0, base), completions)
    served = scorer.negative_log_likelihood(Weights(1, base, tmp_path / "adapter"), completions)
    merged = two.negative_log_likelihood(Weights(1, tmp_path / "model", tmp_path / "adapter"), completions)
    assert [n for _, n in served] == [n for _, n in merged]
    assert [nats for nats, _ in served] == pytest.approx([nats for nats, _ in merged], abs=1e-3)
    assert max(abs(a - b) for (a, _), (b, _) in zip(served, before, strict=True)) > 0.1
    assert scorer.negative_log_likelihood(Weights(0, base), completions) == before


def test_likelihoods_and_judgements_while_texts_still_arrive(two: RayScorer, start: Start, base: Path) -> None:
    queries, completions = answered(60)
    readers = start(1, readers=Role("reader", 2, 0.1, 0.0, 1), first=1.0)
    for scorer in (two, readers):
        likelihoods, judging = scorer.likelihoods(Weights(0, base)), scorer.judging(queries)
        for i in range(0, 120, 9):
            likelihoods.submit(completions[i : i + 9])
            judging.submit(completions[i : i + 9])
        expected = scorer.negative_log_likelihood(Weights(0, base), completions[::-1])[::-1]
        assert likelihoods.collect() == {c.completion_id: e for c, e in zip(completions, expected, strict=True)}
        assert judging.collect() == {
            c.completion_id: Judgement(c.completion_id, queries[int(c.query_id[1:])].topic, len(c.text) / 1000, {})
            for c in completions
        }
        assert scorer.unfinished == 0
    assert [(p.role, p.index) for p in readers.processes()] == [("scorer", 0), ("reader", 0), ("reader", 1)]
    assert {s.reward for s in score(readers)} == {0.0, 1.0}


def test_texts_are_spread_over_all_scorers(two: RayScorer, base: Path) -> None:
    """By tokens and not by number: one call of 256 completions kept one scorer busy and the other idle."""
    _, completions = answered(60)
    sent: list[list[int]] = [[], []]
    submit = two._pool.submit

    def counted(method: str, *arguments: object, replica: int | None = None) -> object:
        index = two._pool._load.index(min(two._pool._load))
        sent[index].append(sum(len(prompt) + len(ids) for prompt, ids in arguments[1]))
        return submit(method, *arguments, replica=replica)

    two._pool.submit = counted  # type: ignore[method-assign]
    try:
        two.negative_log_likelihood(Weights(0, base), completions)
    finally:
        del two._pool.submit
    assert abs(sum(sent[0]) - sum(sent[1])) < 0.05 * (sum(sent[0]) + sum(sent[1]))


def test_the_output_of_the_asking_group_scores_the_query(two: RayScorer, base: Path, tmp_path: Path) -> None:
    groups = ("north", "south")
    made = [dataclasses.replace(choice, group=groups[i % 2]) for i, choice in enumerate(choices())]
    made = [c if c.group == "north" else Choice(c.prompt, c.rejected, c.chosen, "south") for c in made]
    reward_model.fit(made, base=base, output=tmp_path, seed=3, tokens_per_batch=8192, groups=groups)
    two.use(tmp_path)
    queries, completions = answered(20)
    for group in groups:
        two.submit([dataclasses.replace(q, group=group) for q in queries], completions)
    scores = two.collect()
    torch.set_num_threads(1)
    model = reward_model.load(tmp_path, torch.float32, "cpu", groups)
    by_id = {q.query_id: q for q in queries}
    expected = model.rewards([(by_id[c.query_id].prompt, c.text) for c in completions], 8192)
    assert [s.terms["model"] for s in scores] == [*expected[:, 0], *expected[:, 1]]
    assert np.corrcoef(expected.T)[0, 1] < 0


def test_model_is_not_asked_without_a_weight(start: Start) -> None:
    scorer = start(1, model=0.0, first=2.0)
    scorer.use(None)
    scores = score(scorer)
    assert {tuple(s.terms) for s in scores} == {("first",)}
    assert {s.reward for s in scores} == {0.0, 2.0}


def test_wrong_use(two: RayScorer, start: Start) -> None:
    queries, completions = answered(3)
    two.use(None)
    two.submit(queries, completions)
    with pytest.raises(ValueError, match=r"reward\.terms: 'model' has a weight but there is no reward model"):
        two.collect()
    with pytest.raises(ValueError, match="queries: 1 of the completions' queries are not given, first q2"):
        two.submit(queries[:2], completions)
    unknown = start(1, politeness=1.0)
    unknown.submit(queries, completions)
    with pytest.raises(
        ValueError, match=r"reward\.terms: unknown \['politeness'\]; this task has \['model', 'first', 'on_topic'\]"
    ):
        unknown.collect()
