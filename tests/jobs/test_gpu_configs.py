"""The configs for GPUs: a CPU config's experiment at another size, planned for 8 GPUs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from actors.placement.cluster import described
from actors.placement.layout import PlacementError
from jobs.configs import CONFIGS
from jobs.driver import experiments, run
from jobs.terminal.plan import print_plan
from scpl_ray.config import loading
from scpl_ray.tasks.preference import judge
from tests.support import maths_data, news_data, preference_data
from tests.support.model_cards import QWEN_7B
from tests.support.tiny_models import save_model

GPU_CONFIGS = [name for name in CONFIGS if "_qwen_" in name]
SIZES = {
    *("name", "loop.rounds", "queries.prompts_per_round"),
    *("model.name", "model.revision", "model.lora", "model.dtype"),
    *("generation.replicas", "generation.max_new_tokens", "generation.refresh"),
    *("reward.replicas", "reward.tokens_per_batch"),
    *("training.workers", "training.zero_stage", "training.learning_rate", "training.worker_lifetime"),
    *("training.tokens_per_step", "training.tokens_per_micro_batch"),
    *("evaluation.prompts_per_group", "evaluation.neutral_prompts"),
}
"""Keys in which a GPU config may differ from its CPU config."""
DATA: dict[str, tuple[Callable[[], list[dict[str, Any]]], list[str]]] = {
    "maths": (maths_data.rows, ["groups.names=[farm, shop]", "groups.shares=[0.6, 0.4]"]),
    "news": (news_data.rows, []),
    "preference": (
        preference_data.responses,
        [
            "groups.names=[academy, business, stage]",
            "groups.shares=[0.4, 0.3, 0.3]",
            "task.judge_model={model}",
        ],
    ),
}
"""By task: made-up rows, and overrides that make them the config's; ``{model}`` stands for a tiny model's folder."""


def flat(name: str) -> dict[str, Any]:
    values = yaml.safe_load(loading.dump(experiments.load(CONFIGS[name])))
    sections = {key: value for key, value in values.items() if isinstance(value, dict)}
    top = {key: value for key, value in values.items() if key not in sections}
    return top | {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}


def test_there_is_one_per_task_and_size() -> None:
    assert {f"{task}_qwen_{size}" for task in DATA for size in ("1_5b", "7b")} == set(GPU_CONFIGS)


@pytest.mark.parametrize("name", GPU_CONFIGS)
def test_everything_but_the_sizes_is_the_cpu_configs(name: str) -> None:
    gpu, cpu = flat(name), flat(f"{name.partition('_')[0]}_smollm2")
    assert {key for key in gpu if gpu[key] != cpu[key]} <= SIZES
    assert gpu["loop.rounds"] == 5 and gpu["generation.samples_per_prompt"] == 4
    assert gpu["training.worker_lifetime"] == "round"
    assert len(gpu["model.revision"]) == 40


@pytest.mark.parametrize("name", GPU_CONFIGS)
def test_a_dry_run_for_eight_gpus_prints_the_plan(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the model nothing but its tokenizer is read, so a tiny one stands in for it."""
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(judge, "FROZEN_LAYERS", 0)
    monkeypatch.setattr(judge, "STEPS", 5)
    rows, overrides = DATA[name.partition("_")[0]]
    data = news_data.write_jsonl(tmp_path / "rows.jsonl", rows())
    folder = save_model(tmp_path / "model", "qwen2", hidden=32)
    experiment = experiments.load(
        CONFIGS[name],
        [
            *(f"task.data={data}", f"model.name={folder}", "evaluation.prompts_per_group=3"),
            *("evaluation.neutral_prompts=4", "generation.max_new_tokens=16", "generation.engine=transformers"),
            *(override.format(model=folder) for override in overrides),
        ],
    )
    task, placed = run.plan(experiment, described("64cpu:512gib:8gpu:80gib"))
    assert placed is not None
    assert sum(role.count * role.gpus for role in placed.roles) == pytest.approx(8)
    assert all(role.gpus > 0 for role in placed.roles)
    console = Console(record=True, width=160)
    print_plan(console, experiment, task, placed)
    printed = console.export_text()
    trained = "all weights" if experiment.model.lora is None else "LoRA rank 16"
    for text in ("8,192 completions by transformers", f"from the last policy; {trained}", "nothing was started"):
        assert text in printed


def test_a_model_of_seven_billion_is_planned_from_its_config(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "qwen2", hidden=32)
    (folder / "config.json").write_text(json.dumps(QWEN_7B))
    data = news_data.write_jsonl(tmp_path / "rows.jsonl", maths_data.rows())
    overrides = [
        *(f"task.data={data}", f"model.name={folder}", "evaluation.prompts_per_group=3"),
        *("evaluation.neutral_prompts=4", "generation.engine=transformers", *DATA["maths"][1]),
    ]
    experiment = experiments.load(CONFIGS["maths_qwen_7b"], overrides)
    task, placed = run.plan(experiment, described("0cpu:32gib,96cpu:768gib:8gpu:80gib"))
    console = Console(record=True, width=160)
    print_plan(console, experiment, task, placed)
    printed = console.export_text()
    for text in (
        "each with GPUs of its own",
        "node 1: GPU 0, 1, 2, 3",
        "weights 14.26",
        "each GPU of 80",
        "a host of 768",
    ):
        assert text in printed
    one_each = ["generation.replicas=1", "training.workers=1", "placement.gpus=colocated"]
    shared = experiments.load(CONFIGS["maths_qwen_7b"], [*overrides, *one_each])
    task, placed = run.plan(shared, described("96cpu:768gib:1gpu:80gib"))
    print_plan(console, shared, task, placed)
    printed = console.export_text()
    assert "a shared GPU of 80 GiB: while completions are written engine 48.00 (0.6 of it), scorer" in printed
    with pytest.raises(
        PlacementError, match=r"training worker: holds about 3\d.\d GiB .* but the largest have 24; train an"
    ):
        run.plan(experiment, described("96cpu:768gib:8gpu:24gib"))


def test_where_a_cluster_is_to_be_asked_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    experiment = experiments.load(None, ["generation.engine=transformers", "training.workers=64"])
    task, placed = run.plan(experiment)
    assert placed is None
    console = Console(record=True, width=160)
    print_plan(console, experiment, task, placed)
    assert "placed when the run has asked the cluster of RAY_ADDRESS" in console.export_text()
