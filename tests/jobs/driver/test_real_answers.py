"""Real answers, which nothing cuts, are held against what training and the model take before a run starts."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.driver import preflight, real_answers
from jobs.driver.experiments import load
from scpl_ray.config import Experiment
from scpl_ray.records import Query
from scpl_ray.seeds import derive_seed
from tests.support.fakes import FakeTask
from tests.support.tiny_models import save_model


class LongTask(FakeTask):
    """Its third real answer has 99 words more than the others, which have one."""

    asked: list[tuple[int, int]]

    def __init__(self, groups: Sequence[str]) -> None:
        super().__init__(groups)
        self.asked = []

    def real_examples(self, count: int, *, seed: int) -> list[tuple[Query, str]]:
        self.asked.append((count, seed))
        return [
            (Query(f"real-{i}", self.kinds[0], "w5 w6 w7 w8", None, None), "w9 " * (100 if i == 2 else 1))
            for i in range(count)
        ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


def experiment(model: Path | str, *keys: str) -> Experiment:
    sizes = ("task.max_prompt_tokens=3", "generation.max_new_tokens=24", "generation.engine=transformers")
    return load(None, [f"model.name={model}", *sizes, *keys])


@pytest.mark.parametrize("key", ["cycle.real_share=0.5", "cycle.real_rows=20"])
def test_an_answer_that_no_micro_batch_takes_is_named(model: Path, key: str) -> None:
    task = LongTask(("north", "south"))
    name, _, value = key.partition("=")
    said = (
        rf"{name} = {value}: of \d+ real examples the longest, real-2, has 104 tokens \(3 of its prompt and 101 of its "
        r"answer\), more than training\.tokens_per_micro_batch \(103\), and no answer is cut"
    )
    with pytest.raises(ValueError, match=said):
        preflight.check_task(experiment(model, key, "training.tokens_per_micro_batch=103"), task)
    preflight.check_task(experiment(model, key, "training.tokens_per_micro_batch=104"), task)


def test_an_answer_longer_than_the_model_is_named(tmp_path: Path, model: Path) -> None:
    task = LongTask(("north", "south"))
    short = save_model(tmp_path / "short", "llama")
    config = short / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 128', '"max_position_embeddings": 100'))
    found = experiment(short, "cycle.real_share=0.5", "training.steps=2", "training.tokens_per_step=90")
    with pytest.raises(ValueError, match=rf"tokens_per_step \(90\) and the positions of {short} \(100\)"):
        preflight.check_task(found, task)


def test_nothing_is_drawn_without_real_answers_or_a_tokenizer(model: Path) -> None:
    task = LongTask(("north", "south"))
    real_answers.check(experiment(model), task)
    real_answers.check(load(None, ["cycle.real_share=0.5"]), task)
    assert task.asked == []


@pytest.mark.parametrize(("real", "key"), [("anchored", ()), ("fresh", (1,))])
def test_the_examples_are_the_first_of_round_1(model: Path, real: str, key: tuple[int, ...]) -> None:
    task = LongTask(("north", "south"))
    for rows, drawn in ((2, 2), (10_000, real_answers.EXAMPLES)):
        found = experiment(model, f"cycle.real_rows={rows}", f"cycle.real={real}")
        real_answers.check(found, task)
        assert task.asked.pop() == (drawn, derive_seed(found.seed, "real", *key))
