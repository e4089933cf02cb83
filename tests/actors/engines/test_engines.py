"""The transformers engine in this process, and what both engines share."""

import ast
import dataclasses
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from scipy.stats import chisquare
from tokenizers import processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    DeepseekV2Config,
    FalconConfig,
    FalconH1Config,
    Gemma3Config,
    GPT2Config,
    GPTNeoConfig,
    Lfm2Config,
    Llama4Config,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
    RecurrentGemmaConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from actors.engines.base import EngineSettings, Probe, Request, has_experts
from actors.engines.transformers import TransformersEngine
from actors.engines.vllm import CPU_KV_CACHE_BYTES, WITHOUT_ADAPTERS, VllmEngine, kv_cache_bytes
from scpl_ray.config import Experiment
from scpl_ray.models.likelihood import negative_log_likelihood
from scpl_ray.models.tokens import decode, decode_all, encode_answer, encode_prompt, encode_prompts, stop_ids
from scpl_ray.records import Weights
from tests.support.model_shapes import SHAPE
from tests.support.tiny_models import FAMILIES, VOCABULARY, save_adapter, save_model

SETTINGS = EngineSettings(
    max_prompt_tokens=64,
    max_new_tokens=20,
    temperature=1.0,
    top_p=1.0,
    adapter_rank=None,
    dtype="float32",
    gpus=0.0,
    trust_remote_code=False,
)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_model(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def engine(model: Path, adapter: Path | None = None, **changes: object) -> TransformersEngine:
    made = TransformersEngine(dataclasses.replace(SETTINGS, **changes))
    made.load(Weights(0, model, adapter))
    return made


def requests(count: int, seed: int = 0, samples: int = 3) -> list[Request]:
    draw = np.random.default_rng(seed)
    prompts = [tuple(draw.integers(2, VOCABULARY, draw.integers(1, 12)).tolist()) for _ in range(count)]
    return [Request(p, int(draw.integers(2**63))) for p in prompts for _ in range(samples)]


@pytest.mark.parametrize("family", FAMILIES)
def test_completion_does_not_depend_on_its_company(families: dict[str, Path], family: str) -> None:
    served = engine(families[family])
    wanted = requests(16)
    together = served.generate(wanted)
    assert {len(s.token_ids) for s in together} > {SETTINGS.max_new_tokens}
    assert {s.finish_reason for s in together} == {"stop", "length"}
    for one, request in zip(together, wanted, strict=True):
        assert served.generate([request]) == [one]
    order = np.random.default_rng(1).permutation(len(wanted))
    assert served.generate([wanted[i] for i in order]) == [together[i] for i in order]


def test_logits_do_not_depend_on_their_company(families: dict[str, Path]) -> None:
    # Equal tokens could be luck: a rounding error moves a draw once in a million tokens.
    from transformers import DynamicCache

    served = engine(families["llama"])
    rows = [list(range(5 + i, 12 + i)) for i in range(64)]
    with torch.inference_mode():
        together = served._forward(rows, DynamicCache())
        for start in (0, 8, 40):
            assert torch.equal(served._forward(rows[start : start + 8], DynamicCache()), together[start : start + 8])


def test_same_seed_same_completion_other_seed_another(families: dict[str, Path]) -> None:
    served = engine(families["llama"])
    same = served.generate([Request((5, 6), 1), Request((5, 6), 2), Request((5, 6), 1)])
    assert same[0] == same[2] != same[1]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.3, 1.0), (0.3, 0.7)])
def test_samples_follow_the_model(families: dict[str, Path], temperature: float, top_p: float) -> None:
    served = engine(families["llama"], temperature=temperature, top_p=top_p, max_new_tokens=1)
    drawn = served.generate([Request((7, 8, 9), seed) for seed in range(8000)])
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(families["llama"])(torch.tensor([[7, 8, 9]])).logits[0, -1]
    p = torch.softmax(logits.double() / temperature, -1).numpy()
    order = np.argsort(-p)
    nucleus = order[: int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1] if top_p < 1 else order
    counts = np.bincount([s.token_ids[0] for s in drawn], minlength=VOCABULARY)
    assert counts[nucleus].sum() == 8000
    assert chisquare(counts[nucleus], 8000 * p[nucleus] / p[nucleus].sum()).pvalue > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_what_transformers_generates(families: dict[str, Path], family: str) -> None:
    served = engine(families[family], temperature=0.0)
    model = AutoModelForCausalLM.from_pretrained(families[family])
    for request, ours in zip(requests(10, samples=1), served.generate(requests(10, samples=1)), strict=True):
        prompt = torch.tensor([request.prompt_token_ids])
        theirs = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False, pad_token_id=0
        )
        assert list(ours.token_ids) == theirs[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_replace_one_another(families: dict[str, Path], family: str, tmp_path: Path) -> None:
    base = families[family]
    adapters = [save_adapter(base, tmp_path / f"a{seed}", seed) for seed in (1, 2)]
    served = engine(base, adapter_rank=4)
    asked = requests(6)
    answers = {None: served.generate(asked)}
    for version, adapter in enumerate(adapters, start=1):
        served.load(Weights(version, base, adapter))
        answers[adapter] = served.generate(asked)
        merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
        merged.save_pretrained(tmp_path / f"m{version}")
        AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / f"m{version}")
        by_merged = engine(tmp_path / f"m{version}").generate(asked)
        # adding the adapter's product rounds otherwise than adding its weights
        for one, other in zip(by_merged, answers[adapter], strict=True):
            assert (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-3)
    assert len({tuple(a) for a in answers.values()}) == 3
    served.load(Weights(3, base))
    assert served.generate(asked) == answers[None]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.8), (0.0, 1.0)])
