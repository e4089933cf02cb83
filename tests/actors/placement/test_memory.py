"""Sizes and memory of models, by hand."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from actors.placement.memory import Mode, Sizes, estimates, known_sizes, model_size
from jobs.driver import experiments
from scpl_ray import tasks
from scpl_ray.config import Experiment, Lora
from scpl_ray.models.adapters import add_adapter
from scpl_ray.tasks import bases
from tests.support.model_cards import QWEN_7B
from tests.support.tiny_models import save_model

GIB = 2**30
BY_HAND = (
    2 * 152_064 * 3584  # embeddings in and out
    + 28
    * (
        2 * 3584 * 3584  # queries, outputs
        + 2 * 3584 * 512  # keys, values: 4 heads of 128
        + 3584 + 2 * 512  # their biases
        + 3 * 3584 * 18944  # gate, up, down
        + 2 * 3584  # norms
    )
    + 3584
)  # fmt: skip
PER_LAYER = (3584 + 3584) * 2 + (3584 + 512) * 2 + (3584 + 18944) * 3
"""Inputs plus outputs of a layer's linear maps."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(QWEN_7B))
    return tmp_path


def qwen(folder: Path, *overrides: str) -> tuple[Experiment, Sizes]:
    experiment = experiments.load(
        None, [f"model.name={folder}", "model.dtype=bfloat16", "reward.terms={well_formed: 1.0}", *overrides]
    )
    sizes = known_sizes(experiment, tasks.TASKS["language"].build(experiment))
    assert sizes is not None
    return experiment, sizes


def test_parameters_are_counted_as_transformers_makes_them(folder: Path) -> None:
    assert BY_HAND == 7_615_616_512
    size = model_size(AutoConfig.from_pretrained(folder), Lora(rank=16))
    assert size.parameters == BY_HAND
    assert size.adapter_parameters == 16 * 28 * PER_LAYER == 40_370_176
    assert (size.layers, size.hidden, size.vocabulary, size.attention_heads) == (28, 3584, 152_064, 28)
    assert (size.key_value_heads, size.feed_forward) == (4, 18_944)
    assert size.cached_per_token == 28 * 2 * 4 * 128


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_small_models_with_tied_weights_agree_with_the_real_ones(family: str, tmp_path: Path) -> None:
    saved = save_model(tmp_path, family, hidden=32)
    model = AutoModelForCausalLM.from_pretrained(saved)
    size = model_size(model.config, Lora(rank=4))
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert size.adapter_parameters == sum(
        p.numel() for p in add_adapter(model, Lora(rank=4)).parameters() if p.requires_grad
    )
    cache = model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values
    held = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert size.cached_per_token == held / 3


def test_an_engine(folder: Path) -> None:
    experiment, sizes = qwen(folder, "task.max_prompt_tokens=1000", "generation.max_new_tokens=24")
    engine = estimates(experiment, sizes, "dedicated")["engine"]
    assert engine.working["weights"] == pytest.approx(2 * BY_HAND / GIB) == pytest.approx(14.185, abs=1e-3)
    # 57,344 bytes per token
    assert engine.working["keys and values"] * GIB == 1024 * 57_344
    split = experiment.model_copy(
        update={"generation": experiment.generation.model_copy(update={"tensor_parallel": 4})}
    )
    parts = estimates(split, sizes, "dedicated")["engine"].working
    assert parts["weights"] == pytest.approx(14.185 / 4, abs=1e-3)
    assert parts["keys and values"] == pytest.approx(engine.working["keys and values"] / 4)
    # of two key-value heads each GPU of four has one
    two = dataclasses.replace(sizes, policy=dataclasses.replace(sizes.policy, key_value_heads=2))
    fewer = estimates(split, two, "dedicated")["engine"].working["keys and values"]
    assert fewer == pytest.approx(engine.working["keys and values"] / 2)


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer", "buffer"),
    # bfloat16, 4 workers, per parameter: float32 copies and moments are 12 bytes, gradients 2 and their sum 4, of which
    # the step of stage 3 makes a copy; from stage 2 on a buffer of 50 million float32 gradients
    [(0, 2, 6, 3, 0), (1, 2, 6, 3, 0), (2, 2, 0.5 + 1, 3, 2e8), (3, 0.5, 0.5 + 1 + 1, 3, 2e8)],
)
def test_training_all_weights(
    folder: Path, stage: int, weights: float, gradients: float, optimizer: float, buffer: float
) -> None:
    experiment, sizes = qwen(folder, "model.lora=null", f"training.zero_stage={stage}", "training.workers=4")
    worker = estimates(experiment, sizes, "dedicated")["training worker"]
    assert worker.working["weights"] == pytest.approx(weights * BY_HAND / GIB)
    assert worker.working["gradients"] == pytest.approx((gradients * BY_HAND + buffer) / GIB)
    assert worker.working["optimizer"] == pytest.approx(optimizer * BY_HAND / GIB)
    # what enters 28 layers and the last one, one whole layer, and what is outside, for 2048 tokens; 10 bytes per logit
    kept = 29 * 2 * 3584 + sizes.policy.saved[2].per_layer + sizes.policy.saved[2].elsewhere
    assert worker.working["activations"] == pytest.approx((2048 * kept + 10 * 2**26) / GIB)


