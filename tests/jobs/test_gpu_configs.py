"""The configs for GPUs: a CPU config's experiment at another size, planned for 8 GPUs."""

import json
import re
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
from tests.support.model_cards import QWEN_1_5B, QWEN_7B
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


def planned(tmp_path: Path, config: str, cluster: str, *overrides: str) -> str:
    """What a dry run of a shipped maths config prints for a cluster; of the model there is its config alone."""
    folder = save_model(tmp_path / "model", "qwen2", hidden=32)
    (folder / "config.json").write_text(json.dumps(QWEN_1_5B if "1_5b" in config else QWEN_7B))
    data = news_data.write_jsonl(tmp_path / "rows.jsonl", maths_data.rows())
    experiment = experiments.load(
        CONFIGS[config],
        [
            *(f"task.data={data}", f"model.name={folder}", "evaluation.prompts_per_group=3"),
            *("evaluation.neutral_prompts=4", "generation.engine=transformers", *DATA["maths"][1], *overrides),
        ],
    )
    nodes = described(cluster)
    task, placed = run.plan(experiment, nodes)
    console = Console(record=True, width=160)
    print_plan(console, experiment, task, placed, run.planned_disk(experiment, task, nodes))
    return " ".join(console.export_text().split())


EIGHT = "96cpu:1024gib:8gpu:80gib"


def sums(printed: str) -> tuple[float, float]:
    """GiB of a shared GPU, while completions are written and while the worker trains."""
    writing, training = printed.split("while completions are written ")[1].split("while the worker trains ")

    def total(text: str) -> float:
        return sum(float(number) for number in re.findall(r"(?:engine|scorer|worker) ([0-9.]+[0-9])", text))

    return total(writing), total(training.split(" disk")[0].split("each of")[0])


def test_the_configs_of_seven_billion_are_colocated_on_eight_gpus(tmp_path: Path) -> None:
    printed = planned(tmp_path, "maths_qwen_7b", EIGHT)
    assert "an engine, a scorer and a worker take turns on each GPU" in printed
    assert printed.count("node 0: GPU 0, 1, 2, 3, 4, 5, 6, 7") == 3
    assert all(0 < gib < 80 for gib in sums(printed)), sums(printed)
    assert "disk: a round writes" in printed and "with store.keep=last the run holds" in printed


def test_all_weights_of_seven_billion_fit_eight_gpus(tmp_path: Path) -> None:
    full = ["model.lora=null", "generation.refresh=reload", "training.zero_stage=3", "training.learning_rate=1e-5"]
    printed = planned(tmp_path, "maths_qwen_7b", EIGHT, *full)
    assert all(0 < gib < 80 for gib in sums(printed)), sums(printed)
    # 15.2 GB that are served and 30.5 GB that the next round starts from; of two rounds while one is evaluated
    assert "whole weights 45.7 GB" in printed and "when its 5 rounds are done" in printed
    held = float(printed.split("the run holds ")[1].split(" GB while it works")[0])
    left = float(printed.split("while it works and ")[1].split(" GB when")[0])
    assert 91 < held < 93 and 45 < left < 47


def test_four_small_nodes_take_four_of_each_of_a_model_of_1_5_billion(tmp_path: Path) -> None:
    nodes = "4x32cpu:256gib:1gpu:44gib"
    with pytest.raises(PlacementError, match=r"8 GPUs are asked for .* but there are 4; lower .* to 4"):
        planned(tmp_path, "maths_qwen_1_5b", nodes)
    numbers = [f"{key}=4" for key in ("generation.replicas", "reward.replicas", "training.workers")]
    printed = planned(tmp_path, "maths_qwen_1_5b", nodes, *numbers, "training.tokens_per_micro_batch=2048")
    assert all(f"node {i}: GPU 0" in printed for i in range(4))
    assert all(0 < gib < 44 for gib in sums(printed)), sums(printed)
    assert "disk: a round writes" in printed


def test_what_does_not_fit_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(PlacementError, match=r"engine: holds about .* but the largest have 24; raise generation.t"):
        planned(tmp_path, "maths_qwen_7b", "96cpu:768gib:8gpu:24gib")
    with pytest.raises(PlacementError, match=r"engine 0 \+ scorer 0 .* asks for .* GiB, 1 GPUs .* on one node; left"):
        planned(tmp_path, "maths_qwen_7b", "96cpu:32gib:8gpu:80gib")


def test_where_a_cluster_is_to_be_asked_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    experiment = experiments.load(None, ["generation.engine=transformers", "training.workers=64"])
    task, placed = run.plan(experiment)
    assert placed is None
    console = Console(record=True, width=160)
    print_plan(console, experiment, task, placed)
    assert "placed when the run has asked the cluster of RAY_ADDRESS" in console.export_text()
