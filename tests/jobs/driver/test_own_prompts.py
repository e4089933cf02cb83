"""Prompts of a task of the user's own, of which nothing may be cut, are held against the limit before a run starts."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from jobs.driver import preflight
from jobs.driver.experiments import load
from scpl_ray.config import Experiment
from scpl_ray.models import tiny_base
from scpl_ray.records import Query
from scpl_ray.tasks.own import own
from tests.support.fakes import FakeTask
from tests.support.tiny_models import save_model


class LongPrompts(FakeTask):
    """Prompts of two words, but for some of nine, whose last word tells the group."""

    def __init__(self, where: str) -> None:
        super().__init__(("north", "south"))
        self.where = where

    def draw(self, counts: Mapping[str, int], *, seed: int, prefix: str) -> list[Query]:
        return self._long("draw", super().draw(counts, seed=seed, prefix=prefix))

    def group_prompts(self, per_group: int) -> list[Query]:
        return self._long("group_prompts", super().group_prompts(per_group))

    def neutral_prompts(self, count: int) -> list[Query]:
        return self._long("neutral_prompts", super().neutral_prompts(count))

    def _long(self, method: str, queries: list[Query]) -> list[Query]:
        prompts = ["w5 w6"] * len(queries)
        if method == self.where:
            prompts[-1] = "w5 " * 8 + "w6"
        return [Query(q.query_id, q.group, prompt) for q, prompt in zip(queries, prompts, strict=True)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")


def experiment(name: Path | str, limit: int, *keys: str) -> Experiment:
    return load(
        None, [f"model.name={name}", f"task.max_prompt_tokens={limit}", "generation.engine=transformers", *keys]
    )


@pytest.mark.parametrize(
    ("where", "query"), [("draw", "try-q00031"), ("group_prompts", "group-south-q"), ("neutral_prompts", "neutral-q")]
)
def test_a_prompt_whose_end_would_be_cut_is_refused(model: Path, where: str, query: str) -> None:
    task = own(LongPrompts(where), "pets.py:build")
    said = (
        rf"task\.max_prompt_tokens = 8: 1 of 2 prompts of .* the longest, {query}.* has 9 tokens; set it to 9 or more"
    )
    with pytest.raises(ValueError, match=said):
        preflight.check_task(experiment(model, 8), task)
    preflight.check_task(experiment(model, 9), task)


@pytest.mark.usefixtures("cached")
def test_the_prompts_of_a_tiny_model_are_checked_before_it_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_base, "_build", None)
    keys = ("model.base_training_sentences=64", "model.vocabulary=512")
    with pytest.raises(ValueError, match=r"task\.max_prompt_tokens = 8: 1 of 2 prompts"):
        tiny_base.ensure_task_base(experiment("tiny", 8, *keys), LongPrompts("group_prompts"))
