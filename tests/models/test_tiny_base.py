"""Tiny base models of any task, and the example of a task in one file."""

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples import own_task
from scpl_ray.config import Experiment
from scpl_ray.controller import Loop
from scpl_ray.feedback.population import PopulationSimulator
from scpl_ray.models import pretraining
from scpl_ray.models.tiny import END, PAD, UNKNOWN, Family
from scpl_ray.models.tiny_base import POSITIONS, TaskBaseModel, ensure_task_base, ensure_tokenizer
from scpl_ray.models.tokens import encode_answer, encode_prompt
from scpl_ray.protocols import Engines, Task
from scpl_ray.storage.run_directory import Store
from scpl_ray.tasks import TASKS, TaskKind, bases
from scpl_ray.tasks.maths import task as maths
from scpl_ray.tasks.news import task as news
from scpl_ray.tasks.preference import task as preference
from tests.support import fakes, maths_data, news_data, preference_data
from tests.support.loops import Silent
from tests.support.news_data import write_jsonl
from tests.support.tiny_models import save_model

FAMILIES: tuple[Family, ...] = ("llama", "qwen2", "gpt2")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {
        "maths": write_jsonl(folder / "m.jsonl", maths_data.rows()),
        "news": write_jsonl(folder / "n.jsonl", news_data.rows()),
    }


def experiment(name: str, data: dict[str, Path], **model: Any) -> Experiment:
    values: dict[str, Any] = {
        "groups": {"names": list(maths_data.SOURCES if name == "maths" else news_data.LEANINGS)},
        "task": {"name": name, "data": str(data[name]), "max_prompt_tokens": 100},
        "model": {"name": "tiny", "base_training_sentences": 128, "vocabulary": 600, **model},
        "generation": {"max_new_tokens": 32},
        "evaluation": {"prompts_per_group": 4, "neutral_prompts": 8},
    }
    if name == "maths":
        values["task"]["fields"] = {"group": "source"}
    return Experiment.model_validate(values)