def test_log_probabilities_are_those_of_a_separate_pass(
    families: dict[str, Path], family: str, temperature: float, top_p: float, tmp_path: Path
) -> None:
    base, adapter = families[family], save_adapter(families[family], tmp_path / "a", 1)
    for served in (None, adapter):
        made = engine(base, served, adapter_rank=4, temperature=temperature, top_p=top_p)
        asked = requests(8)
        sampled = made.generate(asked)
        model = AutoModelForCausalLM.from_pretrained(base)
        if served:
            model = PeftModel.from_pretrained(model, served).merge_and_unload()
        texts = [(request.prompt_token_ids, one.token_ids) for request, one in zip(asked, sampled, strict=True)]
        for one, (nats, _) in zip(sampled, negative_log_likelihood(model.eval(), texts, 4096), strict=True):
            assert one.log_probability == pytest.approx(-nats, abs=1e-3)


def test_merged_weights_are_served_where_adapters_are_not(families: dict[str, Path], tmp_path: Path) -> None:
    adapter = save_adapter(families["llama"], tmp_path / "a", 1)
    plain, ignoring = engine(families["llama"]), engine(families["llama"], adapter)
    assert plain.generate(requests(4)) == ignoring.generate(requests(4))


def test_weights_that_cannot_be_served(families: dict[str, Path], tmp_path: Path) -> None:
    made = TransformersEngine(dataclasses.replace(SETTINGS, adapter_rank=4))
    with pytest.raises(ValueError, match=r"policy version 3: .*nowhere holds no config.json"):
        made.check(Weights(3, tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"holds no adapter_config\.json"):
        made.check(Weights(3, families["llama"], tmp_path / "nowhere"))
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_text("pickle")
    with pytest.raises(ValueError, match=r"holds no .*safetensors"):
        made.check(Weights(3, families["llama"], tmp_path))
    made.check(Weights(3, families["llama"]))
    with pytest.raises(ValueError, match=r"max_new_tokens = 164: the model .* has 128 positions"):
        engine(families["llama"], max_new_tokens=100)


def test_settings_of_an_experiment() -> None:
    experiment = Experiment.model_validate({"generation": {"refresh": "adapter", "engine": "transformers"}})
    on_cpu, on_gpu = EngineSettings.of(experiment, 0.0), EngineSettings.of(experiment, 0.5)
    assert (on_cpu.dtype, on_cpu.adapter_rank, on_cpu.tolerance) == ("float32", 16, 0.0)
    assert on_gpu.dtype == "bfloat16"
    assert on_gpu.tolerance > 0
    assert EngineSettings.of(Experiment(), 0.0).adapter_rank is None


def test_with_experts_calls_are_written_alone(tmp_path: Path) -> None:
    MixtralConfig(**SHAPE, num_local_experts=4).save_pretrained(tmp_path / "experts")
    LlamaConfig(**SHAPE).save_pretrained(tmp_path / "plain")
    for name, alone in (("experts", True), ("plain", False)):
        experiment = Experiment.model_validate({"model": {"name": str(tmp_path / name), "dtype": "float32"}})
        on_cpu, on_gpu = EngineSettings.of(experiment, 0.0), EngineSettings.of(experiment, 1.0)
        assert (on_cpu.exact, on_cpu.together) == (not alone, not alone)
        assert on_gpu.together and not on_gpu.exact
        assert on_cpu.sampling_bound < on_gpu.sampling_bound, "rounding is as small as without experts"
    plain = (LlamaConfig(), GPT2Config(), MixtralConfig(num_local_experts=1), Gemma3Config().get_text_config())
    assert not any(map(has_experts, plain))
    assert all(
        map(has_experts, (MixtralConfig(), Qwen3MoeConfig(), DeepseekV2Config(), Llama4Config().get_text_config()))
    )


def test_probe_shows_the_weights(families: dict[str, Path], tmp_path: Path) -> None:
    base = families["llama"]
    served = engine(base, adapter_rank=4)
    first = served.probe()
    assert served.probe() == first
    assert len(first.token_ids) == len(first.log_probabilities) == 8
    assert all(p < 0 for p in first.log_probabilities)
    served.load(Weights(1, base, save_adapter(base, tmp_path / "a", 1)))
    assert not served.probe().agrees(first, 0.0)


def test_probes_agree() -> None:
    probe = Probe((4, 5, 6), (-1.0, -2.0, -3.0))
    assert probe.agrees(probe, 0.0)
    assert not probe.agrees(Probe((4, 5, 6), (-1.0, -2.0, -3.001)), 0.0)
    assert probe.agrees(Probe((4, 5, 6), (-1.0, -2.0, -3.001)), 0.01)
    assert not probe.agrees(Probe((4, 5, 6), (-1.0, -2.1, -3.0)), 0.01)
    # two tokens equally probable: what follows them differs rightly
    assert probe.agrees(Probe((4, 7, 8), (-1.0, -2.001, -9.0)), 0.01)
    assert not probe.agrees(Probe((4, 7, 6), (-1.0, -2.0, -3.0)), 0.0)


def test_memory_for_keys_and_values() -> None:
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 128}
    block = 2 * 2 * 2 * 32 * 4 * 128
    assert kv_cache_bytes(LlamaConfig(**shape), 88, torch.float32) == 257 * block
    assert kv_cache_bytes(LlamaConfig(**shape), 129, torch.float32) == 513 * block
    # blocks of a quarter of the tokens and half the bytes of a number, for heads twice as wide
    assert kv_cache_bytes(LlamaConfig(**shape, head_dim=64), 88, torch.bfloat16) == (3 * 256 + 1) * block // 4
    large = shape | {"num_hidden_layers": 40}
    assert kv_cache_bytes(LlamaConfig(**large), 1000, torch.float32) == CPU_KV_CACHE_BYTES
    with pytest.raises(ValueError, match="max_new_tokens = 100000: keys and values of one sequence need"):
        kv_cache_bytes(LlamaConfig(**large), 100_000, torch.float32)


