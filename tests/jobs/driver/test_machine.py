"""What a run notes of its machine and model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from jobs.driver import experiments, machine
from scpl_ray.models.adapters import add_adapter
from tests.support import tiny_models


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("model name\t: AMD EPYC\nflags\t: sse avx2\n", "AMD EPYC, 2 cores, AVX2, no bfloat16 units"),
        ("model name : Xeon\nflags : avx2 avx512f amx_bf16\n", "Xeon, 2 cores, AVX-512, bfloat16 units"),
    ],
)  # fmt: skip
def test_the_kind_of_a_machine_in_words(said: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    (tmp_path / "cpuinfo").write_text(said)
    assert machine.kind(tmp_path / "cpuinfo") == words
    assert "2 cores" in machine.kind(tmp_path / "absent")


def test_peaks_are_measured_quickly_and_leave_the_threads_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(machine, "BUDGET_S", 0.05)
    threads = torch.get_num_threads()
    found = machine.measured(experiments.load(None))
    if torch.cuda.device_count():
        assert found is None
        return
    assert found is not None and found.operations_per_s > 1e8 and found.bytes_per_s > 1e8
    assert torch.get_num_threads() == threads
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert machine.measured(experiments.load(None)) is None


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_sizes_are_those_of_the_loaded_model(family: str, tmp_path: Path) -> None:
    folder = tiny_models.save_model(tmp_path / family, family)
    model = AutoModelForCausalLM.from_pretrained(folder)
    experiment = experiments.load(None, ["model.lora={rank: 4, alpha: 8.0}"])
    found = machine.size(folder, experiment)
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name}
    matrices = {
        name: n for name, n in matrices.items() if not name.endswith(("wte.weight", "wpe.weight", "lm_head.weight"))
    }
    assert found.body == sum(matrices.values())
    assert found.head == 64 * tiny_models.VOCABULARY and (found.layers, found.attention_width) == (2, 64)
    lora = experiment.model.lora
    assert lora is not None
    assert found.adapter == sum(p.numel() for p in add_adapter(model, lora).parameters() if p.requires_grad)
    whole = machine.size(folder, experiments.load(None, ["model.lora=null"]))
    assert whole.adapter == 0 and whole.body == found.body
