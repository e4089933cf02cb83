"""Plans for machines that are somewhere else: of the model there is its config alone, or nothing, and no Hub."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError
from transformers import Qwen2Config
from typer.testing import CliRunner

from jobs.cli import app
from scpl_ray.models import sources
from scpl_ray.storage import cache
from tests.docs.pages import DOCS, commands
from tests.support import maths_data, news_data, preference_data, real_data
from tests.support.model_cards import QWEN_1_5B, QWEN_7B

EIGHT, FOUR = "96cpu:1024gib:8gpu:80gib", "4x32cpu:256gib:1gpu:44gib"
ROWS: dict[str, tuple[Callable[[], list[dict[str, Any]]], list[str]]] = {
    "maths": (maths_data.rows, ["groups.names=[farm, shop]", "groups.shares=[0.6, 0.4]"]),
    "news": (news_data.rows, []),
    "preference": (
        preference_data.responses,
        ["groups.names=[academy, business, stage]", "groups.shares=[0.4, 0.3, 0.3]"],
    ),
}
"""By task: made-up rows, and overrides that make their groups the config's."""
HUB = "the Hugging Face Hub was not reached"


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder and cache, and no network."""

    def unreachable(*_: object, **__: object) -> None:
        raise OfflineModeIsEnabled("no connection")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)


def planned(config: str, *arguments: str, code: int = 0) -> str:
    """What a dry run of a shipped config prints, on one line, for made-up rows unless a file is given."""
    task = config.partition("_")[0]
    rows, groups = ROWS[task]
    if not any(argument.startswith("task.data=") for argument in arguments):
        news_data.write_jsonl(Path("rows.jsonl"), rows())
        arguments = ("task.data=rows.jsonl", *groups, "evaluation.prompts_per_group=3", *arguments)
    given = [config, "generation.engine=transformers", "evaluation.neutral_prompts=4", *arguments]
    result = CliRunner().invoke(app, ["run", *given, "--dry-run"])
    assert result.exit_code == code, (result.output, result.exception)
    assert not Path("cache").exists() and not Path("runs").exists()
    return " ".join(result.output.split())


def config_alone(card: dict[str, Any]) -> str:
    """The key of a folder that holds the config of a model and nothing else."""
    Qwen2Config(**card).save_pretrained("model")
    assert [path.name for path in Path("model").iterdir()] == ["config.json"]
    return "model.name=model"


def together(printed: str) -> tuple[float, float, float]:
    """GiB of the fullest host, and of a shared GPU while completions are written and while the worker trains.

    Each is printed as a sum behind its parts, and is checked here.
    """
    host = printed.split("the fullest host, ")[1].split(" a shared GPU")[0]
    counts = re.findall(r"(\d+) x (?:engine|scorer|training worker) ([\d.]+)", host)
    writing, training = printed.split("while completions are written ")[1].split("; while the worker trains ")
    sums = [sum(int(count) * float(gib) for count, gib in counts)]
    sums += [
        sum(map(float, re.findall(r"(?:engine|scorer|worker) ([\d.]+\d)", part.split(", together")[0])))
        for part in (writing, training)
    ]
    said = [float(re.search(r"together ([\d.]+\d)", part)[1]) for part in (host, writing, training)]  # type: ignore[index]
    assert said == pytest.approx(sums, abs=0.2)
    return said[0], said[1], said[2]


@pytest.mark.parametrize("task", ROWS)
def test_a_config_of_seven_billion_for_eight_gpus(task: str) -> None:
    printed = planned(f"{task}_qwen_7b", config_alone(QWEN_7B), "--cluster", EIGHT)
    assert printed.count("node 0: GPU 0, 1, 2, 3, 4, 5, 6, 7") == 3
    host, writing, training = together(printed)
    assert 100 < host < 1024 and 48 < writing < 80 and 15 < training < 80
    assert "disk: a round writes" in printed and "adapter 161 MB" in printed and "5 rounds are done" in printed
    for part in ("weights", "tokenizer"):
        assert f"the {part} of model.name = model (the folder holds none)" in printed
    assert "the lengths and numbers of its prompts were not checked" in printed


def test_what_a_cluster_can_grow_to_is_planned_for_without_its_address() -> None:
    grows = f"placement.cluster={EIGHT}"
    given = config_alone(QWEN_7B)
    printed = planned("news_qwen_7b", given, grows)
    assert printed == planned("news_qwen_7b", given, "--cluster", EIGHT)
    assert printed.count("node 0: GPU 0, 1, 2, 3, 4, 5, 6, 7") == 3


def test_a_run_of_a_cluster_that_grows_is_refused_without_its_address() -> None:
    result = CliRunner().invoke(app, ["run", f"placement.cluster={EIGHT}"])
    assert result.exit_code == 2 and not Path("runs").exists()
    assert result.output == (
        f"scpl: placement.cluster = '{EIGHT}': RAY_ADDRESS names no cluster that can grow to it; set RAY_ADDRESS, or "
        "run on this machine with placement.cluster=null; --dry-run plans for it without an address\n"
    )


@pytest.mark.parametrize("split", [1, 2])
def test_all_weights_of_seven_billion_for_eight_gpus(split: int) -> None:
    full = ["model.lora=null", "generation.refresh=reload", "training.zero_stage=3", "training.learning_rate=1e-5"]
    engines = ["generation.engine=vllm", f"generation.tensor_parallel={split}", f"generation.replicas={8 // split}"]
    printed = planned("maths_qwen_7b", config_alone(QWEN_7B), *full, *engines, "--cluster", EIGHT)
    assert "an engine, a scorer and a worker take turns on each GPU" in printed
    assert ("2 x 0.5" in printed and "GPU 0+1, 2+3, 4+5, 6+7" in printed) == (split == 2)
    host, writing, training = together(printed)
    assert host < 1024 and writing < 80 and training < 80
    assert "gathered weights" in printed and "whole weights 45.7 GB" in printed


def test_a_config_of_one_and_a_half_billion_for_four_small_nodes() -> None:
    """It is written for eight GPUs; on four the message says what to lower, and then it fits."""
    model = config_alone(QWEN_1_5B)
    refused = planned("news_qwen_1_5b", model, "--cluster", FOUR, code=2)
    way_out = r"there are 4; lower generation.replicas to 4, reward.replicas to 4 and training.workers to 4 or run on"
    assert re.search(way_out, refused) and "Traceback" not in refused
    numbers = [f"{key}=4" for key in ("generation.replicas", "reward.replicas", "training.workers")]
    printed = planned("news_qwen_1_5b", model, *numbers, "training.tokens_per_micro_batch=2048", "--cluster", FOUR)
    host, writing, training = together(printed)
    assert all(f"node {i}: GPU 0" in printed for i in range(4))
    assert host < 256 and writing < 44 and training < 44
    # what is served, and float32 weights to start from
    assert "whole weights 9.26 GB" in printed and "with store.keep=last the run holds" in printed


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        (
            "96cpu:768gib:8gpu:24gib",
            r"engine: holds about .* but the largest have 24; raise generation.t",
        ),
        ("96cpu:32gib:8gpu:80gib", r"engine 0 \+ scorer 0 .* asks for .* GiB, 1 GPUs .* on one node; left are"),
        ("96cpu:1024gib:4gpu:80gib", r"8 GPUs are asked for .* but there are 4; lower generation.replicas to 4, rew"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_way_out(cluster: str, said: str) -> None:
    refused = planned("maths_qwen_7b", config_alone(QWEN_7B), "--cluster", cluster, code=2)
    assert refused.startswith("scpl: ") and re.search(said, refused), refused


def test_without_the_hub_a_plan_says_what_it_could_not_check() -> None:
    printed = planned("news_qwen_7b", "--cluster", EIGHT)
    assert printed.count("node 0: GPU 0, 1, 2, 3, 4, 5, 6, 7") == 3, "processes are placed by CPUs and GPUs alone"
    assert "memory: unknown until the model's config is here; a folder with its config.json is enough" in printed
    assert "disk: unknown" in printed and "evaluation 804 completions" not in printed
    missed = "model.name = Qwen/Qwen2.5-7B-Instruct: its config, weights and tokenizer"
    assert printed.count(missed) == 1 and f"{missed} ({HUB}: no connection)" in printed
    assert "nothing was started, made or downloaded" in printed
    assert "8 GPUs are asked for" in planned("news_qwen_7b", "--cluster", FOUR, code=2)


def test_on_the_machine_that_would_run_what_is_missing_is_refused() -> None:
    refused = planned("news_qwen_7b", code=2)
    assert "'Qwen/Qwen2.5-7B-Instruct' is no folder here and could not be had" in refused
    assert "model.name: model holds no weights" in planned("news_qwen_7b", config_alone(QWEN_7B), code=2)


def test_what_is_wrong_anywhere_is_refused_for_other_machines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = config_alone(QWEN_7B)
    Path("model/pytorch_model.bin").write_bytes(b"x")
    assert "model holds only pytorch_model.bin" in planned("news_qwen_7b", model, "--cluster", EIGHT, code=2)
    Path("model/pytorch_model.bin").unlink()
    longer = ["task.max_prompt_tokens=32768", "training.tokens_per_micro_batch=32896"]
    assert "= 32896: model has 32768 pos" in planned("news_qwen_7b", model, *longer, "--cluster", EIGHT, code=2)
    assert "no row" in planned("news_qwen_7b", model, "task.where=nothing == 'x'", "--cluster", EIGHT, code=2)

    def unknown(*_: object, **__: object) -> None:
        import httpx2

        request = httpx2.Request("GET", "https://huggingface.co")
        raise RepositoryNotFoundError("404", response=httpx2.Response(404, request=request))

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unknown)
    refused = planned("news_qwen_7b", "model.name=nobody/nothing", "--cluster", EIGHT, code=2)
    assert "'nobody/nothing' is no folder here and could not be had from the Hugging Face Hub (404" in refused


def test_outside_of_a_plan_for_other_machines_nothing_is_let_pass() -> None:
    assert not cache.may_be_elsewhere("weights", "none")
    with cache.planned() as here:
        assert not cache.may_be_elsewhere("weights", "none") and here.unchecked == {}
    with cache.planned(elsewhere=True) as there:
        assert cache.may_be_elsewhere("weights", "none") and cache.may_be_elsewhere("weights", "again")
    assert there.unchecked == {"weights": "none"}
    config_alone(QWEN_7B)
    with pytest.raises(ValueError, match="model holds no weights"):
        sources.checked(Path("model"), "model.name", "model", trust_remote_code=False)


@pytest.mark.parametrize(
    ("config", "file"),
    [
        pytest.param("news_qwen_7b", "news_articles.jsonl", marks=pytest.mark.long),
        ("maths_qwen_7b", "math_arith_word_problems.jsonl"),
        ("preference_qwen_7b", "pref_dsp_domains.jsonl"),
    ],
)
def test_the_shipped_configs_plan_published_data(config: str, file: str) -> None:
    data = real_data.path(f"data/{file}")
    keys = ["evaluation.prompts_per_group=200", "evaluation.neutral_prompts=400"]
    printed = planned(config, f"task.data={data}", config_alone(QWEN_7B), *keys, "--cluster", EIGHT)
    assert together(printed)[2] < 80 and "disk: a round writes" in printed


def test_a_study_of_seven_billion_says_its_bytes_without_a_gpu_or_the_model() -> None:
    """Ten seeds of two arms, five rounds of an adapter each."""
    news_data.write_jsonl(Path("rows.jsonl"), news_data.rows())
    keys = [
        "size=qwen_7b",
        "arms=[static, replicator]",
        "task.data=rows.jsonl",
        config_alone(QWEN_7B),
        "generation.engine=transformers",
    ]
    keys += ["evaluation.prompts_per_group=3", "evaluation.neutral_prompts=4"]
    result = CliRunner().invoke(app, ["sweep", "paper_news", *keys, "--dry-run", "--cluster", EIGHT])
    printed = " ".join(result.output.split())
    assert result.exit_code == 0, printed
    held = re.search(r"disk: 20 runs hold ([\d.]+) GB at most when they are done", printed)
    assert held is not None and 16 < float(held[1]) < 40, printed
    for part in ("weights", "tokenizer"):
        assert re.search(rf"the {part} of model.name = \S*model \(the folder holds none\)", printed)
    refused = CliRunner().invoke(app, ["sweep", "paper_news", *keys, "--cluster", EIGHT])
    assert refused.exit_code == 2 and "describes a cluster for --dry-run" in refused.output


def test_the_command_of_the_page_plans_raw_gsm8k_with_a_column_of_groups() -> None:
    (command,) = (words for words in commands(DOCS / "tasks-and-data.md") if "task.answer_format=gsm8k" in words)
    program, run, config, *keys = command
    assert (program, run, config) == ("scpl", "run", "maths_tiny")
    numbers = list(itertools.product(range(2, 28), repeat=2))
    rows = [
        {
            "question": f"{name} has {a} hens and buys {b} more. How many hens are there now?",
            "answer": f"There are {a}+{b}=<<{a}+{b}={a + b}>>{a + b} hens.\n#### {a + b}",
            "level": level,
        }
        for level, name in (("easy", "Ada"), ("hard", "Ben"))
        for a, b in numbers
    ]
    news_data.write_jsonl(Path("problems.jsonl"), rows)
    result = CliRunner().invoke(app, ["run", config, "--dry-run", "generation.engine=transformers", *keys])
    assert result.exit_code == 0 and "nothing was started" in result.output, (result.output, result.exception)
