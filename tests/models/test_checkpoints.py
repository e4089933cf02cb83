"""Models and adapters that were trained elsewhere: what is found of them, what is refused, and what merging makes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from scpl_ray.models import checkpoints
from scpl_ray.models.adapters import load_model, merge_adapter, merged_weights
from scpl_ray.report.text import short_names
from tests.support.tiny_models import config, save_adapter, save_model

INPUT = torch.tensor([[3, 4, 5, 6]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base") / "llama", "llama")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return save_adapter(base, base.parent / "adapter", seed=1)


def moved(adapter: Path, folder: Path, **config: object) -> Path:
    """A copy of an adapter with other values in its config."""
    shutil.copytree(adapter, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return folder


def refused(names: list[Path | str], *, given: str | None = None) -> str:
    """The message with which these checkpoints are refused."""
    with pytest.raises(ValueError) as caught:
        found = checkpoints.found([str(name) for name in names])
        checkpoints.check_vocabulary(found, checkpoints.base_of(found, given, trust=False))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_whole_models_and_adapters_are_told_apart(base: Path, adapter: Path) -> None:
    found = checkpoints.found([str(base), str(adapter)])
    assert [(one.folder, one.base, one.rank) for one in found] == [(base, None, 0), (adapter, str(base), 4)]
    assert checkpoints.base_of(found, None, trust=False) == base
    checkpoints.check_vocabulary(found, base)
    assert list(found[1].digests) == ["adapter_model.safetensors"]


def test_the_base_of_an_adapter_may_have_moved(base: Path, adapter: Path, tmp_path: Path) -> None:
    gone = moved(adapter, tmp_path / "a", base_model_name_or_path=str(tmp_path / "gone"))
    message = refused([base, gone])
    assert "a is an adapter of" in message and "which is not there" in message and "model.name=FOLDER" in message
    found = checkpoints.found([str(base), str(gone)])
    assert checkpoints.base_of(found, str(base), trust=False) == base
    # a copy of the same model is the same base
    copied = shutil.copytree(base, tmp_path / "copy")
    there = moved(adapter, tmp_path / "b", base_model_name_or_path=str(copied))
    assert checkpoints.base_of(checkpoints.found([str(adapter), str(there)]), None, trust=False) == base


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["BASE"], "give two or more folders"),
        (["BASE", "BASE"], "is given twice"),
        (["BASE", "nowhere/at/all"], "nowhere/at/all: no such folder"),
        (["BASE", ""], "an empty name: no such folder"),
        (["BASE", "RUN"], "is the folder of a run, not of a model; give its policies: "),
        (["BASE", "EMPTY"], "has no config.json"),
        (["BASE", "PICKLE"], "has no adapter_model.safetensors; only safetensors are loaded"),
        (["BASE", "BROKEN"], "its adapter_config.json cannot be read"),
    ],
)
def test_what_is_no_checkpoint_is_one_message(
    names: list[str], said: str, base: Path, adapter: Path, tmp_path: Path
) -> None:
    places = {"BASE": base, **{name: tmp_path / name for name in ("RUN", "EMPTY", "PICKLE", "BROKEN")}}
    for name in ("RUN", "EMPTY", "BROKEN"):
        places[name].mkdir()
    (places["RUN"] / "run.json").write_text("{}")
    (places["RUN"] / "rounds/001/weights/adapter").mkdir(parents=True)
    (places["BROKEN"] / "adapter_config.json").write_text("[]")
    moved(adapter, places["PICKLE"])
    (places["PICKLE"] / "adapter_model.safetensors").rename(places["PICKLE"] / "adapter_model.bin")
    message = refused([places.get(name, name) for name in names])
    assert said in message
    if "RUN" in names:
        assert "001/weights/adapter" in message


def test_checkpoints_of_two_bases_or_vocabularies_are_one_message(base: Path, adapter: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", "llama")
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.lm_head.weight.mul_(2.0)
    model.save_pretrained(other)
    message = refused([base, adapter, save_adapter(other, tmp_path / "of_other", seed=2)])
    assert "of_other is an adapter of" in message and "another model" in message
    grown = shutil.copytree(base, tmp_path / "grown")
    tokenizer = AutoTokenizer.from_pretrained(grown)
    tokenizer.add_tokens(["<pad>"])
    tokenizer.save_pretrained(grown)
    message = refused([base, grown])
    assert "another vocabulary" in message and "(201 tokens, not 200; '<pad>'" in message


@pytest.mark.parametrize("kind", [{}, {"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"q_proj": 2}}])
def test_an_adapter_of_any_kind_merged_speaks_like_itself(kind: dict[str, object], base: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **kind)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.3)
    model.save_pretrained(tmp_path / "adapter")
    merge_adapter(base, tmp_path / "adapter", tmp_path / "merged", torch.float32, trust_remote_code=False)
    with torch.no_grad():
        expected = model.eval()(INPUT).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(INPUT).logits
        plain = AutoModelForCausalLM.from_pretrained(base)(INPUT).logits
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(merged, plain, atol=1e-3)


def test_a_plain_adapter_is_merged_as_a_run_merges_it_to_the_bit(base: Path, adapter: Path, tmp_path: Path) -> None:
    merge_adapter(base, adapter, tmp_path / "merged", torch.float32, trust_remote_code=False)
    model = load_model(base, torch.float32)
    config = json.loads((adapter / "adapter_config.json").read_text())
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    saved = load_file(adapter / "adapter_model.safetensors")
    expected = dict(merged_weights(model, weights, saved, config["lora_alpha"] / config["r"]))
    assert not weights, "each sum takes the place of what it was made from"
    found = load_file(tmp_path / "merged/model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_a_learned_prompt_and_an_adapter_of_another_model_are_refused(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), prompt).save_pretrained(tmp_path / "prompt")
    with pytest.raises(ValueError, match="is a learned prompt"):
        merge_adapter(base, tmp_path / "prompt", tmp_path / "x", torch.float32, trust_remote_code=False)
    wide = save_model(tmp_path / "wide", "llama", hidden=96)
    with pytest.raises(ValueError, match=r"does not fit the base model .*wide"):
        merge_adapter(wide, adapter, tmp_path / "y", torch.float32, trust_remote_code=False)


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens", "q_proj"]])
def test_an_adapter_of_one_of_two_tied_embeddings_is_not_merged_into_both(targets: list[str], tmp_path: Path) -> None:
    for tied in (True, False):
        values = config("llama")
        values.tie_word_embeddings = tied
        base = tmp_path / f"base-{tied}"
        AutoModelForCausalLM.from_config(values).save_pretrained(base)
        lora = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(tmp_path / f"adapter-{tied}")
    with pytest.raises(ValueError, match=r"adapter-True: adapts .* share their weights; .* without lm_head"):
        merge_adapter(
            tmp_path / "base-True", tmp_path / "adapter-True", tmp_path / "x", torch.float32, trust_remote_code=False
        )
    merge_adapter(
        tmp_path / "base-False", tmp_path / "adapter-False", tmp_path / "y", torch.float32, trust_remote_code=False
    )


@pytest.mark.parametrize("trained", [{"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [3, 4]}])
def test_a_head_or_tokens_that_an_adapter_keeps_whole_are_merged(trained: dict[str, list[int]], tmp_path: Path) -> None:
    values = config("llama")
    values.tie_word_embeddings = True
    AutoModelForCausalLM.from_config(values).save_pretrained(tmp_path / "base")
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", **trained)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), lora)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0.0, 0.3)
    model.save_pretrained(tmp_path / "adapter")
    merge_adapter(tmp_path / "base", tmp_path / "adapter", tmp_path / "m", torch.float32, trust_remote_code=False)
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m")(INPUT).logits
        torch.testing.assert_close(merged, model.eval()(INPUT).logits, rtol=1e-4, atol=1e-4)


def test_names_are_as_short_as_they_tell_apart() -> None:
    assert short_names(["/m/base", "/a/001/adapter", "/a/002/adapter"]) == ("base", "001/adapter", "002/adapter")
    assert short_names(["Qwen/Qwen2.5-0.5B", "ckpt"]) == ("Qwen2.5-0.5B", "ckpt")
    assert short_names(["a", "b/a"]) == ("a", "b/a")
    assert short_names([]) == ()
