"""LoRA on disk: reproducible starts, plain PEFT folders, exact reloads and merges."""

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DeepseekV2Config, Qwen3MoeConfig

from scpl_ray.config import Lora
from scpl_ray.models.adapters import (
    add_adapter,
    check_saved,
    commit,
    fresh_adapter,
    load_model,
    merge_adapter,
    read_adapter,
    save_adapter,
    save_model,
)
from scpl_ray.protocols import TrainingError
from tests.support.model_shapes import SHAPE
from tests.support.tiny_models import FAMILIES
from tests.support.tiny_models import save_model as save_tiny_model

LORA = Lora(rank=4, alpha=6.0)
TOKENS = torch.tensor([[3, 14, 15, 92, 65, 35]])


@pytest.fixture(params=FAMILIES)
def base(request, tmp_path):
    return save_tiny_model(tmp_path / "base", request.param)


@pytest.fixture
def llama(tmp_path):
    return save_tiny_model(tmp_path / "base", "llama")


def adapted(base, scale=0.1):
    """A model with an adapter that does something."""
    model = add_adapter(load_model(base, torch.float32), LORA)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=scale)
    return model.eval()


def trained_tensors(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def shapes(model):
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=TOKENS).logits


def test_all_linear_layers_but_the_head_get_an_adapter(base):
    model = add_adapter(load_model(base, torch.float32), LORA)
    config = model.peft_config["default"]
    leaves = {
        "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        "qwen2": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        "gpt2": {"c_attn", "c_proj", "c_fc"},
    }[model.config.model_type]
    assert config.target_modules == leaves
    assert config.fan_in_fan_out == (model.config.model_type == "gpt2")
    adapters = [name for name in trained_tensors(model) if "lora_A" in name]
    assert len(adapters) == 2 * (4 if model.config.model_type == "gpt2" else 7)
    assert all("lora_" in name for name in trained_tensors(model))


OF_EXPERTS = {
    "deepseek_v2": lambda: DeepseekV2Config(
        **SHAPE | {"num_key_value_heads": 2},
        q_lora_rank=None,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=16,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
    ),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48, head_dim=32, mlp_only_layers=[0]
    ),
}


@pytest.mark.parametrize("kind", OF_EXPERTS)
def test_an_adapter_of_experts_that_could_not_be_merged_is_refused(kind):
    with pytest.raises(ValueError, match=rf"model\.lora: .*{kind}.*experts.*set model\.lora=null"):
        add_adapter(AutoModelForCausalLM.from_config(OF_EXPERTS[kind]()), LORA)


def test_experts_beside_attention_get_no_adapter():
    settings = Qwen3MoeConfig(
        **SHAPE, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48, head_dim=32, mlp_only_layers=[]
    )
    model = add_adapter(AutoModelForCausalLM.from_config(settings), LORA)
    assert model.peft_config["default"].target_modules == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_a_fresh_adapter_depends_on_the_seed_alone_and_changes_nothing(base):
    model = add_adapter(load_model(base, torch.float32), LORA)
    before = logits(load_model(base, torch.float32))
    first, again, other = (fresh_adapter(shapes(model), seed) for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name, tensor in first.items():
        if "lora_A" in name:
            bound = tensor.shape[1] ** -0.5
            assert not torch.equal(tensor, other[name])
            assert 0.9 * bound < tensor.abs().max() <= bound
        else:
            assert not tensor.any()
    model.load_state_dict(first, strict=False)
    assert torch.equal(logits(model), before)


def test_a_saved_adapter_is_a_plain_peft_folder(base, tmp_path):
    model = adapted(base)
    save_adapter(trained_tensors(model), model.peft_config["default"], base, tmp_path / "adapter")
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    reloaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(reloaded), logits(model))
    assert not torch.equal(logits(reloaded), logits(load_model(base, torch.float32)))


def test_the_same_weights_give_the_same_bytes(llama, tmp_path):
    for name in ("one", "two"):
        model = adapted(llama)
        save_adapter(trained_tensors(model), model.peft_config["default"], llama, tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert json.loads((tmp_path / "one/adapter_config.json").read_text())["target_modules"] == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]


def test_an_adapter_is_read_back(base, tmp_path):
    model = adapted(base)
    saved = trained_tensors(model)
    save_adapter(saved, model.peft_config["default"], base, tmp_path / "adapter")
    read = read_adapter(tmp_path / "adapter", shapes(model), LORA)
    assert read.keys() == saved.keys() and all(torch.equal(read[name], saved[name]) for name in saved)


