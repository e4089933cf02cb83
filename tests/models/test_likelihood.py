"""The pass that says how likely texts are: what the head is applied to, and what no batch changes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MptConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from scpl_ray.models import head
from scpl_ray.models.likelihood import CPU_TOKENS, negative_log_likelihood, tokens_per_pass
from tests.support.model_shapes import SHAPE, VOCABULARY

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=2, n_positions=128),
    # caps its logits
    "gemma2": lambda: Gemma2Config(**SHAPE, head_dim=32, final_logit_softcapping=0.5),
    # multiply or divide them
    "cohere": lambda: CohereConfig(**SHAPE, logit_scale=0.25),
    "granite": lambda: GraniteConfig(**SHAPE, logits_scaling=8.0),
    # have no max_position_embeddings
    "bloom": lambda: BloomConfig(vocab_size=VOCABULARY, hidden_size=64, n_layer=2, n_head=2, seq_length=128),
    "mpt": lambda: MptConfig(vocab_size=VOCABULARY, d_model=64, n_layers=2, n_heads=2, max_seq_len=128),
    # its decoder is a part of its base model
    "opt": lambda: OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        ffn_dim=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        word_embed_proj_dim=64,
    ),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model_of(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # so that logits are far apart
    return model


def texts(count: int = 40) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Prompts of 1 to 39 tokens, completions of 0 to 59."""
    draw = np.random.default_rng(1)
    lengths = draw.integers((1, 0), (40, 60), (count, 2)).tolist()
    return [tuple(tuple(draw.integers(3, VOCABULARY, n).tolist()) for n in pair) for pair in lengths]  # type: ignore[misc]


def uses_of_head(model: PreTrainedModel) -> list[int]:
    """Receives the number of positions of every use of the output layer."""
    used: list[int] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        used.append(inputs[0].shape[:-1].numel())

    model.get_output_embeddings().register_forward_pre_hook(note)
    return used


@pytest.mark.parametrize("name", CONFIGS)
def test_every_models_own_logits_count(name: str) -> None:
    model = model_of(name)
    found = negative_log_likelihood(model, texts(), 4096)
    for (prompt, completion), (nats, count) in zip(texts(), found, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + completion])).logits[0].double()
        logps = logits.log_softmax(-1)
        expected = -sum(float(logps[len(prompt) - 1 + i, token]) for i, token in enumerate(completion))
        assert (nats, count) == (pytest.approx(expected, abs=2e-3), len(completion))
    assert "forward" not in vars(model.get_decoder())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_neither_batches_nor_slices_change_a_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name)
    together = negative_log_likelihood(model, texts(), 4096)
    assert [negative_log_likelihood(model, [one], 4096)[0] for one in texts()] == together
    assert negative_log_likelihood(model, texts()[::-1], 300)[::-1] == together
    for logits in (1, 40 * VOCABULARY, 1000 * VOCABULARY):
        monkeypatch.setattr(head, "LOGITS_PER_PASS", logits)
        assert negative_log_likelihood(model, texts(), 4096) == together


def test_on_a_cpu_a_pass_stays_in_the_caches() -> None:
    model = model_of("llama")
    passes: list[int] = []
    first = model.get_decoder().layers[0]
    first.register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].shape[:2].numel()))
    negative_log_likelihood(model, [((7,) * 20, (9,) * 12)] * 200, 8192)
    assert sum(passes) == 200 * 32 and max(passes) == CPU_TOKENS
    assert tokens_per_pass(model, 100) == 100
    assert tokens_per_pass(model.to("meta"), 8192) == 8192


def test_the_head_is_applied_to_completions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    used = uses_of_head(model)
    long_prompts = [(prompt * 3, completion[:5]) for prompt, completion in texts()]
    written = sum(len(completion) for _, completion in long_prompts)
    negative_log_likelihood(model, long_prompts, 4096)
    assert written <= sum(used) < written + 16 * len(used)


def test_the_vocabulary_does_not_limit_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    passes: list[int] = []
    model.get_decoder().layers[0].register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].shape[0]))
    alike = [((7,) * 20, (9,) * 12)] * 64
    negative_log_likelihood(model, alike, 32 * 64)
    assert passes == [64]
    used = uses_of_head(model)
    monkeypatch.setattr(head, "LOGITS_PER_PASS", 100 * VOCABULARY)
    negative_log_likelihood(model, alike, 32 * 64)
    assert passes == [64, 64] and max(used) <= 100


def test_texts_without_tokens(tmp_path: Path) -> None:
    model = model_of("llama")
    assert negative_log_likelihood(model, [((5, 6), ())], 4096) == [(0.0, 0)]
    assert negative_log_likelihood(model, [], 4096) == []
