"""What a plan finds out before anything starts: a row per fault, with the message; and nothing is made."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from transformers import BloomConfig, LlamaConfig, MambaConfig, MptConfig
from typer.testing import CliRunner

from actors.engines.vllm import CPU_HEAD_WIDTHS
from actors.placement.cluster import Cluster, Node
from jobs.cli import app
from jobs.driver import run
from scpl_ray.models import limits
from tests.support import news_data, preference_data
from tests.support.plan_faults import CUSTOM, FAULTS
from tests.support.tiny_models import save_model

RULES = """
def short(shares, measured):
    return shares


def wrong(shares, measured, *, initial_shares, round_, seed):
    return [0.5, 0.9]


def broken(shares, measured, *, initial_shares, round_, seed):
    raise KeyError("north")


def nothing(shares, measured, *, initial_shares, round_, seed):
    pass


def good(shares, measured, *, initial_shares, round_, seed):
    return shares
"""
STUDY = "name: s\nseeds: 1\narms: {a: {}, b: {}}\nclaims: [{name: c, contrast: {a: 1, b: -1}, %s}]\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "model", "llama")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with rules of the user's, and an empty cache beside it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "work/own_rules.py").write_text(RULES)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path / "work"))
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(run, "local_cluster", lambda: Cluster((Node("this machine", 2, 24.0),)))
    return tmp_path / "work"


def planned(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["run", "--dry-run", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.mark.parametrize("name", FAULTS)
def test_a_plan_finds_it_and_says_what_to_do(name: str, folder: Path, model: Path) -> None:
    arguments, make, said = FAULTS[name]
    shutil.copytree(model, folder / "model")
    make(folder / "model")
    output = planned(*arguments, code=2)
    for text in said:
        assert text in output
    assert "Traceback" not in output and output.startswith("scpl: ")
    assert list((folder.parent / "cache").iterdir()) == []


def test_a_plan_without_faults_makes_nothing(folder: Path) -> None:
    output = planned(CUSTOM, "feedback.function=own_rules:good")
    assert "a run would make first" in output and "tiny base model: minutes" in output
    assert list((folder.parent / "cache").iterdir()) == [] and not (folder / "runs").exists()


def test_what_takes_minutes_is_listed_and_not_made(folder: Path, model: Path) -> None:
    news_data.write_jsonl(folder / "d.jsonl", news_data.rows(words=60))
    sizes = ("evaluation.prompts_per_group=3", "evaluation.neutral_prompts=4", "task.max_prompt_tokens=256")
    news = (
        "task.name=news",
        "groups.names=[left, right]",
        "task.data=d.jsonl",
        "generation.engine=transformers",
        *sizes,
    )
    output = planned(*news, "generation.max_new_tokens=16", "reward.terms={length: 1.0}")
    for text in ("kind-judge: seconds", "tokenizer: seconds", "tiny base model: minutes", "nothing was started"):
        assert text in output
    preference_data.write_jsonl(folder / "p.jsonl", preference_data.responses())
    output = planned(
        *("task.name=preference", "groups.names=[academy, business]", "task.data=p.jsonl", f"task.judge_model={model}"),
        *("generation.engine=transformers", "generation.max_new_tokens=16", *sizes),
    )
    for text in ("preference-judge: minutes", "were not checked", "nothing was started, made or downloaded"):
        assert text in output
    assert list((folder.parent / "cache").iterdir()) == []


class Hub:
    """The Hub's metadata of one model."""

    files: tuple[tuple[str, int], ...] = ()

    def model_info(self, name: str, **_: object) -> object:
        siblings = [type("File", (), {"rfilename": file, "size": size})() for file, size in self.files]
        return type("Info", (), {"siblings": siblings})()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([("pytorch_model.bin", 9)], "nobody/nothing has no config.json on the Hub"),
        ([("config.json", 1), ("pytorch_model.bin", 9)], "has no safetensors on the Hub"),
        ([("config.json", 1), ("model.safetensors", 9)], "has no tokenizer on the Hub"),
        ([("config.json", 1), ("model.safetensors", 3_100_000_000), ("tokenizer.json", 1)], "a download of 3.1 GB"),
    ],
)
def test_the_hub_is_asked_for_its_metadata_only(
    files: list[tuple[str, int]], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub()
    hub.files = tuple(files)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert said in planned("model.name=nobody/nothing", code=0 if "download" in said else 2)


@pytest.mark.parametrize("held", [(), ("model-1-of-2.safetensors",)])
def test_a_download_is_told_as_long_as_weights_are_missing(
    held: tuple[str, ...], folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small files are in the Hub's cache once a tokenizer was asked for; a download that broke off leaves shards."""
    snapshot = folder.parent / "hub/models--nobody--nothing/snapshots/abc"
    shutil.copytree(model, snapshot, ignore=shutil.ignore_patterns("*.safetensors"))
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("abc")
    shards = {"model-1-of-2.safetensors": 1_000_000_000, "model-2-of-2.safetensors": 2_000_000_000}
    index = json.dumps({"weight_map": {name: name for name in shards}})
    (snapshot / "model.safetensors.index.json").write_text(index)
    for name in held:
        (snapshot / name).write_bytes(b"")
    hub = Hub()
    hub.files = (*((path.name, 1) for path in snapshot.iterdir() if path.suffix == ".json"), *shards.items())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder.parent / "hub"))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    keys = ("model.name=nobody/nothing", "task.max_prompt_tokens=32", "generation.engine=transformers")
    assert f"a download of {2.0 if held else 3.0} GB" in planned(*keys)
    hub.files = tuple((name, size) for name, size in hub.files if name not in shards)
    assert "has no safetensors on the Hub" in planned(*keys, code=2)
    for name in shards:
        (snapshot / name).write_bytes(b"")
    assert "a download" not in planned(*keys)


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ("metric: disparate_gapp", "no metric of this name; the nearest is disparate_gap"),
        ("metric: quality, group: east", "group = 'east': arm a has north, south"),
        ("metric: disparate_gap, group: north", "is measured over all groups only; leave group = 'north' out"),
        ("metric: share", "is measured per group only; give the claim a group"),
    ],
)
def test_the_metric_of_a_claim_is_looked_up(claim: str, said: str, folder: Path) -> None:
    (folder / "s.yaml").write_text(STUDY % claim)
    result = CliRunner().invoke(app, ["sweep", "s.yaml", "--dry-run"])
    assert result.exit_code == 2 and said in result.output


def test_positions_go_by_several_names() -> None:
    assert limits.positions(LlamaConfig(max_position_embeddings=77)) == 77
    assert limits.positions(MptConfig(max_seq_len=78)) == 78
    assert limits.positions(BloomConfig(seq_length=79)) == 79
    assert limits.positions(MambaConfig()) is None


def test_the_head_sizes_are_those_of_the_installed_vllm() -> None:
    import importlib.util

    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("vLLM is not installed")
    source = (Path(spec.submodule_search_locations[0]) / "v1/attention/backends/cpu_attn.py").read_text()
    assert f"return {list(CPU_HEAD_WIDTHS)}" in source