def test_an_adapter_of_other_settings_or_another_model_is_refused(llama, tmp_path):
    model = adapted(llama)
    save_adapter(trained_tensors(model), model.peft_config["default"], llama, tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"rank 8 and alpha 6, but .* has rank 4 and alpha 6"):
        read_adapter(tmp_path / "adapter", shapes(model), Lora(rank=8, alpha=6.0))
    other = add_adapter(load_model(save_tiny_model(tmp_path / "wide", "llama", hidden=96), torch.float32), LORA)
    with pytest.raises(ValueError, match="does not fit the base model"):
        read_adapter(tmp_path / "adapter", shapes(other), LORA)


def test_a_merged_model_speaks_like_base_and_adapter(base, tmp_path):
    model = adapted(base)
    save_adapter(trained_tensors(model), model.peft_config["default"], base, tmp_path / "adapter")
    merge_adapter(base, tmp_path / "adapter", tmp_path / "model", torch.float32, trust_remote_code=False)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert merged.dtype == torch.float32
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-5)
    assert (tmp_path / "model/model.safetensors").is_file()
    text = "w5 w77 w3"
    assert AutoTokenizer.from_pretrained(tmp_path / "model")(text) == AutoTokenizer.from_pretrained(base)(text)


def test_a_merged_model_is_stored_in_the_number_format_asked_for(llama, tmp_path):
    model = adapted(llama)
    save_adapter(trained_tensors(model), model.peft_config["default"], llama, tmp_path / "adapter")
    merge_adapter(llama, tmp_path / "adapter", tmp_path / "model", torch.bfloat16, trust_remote_code=False)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.bfloat16
    assert {t.dtype for t in load_file(tmp_path / "model/model.safetensors").values()} == {torch.bfloat16}


def test_a_full_model_is_reloaded_exactly(base, tmp_path):
    model = load_model(base, torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    save_model(model, base, tmp_path / "model")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model")), logits(model))


@pytest.mark.parametrize("sampling", [{"temperature": 0.9, "top_p": 0.6}, {"min_p": 0.1, "do_sample": False}, None])
def test_how_a_base_model_samples_does_not_keep_a_policy_from_being_saved(llama, sampling, tmp_path):
    given = llama / "generation_config.json"
    given.write_text(json.dumps({"eos_token_id": [1, 9], **sampling})) if sampling else given.unlink()
    model = load_model(llama, torch.float32)
    before = model.generation_config
    save_model(model, llama, tmp_path / "model")
    assert model.generation_config is before
    saved = json.loads((tmp_path / "model/generation_config.json").read_text())
    assert saved["eos_token_id"] == ([1, 9] if sampling else 1)
    assert {key: saved[key] for key in sampling or {}} == (sampling or {})


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(0), r"w has shape \(0,\), the model has \(2, 2\)"),
        (torch.zeros(2, 3), r"w has shape \(2, 3\), the model has \(2, 2\)"),
        (torch.tensor([[1.0, float("nan")], [0.0, 0.0]]), "w is not finite"),
    ],
)
def test_broken_weights_are_found(tensor, message, tmp_path):
    save_file({"w": tensor}, tmp_path / "x.safetensors")
    with pytest.raises(TrainingError, match=message):
        check_saved(tmp_path / "x.safetensors", {"w": (2, 2)})


def test_weights_that_were_renamed_on_disk_may_not_be_empty_either(tmp_path):
    save_file({"other": torch.zeros(0)}, tmp_path / "x.safetensors")
    with pytest.raises(TrainingError, match=r"other has shape \(0,\)"):
        check_saved(tmp_path / "x.safetensors", {"w": (2, 2)})
    save_file({}, tmp_path / "y.safetensors")
    with pytest.raises(TrainingError, match="holds no tensors"):
        check_saved(tmp_path / "y.safetensors", {"w": (2, 2)})


def test_commit_replaces_what_an_interrupted_attempt_left(tmp_path):
    for name in ("partial", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    commit(tmp_path / "partial", tmp_path / "final")
    assert [file.name for file in (tmp_path / "final").iterdir()] == ["partial"]
    assert not (tmp_path / "partial").exists()
