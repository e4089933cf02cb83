"""Fine-tuning in parts: what a pass keeps for the backward pass is limited, and the step stays the same. Passes side by
side change nothing. Encoders from elsewhere read pairs as they were trained to."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from scpl_ray.protocols import Choice
from scpl_ray.training import classifiers, reward_model
from tests.support.tiny_models import VOCABULARY, save_model

ITEMS = 12


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base"), "llama")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and width of every forward pass with gradients."""
    seen: list[tuple[int, int]] = []
    forward = classifiers.SequenceModel.forward

    def recorded(model: classifiers.SequenceModel, texts: Sequence[Any], width: int, *segments: Any) -> Tensor:
        if torch.is_grad_enabled():
            seen.append((len(texts), width))
        return forward(model, texts, width, *segments)

    monkeypatch.setattr(classifiers.SequenceModel, "forward", recorded)
    return seen


def choices(count: int) -> list[Choice]:
    draw = np.random.default_rng(0)

    def words() -> str:
        return " ".join(f"w{i}" for i in draw.integers(20, 90, draw.integers(1, 12)))

    return [Choice(words(), f"{words()} w90", f"{words()} w91") for _ in range(count)]


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def fit(base: Path, output: Path, tokens_per_pass: int | None) -> dict[str, float]:
    output.mkdir()
    effort = reward_model.Effort(tokens_per_pass=tokens_per_pass)
    return reward_model.fit(choices(80), base=base, output=output, seed=4, tokens_per_batch=4096, effort=effort)


def gradients(base: Path, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], float]:
    """Gradients of one step on all items, and the loss that is reported."""
    model = classifiers.untrained(base, ["reward"], seed=0)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head().weight)
    draw = np.random.default_rng(1)
    texts = [tuple(draw.integers(3, VOCABULARY, n).tolist()) for n in draw.integers(2, 30, ITEMS)]
    found: list[Tensor] = []

    def loss(items: Sequence[int]) -> tuple[Tensor, Tensor]:
        losses = model.forward_any([texts[i] for i in items])[:, 0].square()
        return losses.mean(), losses

    def kept(parameters: Sequence[Tensor], _: float) -> None:
        found.extend(p.grad.clone() for p in parameters if p.grad is not None)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", kept)
    _, reported = classifiers.train(
        model,
        ITEMS,
        loss,
        classifiers.Schedule(1, ITEMS, 1e-3),
        seed=0,
        purpose="test",
        fits=lambda items: limit is None or model.tokens_read([texts[i] for i in items]) <= limit,
    )
    return found, reported


def test_parts_of_a_step_stay_under_the_limit_and_have_the_gradients_of_the_whole(
    base: Path, monkeypatch: pytest.MonkeyPatch, passes: list[tuple[int, int]]
) -> None:
    whole, reported = gradients(base, None, monkeypatch)
    assert len(passes) == 1
    passes.clear()
    limit = 64
    parts, in_parts = gradients(base, limit, monkeypatch)
    assert len(passes) > 2 and sum(rows for rows, _ in passes) == ITEMS
    assert all(rows * width <= limit for rows, width in passes)
    assert in_parts == pytest.approx(reported, rel=1e-5) and reported > 0.1
    assert len(parts) == len(whole) > 10
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_an_item_that_exceeds_the_limit_gets_a_pass_of_its_own(
    base: Path, monkeypatch: pytest.MonkeyPatch, passes: list[tuple[int, int]]
) -> None:
    gradients(base, 1, monkeypatch)
    assert [rows for rows, _ in passes] == [1] * ITEMS


def test_what_is_read_is_counted_with_its_padding(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = classifiers.untrained(base, ["reward"], seed=0)
    texts = [(5,) * 3, (5,) * 30, (5,) * 4, (5,) * 31]
    assert model.tokens_read(texts) == 4 * 32
    monkeypatch.setattr(classifiers, "LEAST_SPARED", 50)
    assert model.tokens_read(texts) == 2 * 5 + 2 * 32


def test_a_limit_that_every_step_stays_under_changes_no_bit_of_a_reward_model(
    base: Path, tmp_path: Path, passes: list[tuple[int, int]]
) -> None:
    unlimited = fit(base, tmp_path / "unlimited", None)
    most = max(rows * width for rows, width in passes)
    assert fit(base, tmp_path / "most", most) == unlimited
    assert weights(tmp_path / "most") == weights(tmp_path / "unlimited")


def test_a_reward_model_trained_in_parts_is_the_same_within_rounding(
    base: Path, tmp_path: Path, passes: list[tuple[int, int]]
) -> None:
    whole = fit(base, tmp_path / "whole", None)
    steps = len(passes)
    passes.clear()
    parts = fit(base, tmp_path / "parts", 300)
    assert len(passes) > 2 * steps and all(rows * width <= 300 for rows, width in passes)
    assert weights(tmp_path / "parts") != weights(tmp_path / "whole")
    assert parts == pytest.approx(whole, rel=1e-3)


def test_passes_side_by_side_change_no_bit(base: Path, passes: list[tuple[int, int]]) -> None:
    model = classifiers.untrained(base, ["reward"], seed=0)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head().weight)
    draw = np.random.default_rng(1)
    texts = [tuple(draw.integers(3, VOCABULARY, n).tolist()) for n in draw.integers(2, 30, 200)]
    expected = model.outputs(texts, 512)
    for threads in (2, 3):
        assert np.array_equal(model.outputs(texts, 512, threads=threads), expected)
    assert not passes  # no thread computes what only gradients need


