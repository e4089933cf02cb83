"""Engines prove that they hold the same new weights: by bytes everywhere, by answers where these are exact."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.engines.base import GPU_TOLERANCE, EngineSettings, Probe
from actors.engines.proof import Checksums, Loaded, check, folder_checksum
from actors.engines.vllm import VllmEngine
from scpl_ray.config import Experiment
from scpl_ray.records import Weights
from tests.support.tiny_models import save_adapter, save_model

OLD, NEW = Weights(1, Path("old")), Weights(2, Path("new"))


def loaded(checksum: str, *log_probabilities: float) -> Loaded:
    return Loaded(checksum, Probe((4, 5), log_probabilities), 256)


def never(index: int) -> Probe:
    raise AssertionError(f"engine {index} was asked again")


def test_checksums_are_of_bytes_and_names(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama", hidden=32)
    adapters = [save_adapter(base, tmp_path / f"a{seed}", seed) for seed in (1, 2)]
    sums = Checksums()
    of = [sums.of(Weights(i, base, a), adapter=True) for i, a in enumerate([None, *adapters])]
    assert len({*of}) == 3 and all(one.startswith(of[0]) for one in of)
    assert sums.of(Weights(3, base, adapters[0]), adapter=False) == of[0] == folder_checksum(base)
    (other := tmp_path / "copy").mkdir()
    for path in base.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    assert folder_checksum(other) == of[0]
    weights = next(other.glob("*.safetensors"))
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert folder_checksum(other) != of[0]
    assert folder_checksum(tmp_path) == ""


@pytest.mark.parametrize("tolerance", [0.0, GPU_TOLERANCE])
def test_other_bytes_are_an_error_on_every_device(tolerance: float) -> None:
    same = [loaded("new", -1.0, -2.0)] * 4
    check(same, NEW, (OLD, loaded("old", -1.5, -2.0)), tolerance=tolerance, ask=never)
    with pytest.raises(RuntimeError, match="engines 0 and 2 read different weights"):
        check([*same[:2], loaded("else", -1.0, -2.0)], NEW, None, tolerance=tolerance, ask=never)
    with pytest.raises(RuntimeError, match="policy versions 1 and 2 are the same bytes"):
        check(same, NEW, (OLD, loaded("new", -1.0, -2.0)), tolerance=tolerance, ask=never)
    # the same version again, as after a failed round
    check(same, NEW, (NEW, same[0]), tolerance=tolerance, ask=never)


def test_where_answers_are_exact_one_that_differs_or_stays_is_an_error() -> None:
    new, odd = loaded("new", -1.0, -2.0), loaded("new", -1.0, -2.0000001)
    with pytest.raises(RuntimeError, match="engines 0 and 1 disagree"):
        check([new, odd], NEW, None, tolerance=0.0, ask=never)
    with pytest.raises(RuntimeError, match="answer the probe prompt alike"):
        check([new], NEW, (OLD, loaded("old", -1.0, -2.0)), tolerance=0.0, ask=never)


def asked(answers: dict[int, float]) -> tuple[Callable[[int], Probe], list[int]]:
    order: list[int] = []

    def ask(index: int) -> Probe:
        order.append(index)
        return Probe((4, 5), (answers[index], -2.0))

    return ask, order


def test_elsewhere_it_is_asked_again_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    new, odd = loaded("new", -1.0, -2.0), loaded("new", -1.2, -2.0)
    ask, order = asked({0: -1.0, 1: -1.01})
    check([new, odd], NEW, None, tolerance=GPU_TOLERANCE, ask=ask)
    assert order == [0, 1] and not [r for r in caplog.records if r.levelno >= logging.WARNING]
    ask, order = asked({0: -1.0, 1: -1.3})
    check([new, odd], NEW, None, tolerance=GPU_TOLERANCE, ask=ask)
    assert "engines 0 and 1 disagree" in caplog.text and "asked twice" in caplog.text
    caplog.clear()
    ask, order = asked({0: -1.0})
    check([new], NEW, (OLD, loaded("old", -1.0, -2.0)), tolerance=GPU_TOLERANCE, ask=ask)
    assert order == [0] and "answer the probe prompt alike" in caplog.text


# --- vLLM on a GPU, as far as it can be seen without one: what it would be started with, and how it is probed


class Started(Exception):
    """Stands for the rest of a start."""


def options_of(monkeypatch: pytest.MonkeyPatch, model: Path, settings: EngineSettings) -> dict[str, Any]:
    engine = VllmEngine(settings)
    found: dict[str, Any] = {}

    def start(**options: Any) -> None:
        found.update(options)
        raise Started

    monkeypatch.setattr(engine._vllm, "LLM", start)
    with pytest.raises(Started):
        engine.load(Weights(0, model))
    return found


def test_prompts_are_read_in_pieces_only_where_a_seeded_draw_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("vllm")
    model = save_model(tmp_path, "llama", hidden=32)
    on_cpu = options_of(monkeypatch, model, EngineSettings.of(Experiment(), 0.0))
    on_gpu = options_of(monkeypatch, model, EngineSettings.of(Experiment(), 1.0))
    assert on_cpu["enable_chunked_prefill"] is False and "enable_chunked_prefill" not in on_gpu
    assert on_cpu["max_num_seqs"] == 256 and on_gpu["max_num_seqs"] is None
    assert on_cpu["logprobs_mode"] == on_gpu["logprobs_mode"] == "raw_logprobs"
    assert "enforce_eager" not in on_gpu and on_gpu["max_num_batched_tokens"] == 8192
    of_key = Experiment.model_validate({"generation": {"max_sequences": 700}})
    for gpus in (0.0, 1.0):
        assert options_of(monkeypatch, model, EngineSettings.of(of_key, gpus))["max_num_seqs"] == 700


def test_a_probe_that_rounds_otherwise_is_asked_again_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    settings = EngineSettings.of(Experiment(), 1.0)
    near, far = Probe((4,), (-1.0,)), Probe((4,), (-1.5,))
    for answers, expected in (([(near, near)], near), ([(near, far), (far, far)], far), ([(near, far)] * 2, near)):
        engine = VllmEngine(settings)
        engine._probe_prompt, left = (5, 6), list(answers)
        monkeypatch.setattr(engine, "_probed", lambda *_, left=left: left.pop(0))
        assert engine.probe() == expected and not left
    exact = VllmEngine(dataclasses.replace(settings, gpus=0.0, dtype="float32"))
    exact._probe_prompt = (5, 6)
    monkeypatch.setattr(exact, "_probed", lambda *_: (near, far))
    with pytest.raises(RuntimeError, match="the prefix cache is stale"):
        exact.probe()
