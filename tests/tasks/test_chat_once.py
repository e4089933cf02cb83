"""A task on a chat model: the template stands once in what is trained, asked and scored.

The model's tokenizer puts a beginning-of-sequence token before every text and its template writes one too, and a system
message: a second encoding on the way would double either.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, LlamaConfig

from actors.engines.base import EngineSettings
from actors.generation import RayGenerator
from actors.placement.memory import with_format
from actors.placement.role import Role
from jobs.driver.run import encoder
from scpl_ray.config import Experiment
from scpl_ray.models.tokens import encode_prompt, load_tokenizer
from scpl_ray.protocols import Task
from scpl_ray.records import Query, Weights
from scpl_ray.tasks import TASKS
from scpl_ray.tasks.preference import judge
from tests.support import maths_data, news_data, preference_data
from tests.support.chat import SPECIAL, chat_tokenizer

ROWS: dict[str, tuple[Callable[[], list[dict[str, Any]]], dict[str, Any]]] = {
    "maths": (maths_data.rows, {"groups": {"names": ["farm", "shop"]}}),
    "news": (news_data.rows, {"groups": {"names": ["left", "right"]}}),
    "preference": (
        preference_data.responses,
        {"groups": {"names": ["academy", "business", "stage"], "shares": [0.4, 0.3, 0.3]}},
    ),
}
"""By task: made-up rows, and what belongs to them."""
GENERATION = {"generation": {"engine": "transformers", "max_new_tokens": 24}}


def save_chat_model(folder: Path, texts: list[str]) -> Path:
    words = [word for text in texts for word, _ in Whitespace().pre_tokenize_str(text)]
    tokenizer = chat_tokenizer(words)
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=sorted(ROWS))
def built(request, tmp_path_factory: pytest.TempPathFactory):
    """Experiment, task and the folder of its chat model."""
    root = tmp_path_factory.mktemp(request.param)
    make, more = ROWS[request.param]
    rows = make()
    said = [str(value) for row in rows for value in row.values()]
    asked = "Write a news article with this headline: about The latest on Here is what happened with be kind . ?"
    folder = save_chat_model(root / "model", [*said, asked])
    settings = {
        "task": {
            "name": request.param,
            "data": str(news_data.write_jsonl(root / "rows.jsonl", rows)),
            "fields": {"group": "source"} if request.param == "maths" else {},
            "judge_model": str(folder),
        },
        "model": {"name": str(folder)},
        **GENERATION,
        "evaluation": {"prompts_per_group": 3, "neutral_prompts": 4},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCPL_CACHE", str(root / "cache"))
        patch.setattr(judge, "FROZEN_LAYERS", 0)
        patch.setattr(judge, "STEPS", 5)
        experiment = Experiment.model_validate(settings | more)
        yield experiment, TASKS[request.param].build(experiment), folder


def asked_by(task: Task, experiment: Experiment) -> list[Query]:
    counts = dict.fromkeys(experiment.groups.names, 3)
    return [*task.draw(counts, seed=0, prefix="x"), *task.group_prompts(3), *task.neutral_prompts(4)]


def is_once(ids: tuple[int, ...]) -> bool:
    """One beginning, one system message, and an assistant's turn that was opened for an answer."""
    turns = [SPECIAL.index(name) for name in ("<|user|>", "<|assistant|>")]
    return (
        ids[0] == 1
        and ids.count(1) == 1
        and ids.count(SPECIAL.index("<|system|>")) == 1
        and ids.count(turns[0]) == ids.count(turns[1]) >= 1
    )


def test_in_training_data(built) -> None:
    experiment, task, folder = built
    encode = encoder(experiment, folder)
    for query, answer in task.real_examples(6, seed=0):
        prompt, ids = encode(query, answer)
        assert is_once(prompt) and 1 not in ids and ids[-1] == 2
        assert not set(ids) & {SPECIAL.index(name) for name in SPECIAL[3:]}


def test_in_every_prompt(built) -> None:
    experiment, task, folder = built
    tokenizer = load_tokenizer(folder)
    for query in asked_by(task, experiment):
        ids = encode_prompt(tokenizer, query.prompt, 10_000)
        assert is_once(ids)
        said = query.prompt.split("<|user|>")[1].split("</s>")[0]
        own = tokenizer.apply_chat_template(
            [{"role": "user", "content": said}], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert list(ids)[: len(own)] == own


@pytest.fixture(scope="module")
def pool(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayGenerator]:
    """An engine for all tasks; what a task changes of an experiment is nothing that an engine knows."""
    experiment = Experiment.model_validate(GENERATION)
    started = RayGenerator(experiment, Role("engine", 1, 0.2, 0.0, 1), tmp_path_factory.mktemp("logs"))
    yield started
    started.close()


@pytest.mark.engines
def test_in_what_is_generated_and_then_scored_and_trained_on(built, pool: RayGenerator) -> None:
    experiment, task, folder = built
    assert EngineSettings.of(with_format(experiment, None, on_gpu=False), 0.0) == pool._settings
    pool.begin(experiment)
    queries = asked_by(task, experiment)
    encode = encoder(experiment, folder)
    pool.refresh(Weights(sorted(ROWS).index(experiment.task.name), folder))
    drawn = [c for chunk in pool.stream(queries, samples=[1] * len(queries), purpose="round 1") for c in chunk]
    prompt_of = {query.query_id: query for query in queries}
    assert len(drawn) == len(queries)
    for completion in drawn:
        assert is_once(completion.prompt_token_ids)
        assert completion.prompt_token_ids == encode(prompt_of[completion.query_id], "be kind")[0]