def test_an_error_of_one_of_several_passes_is_raised(base: Path) -> None:
    model = classifiers.untrained(base, ["reward"], seed=0)
    with pytest.raises(IndexError):
        model.outputs([(3,)] * 20 + [(VOCABULARY + 1,)], 32, threads=2)


SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODER = {**SHAPE, "intermediate_size": 64, "pad_token_id": 0, "num_labels": 1, "initializer_range": 0.2}
PAIRS = [("w20 w21 w22", "w30 w31"), ("w23", "w32 w33 w34"), ("w24 w25", "w35"), (" ".join(["w26"] * 30), "w36 w37")]


def scorer(base: Path, folder: Path, values: PreTrainedConfig) -> Path:
    """A reward model from elsewhere, whose tokenizer writes an end after either text of a pair."""
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(values).save_pretrained(folder)
    as_of_bert = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = AutoTokenizer.from_pretrained(base, model_input_names=as_of_bert)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A w1", pair="$A:0 w1:0 $B:1 w1:1", special_tokens=[("w1", 1)]
    )
    tokenizer.save_pretrained(folder)
    return folder


def own_scores(folder: Path, pairs: Sequence[tuple[str, str]], **more: Any) -> list[float]:
    """What transformers makes of a pair, without this package."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return [float(model(**tokenizer(*pair, return_tensors="pt", **more)).logits[0, 0]) for pair in pairs]


def test_a_model_of_pairs_is_told_which_text_is_the_completion(base: Path, tmp_path: Path) -> None:
    folder = scorer(base, tmp_path, BertConfig(**ENCODER, max_position_embeddings=64))
    model = reward_model.load(folder, torch.float32, "cpu")
    assert model.score(PAIRS, 512) == pytest.approx(own_scores(folder, PAIRS), abs=1e-5)
    assert np.std(own_scores(folder, PAIRS)) > 0.01
    assert [model.score([pair], 512)[0] for pair in PAIRS] == model.score(PAIRS, 512)
    untold = own_scores(folder, PAIRS, return_token_type_ids=False)
    assert np.abs(np.array(model.score(PAIRS, 512)) - untold).min() > 1e-3


def test_segments_of_a_pair_that_is_cut_are_its_own(base: Path, tmp_path: Path) -> None:
    folder = scorer(base, tmp_path, BertConfig(**ENCODER, max_position_embeddings=21))
    (found,) = reward_model.load(folder, torch.float32, "cpu").score([(" ".join(["w26"] * 30), "w36 w37")], 512)
    (kept,) = own_scores(folder, [(" ".join(["w26"] * 16), "w36 w37")])
    assert found == pytest.approx(kept, abs=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        LlamaConfig(**ENCODER, max_position_embeddings=64),
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=64, num_labels=1, pad_token_id=0),
        RobertaConfig(**ENCODER, max_position_embeddings=64, type_vocab_size=1),
    ],
    ids=lambda values: values.model_type,
)
def test_a_model_without_embeddings_of_segments_is_told_none(
    values: PreTrainedConfig, base: Path, tmp_path: Path
) -> None:
    folder = scorer(base, tmp_path, values)
    model = reward_model.load(folder, torch.float32, "cpu")
    assert not model.sequence.segmented
    expected = own_scores(folder, PAIRS, return_token_type_ids=False)
    assert model.score(PAIRS, 512) == pytest.approx(expected, abs=1e-5)


def test_a_model_that_was_fitted_here_reads_as_it_was_fitted(base: Path, tmp_path: Path) -> None:
    folder = scorer(base, tmp_path / "base", BertConfig(**ENCODER, max_position_embeddings=64))
    fit(folder, tmp_path / "fitted", None)
    model = reward_model.load(tmp_path / "fitted", torch.float32, "cpu")
    assert model.sequence.takes_segments and not model.sequence.segmented
    expected = np.array(own_scores(tmp_path / "fitted", PAIRS, return_token_type_ids=False)) - model.offset
    assert model.score(PAIRS, 512) == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("padding", [0, 1, 5])
def test_positions_of_roberta_begin_after_that_of_padding(padding: int, base: Path, tmp_path: Path) -> None:
    values = RobertaConfig(**{**ENCODER, "pad_token_id": padding}, max_position_embeddings=40, type_vocab_size=1)
    folder = scorer(base, tmp_path, values)
    model = reward_model.load(folder, torch.float32, "cpu")
    assert model.sequence.max_tokens == 40 - padding - 1 - 1
    texts = [(" ".join(["w26"] * 80), " ".join(["w27"] * many)) for many in (5, 80)]
    assert np.isfinite(model.score(texts, 512)).all()
    assert {len(ids) for ids in model.sequence.encode_pairs(texts)} == {model.sequence.max_tokens}