TEXTS = [
    f"{q} {i} naïve 中文 \u2028 costs ${i * 37}.50\nand more\t." for i, q in enumerate(("Ada", "Ben", "Cleo") * 40)
]


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("family", FAMILIES)
def test_any_text_comes_back_exactly(family: Family) -> None:
    config = Experiment.model_validate({"task": {"name": "news"}, "model": {"family": family, "vocabulary": 512}})
    folder = ensure_tokenizer(config, TEXTS)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) <= 512 and tokenizer.eos_token == END and tokenizer.pad_token == PAD
    assert tokenizer.model_max_length == POSITIONS
    for text in (*TEXTS[:3], "unseen: Ω≈ç√ 🙂", " a leading space", "12345"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text and tokenizer.convert_tokens_to_ids(UNKNOWN) not in ids
        answer = encode_answer(tokenizer, text)
        assert tokenizer.decode(answer, skip_special_tokens=True) == text and answer[-1] == tokenizer.eos_token_id
    assert len(tokenizer("12345")["input_ids"]) == 5, "digits are tokens of their own"


@pytest.mark.usefixtures("cached")
def test_the_same_texts_give_the_same_tokenizer() -> None:
    config = Experiment.model_validate({"task": {"name": "news"}})
    first = ensure_tokenizer(config, TEXTS)
    assert ensure_tokenizer(config, iter(TEXTS)) == first
    content = (first / "tokenizer.json").read_bytes()
    (first / "tokenizer.json").unlink()
    assert (ensure_tokenizer(config, TEXTS) / "tokenizer.json").read_bytes() == content
    others = [
        ensure_tokenizer(config, TEXTS[:-1]),
        ensure_tokenizer(config, TEXTS[::-1]),
        ensure_tokenizer(Experiment.model_validate({"model": {"vocabulary": 700}}), TEXTS),
    ]
    assert len({first, *others}) == 4
    with pytest.raises(ValueError, match=r"task\.name = 'news' has no text to learn from"):
        ensure_tokenizer(config, [])


@pytest.fixture(scope="module")
def learned(cached: Path, data: dict[str, Path]) -> tuple[Experiment, Task, TaskBaseModel]:
    config = experiment("maths", data, base_training_sentences=1280)
    task = maths.build(config)
    return config, task, ensure_task_base(config, task)


def test_a_base_model_learns_its_tasks_text(learned: tuple[Experiment, Task, TaskBaseModel]) -> None:
    config, task, made = learned
    card = made.card
    assert (card.task, card.family, card.examples) == ("maths", "llama", 1280) and 300 < card.vocabulary <= 600
    assert card.different_examples < 70 and card.held_out_answers == 8
    assert card.held_out_nats_per_token is not None and card.unigram_nats_per_token is not None
    assert card.held_out_nats_per_token < card.unigram_nats_per_token - 1.0 < math.log(card.vocabulary)
    assert json.loads((made.path / "card.json").read_text()) == dataclasses.asdict(card)
    assert bases.base_model(config, task) == made.path


def test_it_keeps_the_tokenizer_that_prompts_were_measured_with(
    learned: tuple[Experiment, Task, TaskBaseModel],
) -> None:
    config, task, made = learned
    assert task.tokenizer is not None
    assert (made.path / "tokenizer.json").read_bytes() == (task.tokenizer / "tokenizer.json").read_bytes()
    tokenizer, model = AutoTokenizer.from_pretrained(made.path), AutoModelForCausalLM.from_pretrained(made.path)
    assert model.config.vocab_size == len(tokenizer) and model.config.max_position_embeddings == POSITIONS
    limit = config.task.max_prompt_tokens
    queries = task.group_prompts(4)
    assert all(len(encode_prompt(tokenizer, query.prompt, 1000)) <= limit for query in queries)
    pairs = [(encode_prompt(tokenizer, q.prompt, limit), encode_answer(tokenizer, f" {q.reference}")) for q in queries]
    assert pretraining.nats_per_token(model.eval(), pairs) == pytest.approx(made.card.held_out_nats_per_token, abs=1e-5)


def test_the_cache_is_used_whatever_the_runs_seed(
    learned: tuple[Experiment, Task, TaskBaseModel], data: dict[str, Path]
) -> None:
    config, _, made = learned
    calls: list[int] = []
    seeded = config.model_copy(update={"seed": 9, "name": "other"})
    again = ensure_task_base(seeded, maths.build(seeded), progress=lambda done, steps: calls.append(done))
    assert again == made and not calls


@pytest.mark.usefixtures("cached")
def test_other_data_or_another_recipe_is_another_model(
    learned: tuple[Experiment, Task, TaskBaseModel], tmp_path: Path, data: dict[str, Path]
) -> None:
    _, _, made = learned
    changed = {"maths": write_jsonl(tmp_path / "m.jsonl", maths_data.rows(seed=1))}
    steps: list[tuple[int, int]] = []
    others = [made.path]
    for config in (
        experiment("maths", changed, base_training_sentences=64),
        experiment("maths", data, base_training_sentences=64),
        experiment("maths", data, base_training_sentences=65),
        experiment("maths", data, base_training_sentences=64, family="gpt2"),
        experiment("maths", data, base_training_sentences=64, family="qwen2"),
    ):
        task = maths.build(config)
        others.append(ensure_task_base(config, task, progress=lambda done, total: steps.append((done, total))).path)
    assert len(set(others)) == 6 and [total for _, total in steps] == [1, 1, 2, 2, 1, 1]


@pytest.mark.usefixtures("cached")
def test_news_too_has_a_tiny_model(data: dict[str, Path]) -> None:
    config = experiment("news", data)
    task = news.build(config)
    card = ensure_task_base(config, task).card
    assert (card.task, card.examples, card.different_examples, card.held_out_answers) == ("news", 128, 36, 8)


@pytest.mark.usefixtures("cached")
def test_preference_too_has_a_tiny_model(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", preference_data.responses())
    judged_by = save_model(tmp_path / "judge", "llama", hidden=32)
    config = Experiment.model_validate(
        {
            "groups": {"names": list(preference_data.GROUPS), "shares": [0.4, 0.3, 0.3]},
            "task": {"name": "preference", "data": str(source), "judge_model": str(judged_by)},
            "model": {"name": "tiny", "base_training_sentences": 128, "vocabulary": 600},
            "evaluation": {"prompts_per_group": 2, "neutral_prompts": 2},
        }
    )
    task = preference.build(config)
    assert task.tokenizer is not None
    card = ensure_task_base(config, task).card
    assert (card.task, card.examples, card.held_out_answers) == ("preference", 128, 6)


@pytest.mark.usefixtures("cached")
def test_a_model_that_learned_nothing_is_told(data: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    config = experiment("maths", data, base_training_sentences=1)
    with caplog.at_level(logging.WARNING):
        ensure_task_base(config, maths.build(config))
    assert "has learned no more than how often tokens occur" in caplog.text


PETS = Experiment.model_validate(
    {
        "groups": {"names": ["cats", "dogs"]},
        "task": {"name": "pets"},
        "model": {"name": "tiny", "base_training_sentences": 3200, "vocabulary": 512},
        "queries": {"prompts_per_round": 12},
        "loop": {"rounds": 2},
        "evaluation": {"prompts_per_group": 4, "neutral_prompts": 8},
    }
)


@pytest.mark.usefixtures("cached")
def test_the_example_of_the_readme_has_a_tiny_model_that_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        TASKS,
        "pets",
        TaskKind(meaning="lines about pets", builder="examples.own_task:build", reads_data=False),
    )
    task = TASKS["pets"].build(PETS)
    folder = bases.base_model(PETS, task)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    said = []
    for query in task.group_prompts(1):
        ids = tokenizer(query.prompt, return_tensors="pt")
        answer = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
        said.append((query, query.query_id, tokenizer.decode(answer, skip_special_tokens=True)))
    assert [judgement.kind for judgement in task.judge(said)] == ["cats", "dogs"]
    assert [judgement.quality for judgement in task.judge(said)] == [1.0, 1.0]


class Pets(own_task.Pets):
    """Read by the fake engines, whose texts are one word each."""

    def _kind(self, text: str) -> str:
        return self.kinds[fakes.WORDS.index(text)]

    def real_examples(self, count: int, *, seed: int) -> list[tuple[Any, str]]:
        return [(q, fakes.WORDS[self.kinds.index(str(q.group))]) for q, _ in super().real_examples(count, seed=seed)]

    def choices(self, users: Any, *, seed: int) -> list[Any]:
        by_line = {f" {own_task.LINES[kind][0]}": word for kind, word in zip(self.kinds, fakes.WORDS, strict=False)}
        return [
            dataclasses.replace(c, chosen=by_line[c.chosen], rejected=by_line[c.rejected])
            for c in super().choices(users, seed=seed)
        ]


def test_the_example_of_the_readme_runs_through_the_loop(tmp_path: Path) -> None:
    task = Pets(PETS.groups.names)
    base = fakes.make_base(tmp_path / "base", 2)
    engines = Engines(
        fakes.FakeGenerator(0), fakes.FakeScorer(task), fakes.FakeTrainer(), PopulationSimulator(PETS, task)
    )
    store = Store.create(tmp_path / "run", PETS, {})
    rows = Loop(PETS, task, store, engines, base, fakes.encode, Silent()).run()
    store.close()
    assert {r.round for r in rows} == {0, 1, 2}
    assert {r.value for r in rows if r.metric == "quality_pet"} == {1.0}
