"""Prompts that were read before: nothing that is found of an answer tells whether they were."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    RobertaConfig,
)

from scpl_ray.models import kept_prompts
from scpl_ray.models.kept_prompts import SHORTEST, KeptPrompts, suits
from scpl_ray.models.likelihood import negative_log_likelihood
from scpl_ray.models.tokens import Ids
from tests.support.model_shapes import SHAPE, VOCABULARY

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "qwen2": lambda: Qwen2Config(**SHAPE),
    "gpt2": lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=2, n_positions=128),
}
OTHERS: dict[str, Callable[[], PreTrainedConfig]] = {
    # see a window of what is before
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=16),
    "gemma2": lambda: Gemma2Config(**SHAPE, head_dim=32),
    "gpt_neo": lambda: GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_layers=2,
        num_heads=2,
        attention_types=[[["global", "local"], 1]],
        window_size=16,
        max_position_embeddings=128,
    ),
    # counts positions from behind the padding token's
    "roberta": lambda: RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=130,
        is_decoder=True,
    ),
    # knows no positions but by the mask
    "bloom": lambda: BloomConfig(vocab_size=VOCABULARY, hidden_size=64, n_layer=2, n_head=2, seq_length=128),
}


def model_of(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config).eval()


def some_texts(count: int = 12) -> list[tuple[Ids, Ids]]:
    rng = np.random.default_rng(5)

    def ids(length: int) -> Ids:
        return tuple(rng.integers(0, VOCABULARY, length).tolist())

    prompts = [ids(int(length)) for length in rng.integers(SHORTEST, 90, count // 2)]
    return [(prompts[i % len(prompts)], ids(int(rng.integers(1, 30)))) for i in range(count)]


@pytest.mark.parametrize("kind", CONFIGS)
def test_likelihoods_are_those_of_whole_texts(kind: str) -> None:
    model = model_of(CONFIGS[kind]())
    texts = [*some_texts(), ((4, 5), (6, 7)), (tuple(range(40)), ()), (tuple(range(100)), tuple(range(28)))]
    kept = KeptPrompts(model)
    found = kept.negative_log_likelihood(texts, 512)
    whole = negative_log_likelihood(model, texts, 512)
    assert [count for _, count in found] == [count for _, count in whole]
    np.testing.assert_allclose([nats for nats, _ in found], [nats for nats, _ in whole], rtol=1e-5)
    assert len(kept) == 7


def test_neither_other_texts_nor_what_was_kept_changes_a_bit() -> None:
    model, texts = model_of(CONFIGS["llama"]()), some_texts()
    together = KeptPrompts(model).negative_log_likelihood(texts, 4096)
    warm = KeptPrompts(model)
    warm.negative_log_likelihood([(prompt, (1, 2, 3)) for prompt, _ in texts[::2]], 4096)
    assert warm.negative_log_likelihood(texts, 4096) == together
    alone = [KeptPrompts(model).negative_log_likelihood([text], 64)[0] for text in texts]
    assert alone == together
    assert KeptPrompts(model, most_bytes=0).negative_log_likelihood(texts, 256) == together


def test_a_prompt_that_is_kept_is_not_read_again() -> None:
    model, texts = model_of(CONFIGS["llama"]()), some_texts()
    kept = KeptPrompts(model)
    kept.negative_log_likelihood(texts, 4096)
    read: list[int] = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, __, inputs: read.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    kept.negative_log_likelihood([(prompt, (7, 8, 9)) for prompt, _ in texts], 4096)
    assert sum(read) == 8 * len(texts)


def test_what_is_kept_has_a_bound() -> None:
    model, texts = model_of(CONFIGS["llama"]()), some_texts()
    # keys and values of two layers with one head of 32, in float32, for prompts that are padded to at most 88
    for_one = 2 * 2 * 32 * 4 * 88
    kept = KeptPrompts(model, most_bytes=2 * for_one)
    kept.negative_log_likelihood(texts, 4096)
    assert 2 <= len(kept) < 6


def test_a_pass_holds_so_many_keys_and_values_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = model_of(CONFIGS["llama"]()), [(tuple(range(i, i + 41)), (1, 2)) for i in range(12)]
    together = KeptPrompts(model).negative_log_likelihood(texts, 4096)
    rows: list[int] = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, __, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    # keys and values of two layers with one head of 32, in float32
    of_token = 2 * 2 * 32 * 4
    for most, expected in ((5 * 40 * of_token, 5), (of_token, 1)):
        monkeypatch.setattr(kept_prompts, "BATCH_BYTES", most)
        rows.clear()
        assert KeptPrompts(model).negative_log_likelihood(texts, 4096) == together
        assert max(rows) == expected


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 128 tokens are possible"):
        KeptPrompts(model_of(CONFIGS["llama"]())).negative_log_likelihood([(tuple(range(120)), tuple(range(9)))], 512)


def test_which_models_keep_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not suits(model_of(CONFIGS["llama"]())), "it is small"
    monkeypatch.setattr(kept_prompts, "LARGE", 1000)
    assert all(suits(model_of(config())) for config in CONFIGS.values())
    assert not any(suits(model_of(config())) for config in OTHERS.values())
