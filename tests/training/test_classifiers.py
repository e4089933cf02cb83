"""Fine-tuning in parts: what a pass keeps for the backward pass is limited, and the step stays the same. Passes side by
side change nothing."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

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

    def recorded(model: classifiers.SequenceModel, texts: Sequence[Any], width: int) -> Tensor:
        if torch.is_grad_enabled():
            seen.append((len(texts), width))
        return forward(model, texts, width)

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