def test_a_step_of_all_weights_at_stage_3_as_an_h100_measured_it() -> None:
    """202 million weights in bfloat16, one worker, 1,032 tokens: 4.21 GiB at stage 2, 5.15 at stage 3."""
    config = LlamaConfig(
        vocab_size=403, hidden_size=1024, intermediate_size=4096, num_hidden_layers=12, num_attention_heads=16
    )
    sizes = Sizes(model_size(config, None), None)
    for stage, peak in ((2, 4.21), (3, 5.15)):
        keys = ["model.lora=null", "model.dtype=bfloat16", f"training.zero_stage={stage}"]
        experiment = experiments.load(None, keys)
        training = experiment.training.model_copy(update={"tokens_per_micro_batch": 1032})
        found = estimates(experiment.model_copy(update={"training": training}), sizes, "dedicated")["training worker"]
        planned = sum(gib for what, gib in found.working.items() if what != "libraries")
        assert peak <= planned <= 1.15 * peak


def test_training_in_float32_without_zero_has_no_second_copy(folder: Path) -> None:
    experiment, sizes = qwen(folder, "model.lora=null", "training.zero_stage=0", "model.dtype=float32")
    worker = estimates(experiment, sizes, "cpu")["training worker"]
    assert [worker.working[n] * GIB / BY_HAND for n in ("weights", "gradients", "optimizer")] == pytest.approx(
        [4, 4, 8]
    )
    assert worker.idle == 0 and worker.host == pytest.approx(worker.total + 4 * BY_HAND / GIB)


def test_training_an_adapter(folder: Path) -> None:
    experiment, sizes = qwen(folder, "training.zero_stage=3", "training.workers=2")
    adapter = 40_370_176
    worker = estimates(experiment, sizes, "dedicated")["training worker"]
    assert worker.working["weights"] == pytest.approx((BY_HAND + adapter) / GIB)
    assert worker.working["optimizer"] == pytest.approx(12 * adapter / 2 / GIB)
    # nothing else of the policy is trained, and a reference policy is computed by the same model
    paired, _ = qwen(folder, "training.zero_stage=3", "training.workers=2", "training.objective=dpo")
    assert estimates(paired, sizes, "dedicated")["training worker"] == worker


@pytest.mark.parametrize(
    ("mode", "stored", "overrides", "per_weight"),
    [
        # in bfloat16 the base is read on its way to the GPU, and at the end of a round the merged weights come back
        ("dedicated", "bfloat16", [], 2),
        ("cpu", "bfloat16", [], 2),
        # weights that are rounded or split over the workers are read again in float32
        ("dedicated", "float32", [], 4),
        ("dedicated", None, [], 4),
        ("dedicated", "bfloat16", ["training.zero_stage=3"], 4),
        ("cpu", "float32", ["model.dtype=float32"], 4),
        # adapters that are served are not merged
        ("dedicated", "float32", ["generation.refresh=adapter"], 2),
        ("cpu", "float32", ["generation.refresh=adapter"], 0),
    ],
)
def test_merging_an_adapter_takes_host_memory(
    folder: Path, mode: Mode, stored: str | None, overrides: list[str], per_weight: int
) -> None:
    (folder / "config.json").write_text(json.dumps(QWEN_7B | ({"dtype": stored} if stored else {})))
    worker = estimates(*qwen(folder, *overrides), mode)["training worker"]
    held = worker.host - (worker.total if mode == "cpu" else 1.0)
    assert held == pytest.approx((per_weight * BY_HAND + 4 * 40_370_176) / GIB)


