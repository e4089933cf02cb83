"""A model whose files lack weights is refused, by its loader and by the names in the files alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    RobertaConfig,
)
from transformers.utils import logging

from actors.engines.base import EngineSettings
from actors.engines.transformers import TransformersEngine
from scpl_ray.models.adapters import load_model
from scpl_ray.models.loading import check_names
from scpl_ray.training import classifiers, reward_model
from tests.support.tiny_models import FAMILIES, config, save_model

SHAPE = {"vocab_size": 200, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BODY = {**SHAPE, "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0, "num_labels": 1}
EMBEDDING = "model.embed_tokens.weight"
SETTINGS = EngineSettings(
    max_prompt_tokens=32,
    max_new_tokens=8,
    temperature=1.0,
    top_p=1.0,
    adapter_rank=None,
    dtype="float32",
    gpus=0.0,
    trust_remote_code=False,
)
SPEAKS, RATES = AutoModelForCausalLM, AutoModelForSequenceClassification


def saved(folder: Path, kind: Any, values: PreTrainedConfig) -> Path:
    save_model(folder, "llama", hidden=32)  # for its tokenizer
    for path in (*folder.glob("*.safetensors"), folder / "config.json", folder / "generation_config.json"):
        path.unlink()
    torch.manual_seed(0)
    kind.from_config(values).save_pretrained(folder)
    return folder


def stored(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without(*names: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {name: tensor for name, tensor in weights.items() if name not in names}


def refused(kind: Any, folder: Path) -> str:
    """The message of every way by which a model of a kind is loaded."""
    with pytest.raises(ValueError, match="random numbers") as first:
        if kind is SPEAKS:
            load_model(folder, torch.float32)
        else:
            reward_model.load(folder, torch.float32, "cpu")
    with pytest.raises(ValueError, match="random numbers") as by_names:
        check_names(kind, folder, AutoConfig.from_pretrained(folder), str(folder))
    assert str(by_names.value) == str(first.value)
    if kind is SPEAKS:
        with pytest.raises(ValueError, match="random numbers"):
            TransformersEngine(SETTINGS)._read_model(folder, AutoConfig.from_pretrained(folder))
    assert "\n" not in str(first.value)
    return str(first.value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        *((SPEAKS, config(family)) for family in FAMILIES),
        (SPEAKS, LlamaConfig(**BODY, tie_word_embeddings=True)),
        (SPEAKS, MixtralConfig(**BODY, num_local_experts=2, num_key_value_heads=2)),
        (SPEAKS, GPTNeoXConfig(**BODY)),
        (RATES, LlamaConfig(**BODY)),
        (RATES, BertConfig(**BODY)),
        (RATES, RobertaConfig(**BODY)),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_a_whole_model_is_loaded(kind: Any, values: PreTrainedConfig, tmp_path: Path) -> None:
    folder = saved(tmp_path, kind, values)
    check_names(kind, folder, AutoConfig.from_pretrained(folder), "it")
    if kind is SPEAKS:
        load_model(folder, torch.float32)
    else:
        classifiers.load(folder, torch.float32, "cpu")


def test_a_policy_without_its_own_head_is_refused(tmp_path: Path) -> None:
    folder = stored(saved(tmp_path, SPEAKS, LlamaConfig(**BODY)), without("lm_head.weight"))
    found = refused(SPEAKS, folder)
    assert f"{folder}: 1 of 21 weights of LlamaForCausalLM are not in its safetensors" in found
    assert "random numbers: lm_head.weight; save the whole model" in found


def test_a_policy_whose_head_is_its_input_embedding_needs_none(tmp_path: Path) -> None:
    folder = saved(tmp_path, SPEAKS, LlamaConfig(**BODY, tie_word_embeddings=True))
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    load_model(folder, torch.float32)
    assert "lm_head.weight, model.embed_tokens.weight" in refused(SPEAKS, stored(folder, without(EMBEDDING)))


@pytest.mark.parametrize(
    ("old", "new", "count"), [("score.", "score.modules_to_save.default.", 1), ("", "module.", 21)], ids=["PEFT", "DDP"]
)
def test_a_reward_model_under_other_names_is_refused(old: str, new: str, count: int, tmp_path: Path) -> None:
    folder = saved(tmp_path, RATES, LlamaConfig(**BODY))
    stored(folder, lambda w: {new + k.removeprefix(old) if k.startswith(old) else k: v for k, v in w.items()})
    found = refused(RATES, folder)
    assert f"{count} of 21 weights" in found and f"; they have {new}" in found


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    found = refused(RATES, saved(tmp_path, SPEAKS, LlamaConfig(**BODY)))
    assert "random numbers: score.weight; they have lm_head.weight, which it does not know" in found


def test_an_expert_that_is_missing_is_found(tmp_path: Path) -> None:
    folder = saved(tmp_path, SPEAKS, MixtralConfig(**BODY, num_local_experts=2, num_key_value_heads=2))
    experts = [name for name in load_file(folder / "model.safetensors") if ".experts.1." in name]
    assert len(experts) == 6
    assert "mlp.experts.down_proj (1, 32, 64) instead of (2, 32, 64)" in refused(
        SPEAKS, stored(folder, without(*experts))
    )


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, SPEAKS, LlamaConfig(**BODY))
    stored(folder, lambda weights: weights | {"model.norm.weight": torch.ones(5)})
    assert "1 of 21 weights" in (found := refused(SPEAKS, folder))
    assert "model.norm.weight (5,) instead of (32,)" in found


@pytest.mark.parametrize("kind", [AutoModelForMaskedLM, RATES])
@pytest.mark.parametrize("values", [BertConfig, RobertaConfig])
def test_what_is_fitted_may_lack_its_head_and_pooler_and_nothing_else(kind: Any, values: Any, tmp_path: Path) -> None:
    folder = saved(tmp_path, kind, values(**{**BODY, "num_labels": 3}))
    stored(folder, lambda weights: {name: tensor for name, tensor in weights.items() if ".pooler." not in name})
    model = classifiers.untrained(folder, ["reward"], seed=0)
    assert not model.head().weight.any() and model.labels == ("reward",)
    name = f"{values.model_type}.embeddings.word_embeddings.weight"
    stored(folder, lambda weights: {key: tensor for key, tensor in weights.items() if key != name})
    with pytest.raises(ValueError, match=f"1 of .* random numbers: {name}; "):
        classifiers.untrained(folder, ["reward"], seed=0)


def test_new_weights_of_a_head_depend_on_the_seed_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path, AutoModelForMaskedLM, RobertaConfig(**BODY))
    torch.manual_seed(1)
    made = [classifiers.untrained(folder, ["reward"], seed=seed).model.classifier.dense.weight for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


@pytest.mark.parametrize("bars", [True, False])
def test_a_plan_hears_nothing_of_names_that_are_compared(
    bars: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path, SPEAKS, LlamaConfig(**BODY))
    stored(folder, lambda weights: weights | {"another": torch.ones(5)})
    before, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.enable_progress_bar() if bars else logging.disable_progress_bar()
    try:
        capfd.readouterr()
        check_names(SPEAKS, folder, AutoConfig.from_pretrained(folder), "it")
        assert capfd.readouterr() == ("", "")
        assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == (bars, level)
    finally:
        logging.enable_progress_bar() if before else logging.disable_progress_bar()
