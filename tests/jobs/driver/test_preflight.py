"""What a plan finds out before anything starts: a row per fault, with the message; and nothing is made."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from transformers import BloomConfig, LlamaConfig, MambaConfig, MptConfig, T5Config
from typer.testing import CliRunner

from actors.engines.vllm import CPU_HEAD_WIDTHS
from actors.placement.cluster import Cluster, Node
from jobs.cli import app
from jobs.driver import run
from scpl_ray.models import limits
from tests.support import news_data, preference_data
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
MODEL = ("model.name=model", "task.max_prompt_tokens=32", "generation.engine=transformers")
CUSTOM = "feedback.rule=custom"


def changed(folder: Path, **values: object) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **values}))


def with_config(config: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "config.json").unlink()
        config.save_pretrained(folder)  # type: ignore[attr-defined]

    return make


def more_words(folder: Path) -> None:
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["late"] = 200
    path.write_text(json.dumps(values))


def no_end(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))


def as_it_is(folder: Path) -> None:
    pass


FAULTS: dict[str, tuple[list[str], Callable[[Path], None], list[str]]] = {
    "a sequence that no micro-batch takes": (
        ["training.tokens_per_micro_batch=80"],
        as_it_is,
        ["a sequence may have 88 tokens (64 of a prompt and 24 of a completion)", "raise it to at least 88"],
    ),
    "a pair that no micro-batch takes": (
        ["training.tokens_per_micro_batch=100", "training.objective=dpo"],
        as_it_is,
        ["a pair of sequences may have 176 tokens", "raise it to at least 176"],
    ),
    "more tokens than the tiny model has positions": (
        ["generation.max_new_tokens=65"],
        as_it_is,
        ["task.max_prompt_tokens + generation.max_new_tokens = 64 + 65 = 129: the tiny model has 128 positions"],
    ),
    "more tokens than a model has positions": (
        [*MODEL, "generation.max_new_tokens=97"],
        as_it_is,
        ["= 32 + 97 = 129: model has 128 positions; lower one of the two"],
    ),
    "positions under MPT's name": (
        [*MODEL, "generation.max_new_tokens=97"],
        with_config(MptConfig(d_model=64, n_heads=2, n_layers=2, vocab_size=200, max_seq_len=128)),
        ["= 129: model has 128 positions"],
    ),
    "a Bloom without a length": (
        [*MODEL],
        with_config(BloomConfig(hidden_size=64, n_layer=2, n_head=2, vocab_size=200)),
        ["the config of model does not say how long a sequence may be; write max_position_embeddings (at least 56"],
    ),
    "a model without attention": (
        [*MODEL],
        with_config(MambaConfig(hidden_size=64, num_hidden_layers=2, vocab_size=200)),
        ["model (mamba) has no attention heads", "choose a model with attention"],
    ),
    "an encoder with a decoder": (
        [*MODEL],
        with_config(T5Config(d_model=64, num_layers=2, vocab_size=200)),
        ["model (t5) is an encoder with a decoder; choose a model that continues text"],
    ),
    "a tokenizer of another model": (
        [*MODEL],
        more_words,
        ["the tokenizer of model gives ids up to 200, but its model has embeddings for 200 (ids up to 199)"],
    ),
    "a tokenizer without an end": ([*MODEL], no_end, ["the tokenizer of model has no eos_token"]),
    "heads that vLLM has not on a CPU": (
        ["model.name=model", "generation.engine=vllm"],
        lambda folder: changed(folder, head_dim=48),
        ["heads of 48 dimensions, and on a CPU vLLM serves 32, 64, 80,", "set generation.engine=transformers"],
    ),
    "an adapter that vLLM does not serve": (
        ["model.name=model", "generation.engine=vllm", "generation.refresh=adapter", "model.lora.rank=600"],
        as_it_is,
        ["model.lora.rank = 600: vLLM serves ranks up to 512"],
    ),
    "a reward model without weights": (
        ["reward.model=model"],
        lambda folder: (folder / "model.safetensors").unlink(),
        ["reward.model: model holds no weights"],
    ),
    "a reward model without a tokenizer": (
        ["reward.model=model"],
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")] and None,
        ["reward.model: model has no tokenizer"],
    ),
    "a reward model with other outputs": (["reward.model=model"], as_it_is, ["reward.model: model has 2 outputs"]),
    "a rule that takes too little": (
        [CUSTOM, "feedback.function=p15_rules:short"],
        as_it_is,
        ["failed when it was tried with shares [0.6, 0.4]: TypeError", "function(shares, measured, *, initial_shares"],
    ),
    "a rule whose shares are none": (
        [CUSTOM, "feedback.function=p15_rules:wrong"],
        as_it_is,
        ["feedback.function: what p15_rules:wrong returned: [0.5, 0.9] sums to 1.4"],
    ),
    "a rule that fails": ([CUSTOM, "feedback.function=p15_rules:broken"], as_it_is, ["KeyError: 'north'"]),
    "a rule that returns nothing": (
        [CUSTOM, "feedback.function=p15_rules:nothing"],
        as_it_is,
        ["feedback.function: ", "p15_rules:nothing"],
    ),
    "a model that nobody has": (
        ["model.name=nobody/nothing"],
        as_it_is,
        ["'nobody/nothing' is no folder here and could not be had from the Hugging Face Hub"],
    ),
    "a reward model that nobody has": (
        ["reward.model=nobody/nothing"],
        as_it_is,
        ["reward.model: 'nobody/nothing' is no folder here"],
    ),
    "several at once": (
        ["training.tokens_per_micro_batch=80", "generation.max_new_tokens=65", "reward.model=nobody/nothing"],
        as_it_is,
        ["raise it to at least 129", "the tiny model has 128 positions", "reward.model: 'nobody/nothing'"],
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "model", "llama")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with rules of the user's, and an empty cache beside it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "work/p15_rules.py").write_text(RULES)
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
    output = planned(CUSTOM, "feedback.function=p15_rules:good")
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