def test_a_scorer(folder: Path, tmp_path: Path) -> None:
    experiment, sizes = qwen(folder)
    assert estimates(experiment, sizes, "dedicated")["scorer"].working["weights"] == pytest.approx(4 * BY_HAND / GIB)
    served, _ = qwen(folder, "generation.refresh=adapter")
    found = estimates(served, sizes, "dedicated")["scorer"].working
    assert found["weights"] == pytest.approx(2 * (BY_HAND + 40_370_176) / GIB) and "reward model" not in found
    # keys and values of the prompts that the base model has read, as far as they are kept; only without a GPU
    assert not {"prompts kept", "prompts read"} & found.keys()
    many = estimates(experiment, sizes, "cpu")["scorer"].working
    assert many["prompts kept"] == 0.5 and many["prompts read"] == 3 * 2**26 / GIB
    few, _ = qwen(folder, "model.dtype=float32", "evaluation.prompts_per_group=2", "evaluation.neutral_prompts=4")
    of_prompts = 4 * 8 * few.task.max_prompt_tokens * 28 * 2 * 4 * 128
    read = estimates(few, sizes, "cpu")["scorer"].working
    assert read["prompts kept"] == pytest.approx(of_prompts / GIB) and read["prompts read"] == pytest.approx(
        3 * of_prompts / GIB
    )
    judge = tmp_path / "judge"
    judge.mkdir()
    small = {**QWEN_7B, "num_hidden_layers": 2, "architectures": ["Qwen2ForSequenceClassification"], "num_labels": 1}
    (judge / "config.json").write_text(json.dumps(small))
    given, sizes = qwen(folder, "reward.terms={model: 1.0}", f"reward.model={judge}")
    found = estimates(given, sizes, "dedicated")["scorer"].working
    # embeddings, two layers, a norm and an output without bias
    layer = (BY_HAND - 2 * 152_064 * 3584 - 3584) // 28
    assert found["reward model"] == pytest.approx(2 * (152_064 * 3584 + 2 * layer + 3584 + 3584) / GIB)
    assert "training it" not in found


def test_a_scorer_that_trains_the_reward_model_keeps_the_activations_of_one_pass(folder: Path) -> None:
    limits = ["task.max_prompt_tokens=100", "generation.max_new_tokens=27"]  # texts of 128 positions with padding

    def training_it(tokens_per_batch: int, *overrides: str) -> float:
        keys = ["reward.terms={model: 1.0}", f"reward.tokens_per_batch={tokens_per_batch}", *limits, *overrides]
        return estimates(*qwen(folder, *keys), "dedicated")["scorer"].working["training it"]

    _, whole = qwen(folder, "model.lora=null")
    kept = whole.policy.saved[4]
    per_token = 28 * kept.per_layer + kept.elsewhere + 4 * 3584
    # a pair is not split, and a step of 32 pairs has 64 texts; an adapter of the policy is no part of it
    for tokens, read in ((4096, 4096), (10, 2 * 128), (10**6, 64 * 128)):
        for adapter in ("model.lora=null", "model.lora.rank=8"):
            assert training_it(tokens, adapter) == pytest.approx((16 * BY_HAND + read * per_token) / GIB)


def test_who_gives_memory_back(folder: Path) -> None:
    briefly, sizes = qwen(folder, "training.worker_lifetime=round")
    found = estimates(briefly, sizes, "colocated")
    assert (found["engine"].idle, found["training worker"].idle) == (1.0, 1.0)
    # one of its two models is on a shared GPU while it works, none while it waits; both are in host memory
    assert found["scorer"].idle == 1.0
    assert found["scorer"].working["weights"] == pytest.approx(2 * BY_HAND / GIB)
    assert found["scorer"].host == pytest.approx(1 + 2 * 2 * BY_HAND / GIB)
    alone = estimates(briefly, sizes, "dedicated")["scorer"]
    assert alone.idle == pytest.approx(alone.total) and alone.host == 1.0
    living, _ = qwen(folder)
    lasting = estimates(living, sizes, "colocated")["training worker"]
    assert lasting.idle == pytest.approx(lasting.total)
    # level 2: nothing is kept; level 1: the weights, in host memory
    assert found["engine"].host == 1.0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_tiny_model_is_known_before_it_is_made(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path))
    experiment = experiments.load(None, [f"model.family={family}", "model.base_training_sentences=64"])
    task = tasks.TASKS["language"].build(experiment)
    before = known_sizes(experiment, task)
    assert bases.made_base(experiment, task) is None
    bases.base_model(experiment, task)
    assert bases.made_base(experiment, task) is not None
    after = known_sizes(experiment, task)
    assert before is not None and after is not None
    assert 0.9 < after.policy.parameters / before.policy.parameters <= 1.0
    assert (before.policy.layers, before.policy.hidden) == (after.policy.layers, after.policy.hidden)


def test_what_is_not_here_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path))
    for overrides in (["model.name=nobody/has-this-model"], [f"model.name={save_model(tmp_path / 'm', 'llama')}"]):
        experiment = experiments.load(None, overrides)
        known = known_sizes(experiment, tasks.TASKS["language"].build(experiment))
        assert (known is not None) == (str(tmp_path) in overrides[0])
    with pytest.raises(ValueError, match=r"model.name: /no/such/folder: no such folder; give a folder with a model"):
        lost = experiments.load(None, ["model.name=/no/such/folder"])
        known_sizes(lost, tasks.TASKS["language"].build(lost))