def test_prompts_and_answers_as_tokens(families: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(families["llama"])
    assert encode_prompt(tokenizer, "w5 w6 w7", 64) == (5, 6, 7)
    assert encode_prompt(tokenizer, "w5 w6 w7", 2) == (5, 6)
    assert encode_answer(tokenizer, "w8 w9") == (8, 9, 1)
    assert decode(tokenizer, (8, 9, 1)) == "w8 w9"
    assert decode_all(tokenizer, [(8, 9, 1), (), (5,)]) == ["w8 w9", "", "w5"]
    assert encode_prompts(tokenizer, [], 64) == decode_all(tokenizer, []) == []
    for prompts in (["  "], ["w5", "  "]):
        with pytest.raises(ValueError, match="prompt '  ' has no tokens"):
            encode_prompts(tokenizer, prompts, 64)


def test_special_tokens_are_added_once(families: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(families["llama"])
    tokenizer.add_special_tokens({"bos_token": "w3"})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="w3 $A w1", special_tokens=[("w3", 3), ("w1", 1)]
    )
    prompts, ids = ["w5 w6", "w3 w5 w6", "w5 w1"], [(3, 5, 6), (3, 5, 6), (3, 5, 1)]
    assert [encode_prompt(tokenizer, prompt, 64) for prompt in prompts] == ids
    assert encode_prompts(tokenizer, prompts, 64) == ids
    assert encode_answer(tokenizer, "w8") == (8, 1)


def test_every_end_of_sequence_token_stops(families: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(families["llama"])
    assert stop_ids(families["llama"], tokenizer) == (1,)
    model = AutoModelForCausalLM.from_pretrained(families["llama"])
    model.generation_config.eos_token_id = [1, 9, 11]
    model.save_pretrained(tmp_path)
    assert stop_ids(tmp_path, tokenizer) == (1, 9, 11)


def test_a_model_with_images_says_in_its_text_part_what_stops(families: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(families["llama"])
    for name, values in {"gemma": Gemma3Config(text_config={"eos_token_id": [1, 7]}), "llama": Llama4Config()}.items():
        values.save_pretrained(tmp_path / name)
    assert stop_ids(tmp_path / "gemma", tokenizer) == (1, 7)
    assert 1 in stop_ids(tmp_path / "llama", tokenizer)


def asked_of_vllm(**model: object) -> Experiment:
    return Experiment.model_validate({"model": model, "generation": {"engine": "vllm", "refresh": "adapter"}})


def test_vllm_is_refused_where_it_serves_no_adapters() -> None:
    for values in (GPT2Config(), BloomConfig(), FalconConfig()):
        for on_gpu in (True, False):
            fault = str(VllmEngine.refuses(values, asked_of_vllm(), on_gpu=on_gpu))
            assert fault.startswith("generation.refresh = 'adapter'") and "set generation.refresh=reload" in fault
        assert VllmEngine.refuses(values, asked_of_vllm(lora=None), on_gpu=True) is None
        assert VllmEngine.refuses(values, Experiment(), on_gpu=True) is None
    assert VllmEngine.refuses(LlamaConfig(), asked_of_vllm(), on_gpu=True) is None


def test_on_a_cpu_vllm_is_refused_for_models_with_experts() -> None:
    for values in (MixtralConfig(), Qwen3MoeConfig(), DeepseekV2Config()):
        fault = str(VllmEngine.refuses(values, Experiment(), on_gpu=False))
        assert fault.startswith("generation.engine = 'vllm'") and "set generation.engine=transformers" in fault
        assert values.model_type in fault
        assert VllmEngine.refuses(values, Experiment(), on_gpu=True) is None


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"]), "LinearAttentionLayer"),
        (FalconH1Config(**SHAPE), "LinearAttentionAndFullAttentionLayer"),
        (RecurrentGemmaConfig(**SHAPE), "recurrent"),
    ],
)
def test_layers_that_keep_another_state_are_refused(values: PreTrainedConfig, kind: str) -> None:
    for on_gpu in (False, True):
        fault = str(TransformersEngine.refuses(values, Experiment(), on_gpu=on_gpu))
        assert fault.startswith("generation.engine = 'transformers'") and kind in fault and values.model_type in fault
        assert "model.name" in fault and ("generation.engine=vllm" in fault) == on_gpu


def test_windows_are_not_refused() -> None:
    served = (
        LlamaConfig(),
        GPT2Config(),
        GPTNeoConfig(),
        BloomConfig(),
        MistralConfig(),
        Gemma3Config(),
        Llama4Config(),
    )
    for values in (*served, MixtralConfig()):
        assert TransformersEngine.refuses(values.get_text_config(), Experiment(), on_gpu=False) is None


def test_the_models_without_adapters_are_those_of_the_installed_vllm() -> None:
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("vLLM is not installed")
    root = Path(spec.submodule_search_locations[0])
    registry = (root / "model_executor/models/registry.py").read_text()
    listed = re.search(r"^_TEXT_GENERATION_MODELS = (\{.*?^\})", registry, re.M | re.S)
    assert listed is not None
    table = {architecture: name for architecture, (_, name) in ast.literal_eval(listed[1]).items()}
    bases: dict[str, set[str]] = {}
    for folder in ("model_executor/models", "models"):
        for path in (root / folder).rglob("*.py"):
            for name, of in re.findall(r"^class (\w+)\(([^)]*)\)", path.read_text(), re.M):
                bases.setdefault(name, set()).update(re.findall(r"\w+", of))

    def supports(name: str) -> bool:
        return name == "SupportsLoRA" or any(supports(base) for base in bases.get(name, set()) - {name})

    without = {architecture for architecture, name in table.items() if not supports(name)}
    assert {t for t, architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if architecture in without} == set(
        WITHOUT_ADAPTERS
    )


def test_on_a_cpu_half_the_bytes_hold_twice_the_tokens() -> None:
    """Keys and values of 1 MiB per position in float32, half of it in bfloat16: 1 GiB holds 895 or 1919 of them."""
    values = LlamaConfig(hidden_size=4096, num_attention_heads=32, num_key_value_heads=32, num_hidden_layers=32)
    lengths = {"task": {"max_prompt_tokens": 1000}, "generation": {"engine": "vllm", "max_new_tokens": 200}}
    found = {
        dtype: VllmEngine.refuses(
            values, Experiment.model_validate({**lengths, "model": {"dtype": dtype}}), on_gpu=False
        )
        for dtype in ("float32", "bfloat16", "auto")
    }
    assert "keys and values of one sequence need" in str(found["float32"])
    assert found["bfloat16"] is found["auto"] is None
