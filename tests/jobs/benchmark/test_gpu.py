"""Limits of a GPU by arithmetic, and what the benchmark says where there is none."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from jobs.benchmark import gpu
from jobs.benchmark.__main__ import app
from jobs.benchmark.gpu import (
    Machine,
    Row,
    Tensors,
    generation_limit_s,
    machine_rows,
    tensors,
    training_limit_s,
)
from scpl_ray.records import Completion, Example
from scpl_ray.storage.run_directory import Store
from tests.support import fakes
from tests.support.loops import loop, small

MACHINE = Machine(copy=2e12, upload=5e10, flops=1e15)
MODEL = Tensors(parameters=10**9, width=2)


def test_generation_is_bound_by_memory_or_by_arithmetic() -> None:
    # 100 steps that read 2 GB each at 2 TB/s; 10,000 prompt tokens at 2 GFLOP each
    assert generation_limit_s(MACHINE, MODEL, 10_000, [100] * 50, 256) == pytest.approx(0.02 + 0.1)
    # 512 completions are two batches
    assert generation_limit_s(MACHINE, MODEL, 0, [100] * 512, 256) == pytest.approx(0.2)
    # with 10,000 at a time arithmetic takes longer: 10^6 tokens at 2 GFLOP each
    assert generation_limit_s(MACHINE, MODEL, 0, [100] * 10_000, 10_000) == pytest.approx(2.0)


def test_training_needs_six_operations_per_weight_and_token_an_adapter_four() -> None:
    assert training_limit_s(MACHINE, 10**9, 10**6, adapter=False) == pytest.approx(6.0)
    assert training_limit_s(MACHINE, 10**9, 10**6, adapter=True) == pytest.approx(4.0)


def test_tensors_are_counted_over_all_files(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "one.safetensors")
    save_file({"c": torch.zeros(2, dtype=torch.bfloat16)}, tmp_path / "two.safetensors")
    found = tensors(tmp_path, 2)
    assert (found.parameters, found.bytes) == (19, 38)


def test_rows_as_text() -> None:
    assert Row("refresh", "2 GB", 0.4, 0.04).cells() == ("refresh", "2 GB", "0.4000", "0.0400", "10.0%")
    assert Row("round", "all", 0.5).cells() == ("round", "all", "0.5000", "", "")
    assert Row("round", "no GPU").cells() == ("round", "no GPU", "", "", "")
    assert [row.work for row in machine_rows(MACHINE)] == ["2,000 GB/s", "50.0 GB/s", "1,000 TFLOP/s, bfloat16"]


def test_rows_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the loop with fakes, whose phases are committed by the same store."""
    monkeypatch.setattr("jobs.benchmark.gpu.tensors", lambda folder, width: MODEL)
    experiment = small("loop.rounds=2", "training.epochs=3")
    store = Store.create(tmp_path / "run", experiment, {})
    base = fakes.make_base(tmp_path / "base", 2)
    loop(store, experiment, base).run()
    rows = {row.what: row for row in gpu.run_rows(experiment, MACHINE, store, base)}
    assert tuple(rows) == gpu.RUN
    completions = store.read(2, "completions", "completions", Completion)
    assert len(completions) == 160
    # a fake's prompt and answer are one token each; four answers share a prompt
    assert rows["generation"].limit_s == pytest.approx(generation_limit_s(MACHINE, MODEL, 40, [1] * 160, 256))
    assert rows["scoring"].limit_s == pytest.approx(2 * MODEL.parameters * 320 / MACHINE.flops)
    examples = store.read(2, "dataset", "dataset", Example)
    assert rows["training"].work == f"{3 * 2 * len(examples)} tokens"
    assert rows["training"].limit_s == pytest.approx(4 * MODEL.parameters * 6 * len(examples) / MACHINE.flops)
    per_step = rows["training, per step"]
    assert rows["training"].seconds == fakes.STEP_SECONDS, "without start, merging, writing and hashing"
    assert per_step.seconds == pytest.approx((rows["training"].seconds or 0) / len(examples))
    # with training.steps epochs say nothing: a fake makes as many steps as there are examples
    fixed = experiment.model_copy(
        update={"training": experiment.training.model_copy(update={"steps": 5, "tokens_per_step": 1000})}
    )
    by_steps = {row.what: row for row in gpu.run_rows(fixed, MACHINE, store, base)}["training"]
    assert by_steps.work == f"{1000 * len(examples):,} tokens"
    assert by_steps.limit_s == pytest.approx(4 * MODEL.parameters * 1000 * len(examples) / MACHINE.flops)
    assert (rows["whole round, one GPU for all"].seconds or 0) > 0
    store.close()


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="this machine has a GPU")
def test_without_a_gpu_the_table_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.benchmark.gpu.importlib.util.find_spec", lambda name: None if name == "vllm" else name)
    result = CliRunner().invoke(app, ["gpu", "model.name=tiny"])
    assert result.exit_code == 0, result.output
    # the table goes to the real screen
    assert gpu.obstacles() == [
        "no GPU: torch finds no CUDA device",
        "vllm is not installed: pip install scpl_ray[gpu]",
    ]


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="this machine has a GPU")
def test_no_figure_is_made_up(capfd: pytest.CaptureFixture[str]) -> None:
    assert CliRunner().invoke(app, ["gpu"]).exit_code == 0
    text = capfd.readouterr().out
    for what in (*gpu.MACHINE, *gpu.RUN, *gpu.ENGINE):
        assert what in text
    assert text.count("no GPU: torch finds no CUDA device") == len(gpu.MACHINE) + len(gpu.RUN) + len(gpu.ENGINE)
    assert "%" not in text


def test_a_wrong_key_is_refused() -> None:
    result = CliRunner().invoke(app, ["gpu", "loop.roundss=3"])
    assert result.exit_code == 2 and "unknown key" in result.output
    result = CliRunner().invoke(app, ["gpu", "generation.refresh=adapter"])
    assert result.exit_code == 2 and "both ways of refreshing are measured" in result.output
