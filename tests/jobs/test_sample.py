"""``scpl sample --prompt``: the policies of a run of which ``store.keep`` has deleted whole models."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import scpl_ray as scpl
from jobs.cli import app
from scpl_ray.models.adapters import merge_adapter
from scpl_ray.storage import retention
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import BASE, Store
from tests.support.loops import small
from tests.support.tiny_models import save_adapter, save_model

pytestmark = pytest.mark.engines
ROUNDS = 3
FULL = ("model.lora=null", "reward.choices=balanced")


def trained(root: Path, *keys: str) -> Path:
    """A run whose rounds trained adapters of one base model, or whole models, as far as a sample reads it."""
    base = save_model(root / "base", "llama")
    experiment = small(f"loop.rounds={ROUNDS}", f"model.name={base}", "task.max_prompt_tokens=32", *keys)
    store = Store.create(root / "run", experiment, {})
    with store.phase(0, "base") as phase:
        phase.facts[BASE] = str(base)
    for t in range(ROUNDS + 1):
        if t:
            with store.phase(t, "weights"):
                folder = store.folder(t, "weights")
                beside = folder if experiment.model.lora else root / f"not kept {t}"
                adapter = save_adapter(base, beside / "adapter", seed=t)
                merge_adapter(base, adapter, folder / "model", torch.float32, trust_remote_code=False)
        with store.phase(t, "evaluation"):
            pass
        retention.tidy(store, experiment, t)
    store.close()
    return root / "run"


def answers(run: Path, *rounds: int, code: int = 0) -> str:
    words = ["sample", str(run), "--prompt", "w3 w4 w5", "--number", "1", "generation.max_new_tokens=12"]
    words += [word for t in rounds for word in ("--round", str(t))]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def columns(said: str) -> list[str]:
    cells = [line.split("│")[1:-1] for line in said.splitlines() if line.startswith("│")]
    return [" ".join(cell.strip() for cell in column) for column in zip(*cells, strict=True)]


def test_every_round_of_a_run_with_adapters_can_be_asked(tmp_path: Path) -> None:
    kept = answers(trained(tmp_path / "all", "store.keep=all"), *range(ROUNDS + 1))
    run = trained(tmp_path / "last")
    assert [(run / f"rounds/00{t}/weights/model").exists() for t in (1, 2, 3)] == [False, False, True]
    found = columns(answers(run, *range(ROUNDS + 1)))
    assert len(set(found)) == ROUNDS + 1 and found == columns(kept)
    # whose policies stand beside it changes nothing
    assert columns(answers(run, 3)) == found[3:] and columns(answers(run)) == found[3:]


def test_a_whole_model_that_was_deleted_is_a_message(tmp_path: Path) -> None:
    run = trained(tmp_path / "whole", *FULL)
    adapters = trained(tmp_path / "adapters")
    assert columns(answers(run, 0, 3)) == columns(answers(adapters, 0, 3)), "merged or not, a policy is the same"
    said = answers(run, 0, 1, code=2)
    assert "the weights of round 1 were deleted" in said and "store.keep=all" in said
    assert "save_pretrained" not in said
    with pytest.raises(StoreError, match=r"the weights of round 2 were deleted.*store\.keep=all"):
        scpl.read(run).policy(2)  # type: ignore[union-attr]
    assert scpl.read(adapters).policy(2).name == "adapter"  # type: ignore[union-attr]


def test_a_prompt_that_is_cut_is_told(tmp_path: Path) -> None:
    run = trained(tmp_path / "cut")
    words = ["sample", str(run), "--number", "1", "generation.max_new_tokens=4", "--prompt"]
    for length, said in ((32, False), (33, True)):
        result = CliRunner().invoke(app, [*words, " ".join(["w3"] * length)])
        assert result.exit_code == 0, (result.output, result.exception)
        told = " ".join(result.output.split())
        assert ("has 33 tokens: its end was cut to task.max_prompt_tokens = 32, as in the run" in told) is said
