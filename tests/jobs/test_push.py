"""``scpl push``: what would be uploaded of a policy, its card, and what is refused; nothing reaches a network."""

import dataclasses
import json
import shutil
import types
from pathlib import Path

import pytest
import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete
from peft import PeftConfig
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner

from jobs import push as job
from jobs.cli import app
from scpl_ray.models.adapters import load_model
from scpl_ray.storage import manifests
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import sha256
from scpl_ray.storage.run_directory import Reader
from tests.support.finished_runs import finished
from tests.support.loops import small
from tests.support.tiny_models import save_adapter, save_model

HUB_BASE = "owner/base-model"
COMMIT = "https://huggingface.co/me/policy/commit/1"


class Uploads:
    """A hub that keeps what it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[tuple[str, str]] = []

    def upload(self, folder: Path, repo: str, message: str, *, public: bool) -> str:
        shutil.copytree(folder, self.folder)
        self.said.append((repo, message))
        return f"https://hub.invalid/{repo}"


def with_adapter(run: Path, adapter: Path, round_: int) -> None:
    """Put an adapter into the weights of a round that fakes trained, as a real trainer would have."""
    folder = run / manifests.phase_folder(round_, "weights")
    shutil.rmtree(folder / "model")
    shutil.copytree(adapter, folder / "adapter")
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted((folder / "adapter").iterdir())
    }
    found = manifests.read(run, round_, "weights")
    assert found is not None
    manifests.write(run, dataclasses.replace(found, files=files))


def scpl(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["push", *words])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("base") / "llama", "llama")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return save_adapter(base, base.parent / "adapter", seed=1)


def test_nothing_is_uploaded_without_yes_and_everything_is_shown(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", small("loop.rounds=2"))
    said = scpl(str(run), "--repo", "me/policy")
    assert "me/policy: round 2 of" in said and "a whole model" in said and "policy.json" in said
    assert "README.md" in said and " bytes" in said and "2 files, " in said
    assert "nothing was uploaded; add --yes" in said
    assert "What it is not for" in said and "| disparate gap |" in said and "| share, north |" in said
    assert str(tmp_path) not in said.partition("README.md:")[2], "a card names folders of this machine"
    assert "round 1 of" in scpl(str(run), "--repo", "me/policy", "--round", "1")


def test_with_yes_the_same_files_are_uploaded(tmp_path: Path, base: Path, adapter: Path) -> None:
    run = finished(tmp_path / "run", small("loop.rounds=2", f"model.name={HUB_BASE}", "model.revision=abc123"))
    with_adapter(run, adapter, 2)
    hub, console = Uploads(tmp_path / "up"), Console(record=True, width=200)
    job.push(run, "me/policy", None, console, yes=True, hub=hub)
    assert hub.said == [("me/policy", "Round 2 of quickstart, by scpl_ray")]
    assert "uploaded: https://hub.invalid/me/policy" in console.export_text()
    config = PeftConfig.from_pretrained(hub.folder)
    assert config.base_model_name_or_path == HUB_BASE and config.revision == "abc123"
    assert (hub.folder / "adapter_model.safetensors").read_bytes() == (
        adapter / "adapter_model.safetensors"
    ).read_bytes()
    card = (hub.folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == HUB_BASE and front["base_model_relation"] == "adapter"
    assert front["library_name"] == "peft" and sha256(adapter / "adapter_model.safetensors") in card
    assert "eprint" in card or "2601.05184" in card


def test_an_adapter_whose_base_is_on_no_hub_is_uploaded_as_a_whole_model(
    tmp_path: Path, base: Path, adapter: Path
) -> None:
    run = finished(tmp_path / "run", small("loop.rounds=1"))
    with_adapter(run, adapter, 1)
    hub = Uploads(tmp_path / "up")
    job.push(run, "me/policy", None, Console(record=True), yes=True, hub=hub)
    assert not (hub.folder / "adapter_config.json").exists()
    plain = load_file(base / "model.safetensors")
    merged = {
        name: p.detach() for name, p in load_model(hub.folder, plain["model.norm.weight"].dtype).named_parameters()
    }
    moved = [name for name, tensor in merged.items() if name in plain and not tensor.equal(plain[name])]
    assert moved and all(part in name for name in moved for part in ("layers", "proj"))
    assert (hub.folder / "tokenizer.json").is_file()


def test_files_that_are_links_or_were_changed_are_not_uploaded(tmp_path: Path, adapter: Path) -> None:
    run = finished(tmp_path / "run", small("loop.rounds=1", f"model.name={HUB_BASE}"))
    with_adapter(run, adapter, 1)
    secret = tmp_path / "secret"
    secret.write_text("s")
    file = run / "rounds/001/weights/adapter/README.md"
    file.unlink(missing_ok=True)
    found = manifests.read(run, 1, "weights")
    assert found is not None
    files = {**found.files, "adapter/README.md": {"bytes": 1, "sha256": sha256(secret)}}
    manifests.write(run, dataclasses.replace(found, files=files))
    file.symlink_to(secret)
    with pytest.raises(StoreError, match=r"adapter/README\.md"):
        job.push(run, "me/policy", None, Console(), yes=True, hub=Uploads(tmp_path / "up"))
    file.unlink()
    file.write_text("t")
    with pytest.raises(StoreError, match="SHA-256 differs"):
        job.push(run, "me/policy", None, Console(), yes=True, hub=Uploads(tmp_path / "up"))
    assert not (tmp_path / "up").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--repo", "policy"], "give OWNER/NAME"),
        (["--repo", "me/../x"], "give OWNER/NAME"),
        (["--repo", "me/policy", "--round", "0"], "round 0 is the base model"),
        (["--repo", "me/policy", "--round", "9"], "round 9 is not there; the run has the policies of rounds 1 to 1"),
    ],
)
def test_what_cannot_be_pushed_is_one_message(words: list[str], said: str, tmp_path: Path) -> None:
    run = finished(tmp_path / "run", small("loop.rounds=1"))
    assert said in " ".join(scpl(str(run), *words, code=2).split())
    assert "not a run directory" in scpl(str(tmp_path), *words[:2], code=2) or "OWNER" in said


def test_weights_that_are_gone_and_a_hub_that_refuses_are_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path / "run", small("loop.rounds=1"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = " ".join(scpl(str(run), "--repo", "me/policy", "--yes", code=2).split())
    assert "--repo me/policy: could not be uploaded" in said and "hf auth login" in said
    found = manifests.read(run, 1, "weights")
    assert found is not None
    manifests.write(run, dataclasses.replace(found, deleted=tuple(found.files)))
    said = " ".join(scpl(str(run), "--repo", "me/policy", code=2).split())
    assert "are not there any more" in said and "store.keep=all" in said


class Repository:
    """The Hub's side of one repository: what its client sends there, and nothing reaches a network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], *, private: bool) -> None:
        self.files, self.messages, self.private = files, list[str](), private
        monkeypatch.setattr("huggingface_hub.hf_api.is_xet_available", lambda: False)
        monkeypatch.setattr("huggingface_hub.HfApi._validate_yaml", lambda *_, **__: None)  # the Hub does it
        for name in ("create_repo", "repo_info", "list_repo_files", "create_commit"):
            monkeypatch.setattr(f"huggingface_hub.HfApi.{name}", getattr(self, name))

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> None:
        assert private and exist_ok, "that of one that exists is not touched"

    def repo_info(self, repo: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(private=self.private)

    def list_repo_files(self, **_: object) -> list[str]:
        return list(self.files)

    def create_commit(
        self, *, operations: list[CommitOperationAdd | CommitOperationDelete], commit_message: str, **_: object
    ) -> CommitInfo:
        for each in operations:
            if isinstance(each, CommitOperationDelete):
                del self.files[each.path_in_repo]
            elif isinstance(each, CommitOperationAdd):
                self.files[each.path_in_repo] = Path(str(each.path_or_fileobj)).read_text(errors="replace")
        self.messages.append(commit_message)
        return CommitInfo(COMMIT, commit_message, "", "oid")


def test_what_an_earlier_push_left_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = {".gitattributes": "lfs", "README.md": "old", "adapter_config.json": "{}", "deep/adapter.safetensors": ""}
    there = Repository(monkeypatch, earlier, private=True)
    (folder := tmp_path / "policy").mkdir()
    (folder / "README.md").write_text("new")
    (folder / "config.json").write_text("{}")
    said = job.HuggingFace().upload(folder, "me/policy", "Round 2", public=False)
    assert there.files == {".gitattributes": "lfs", "README.md": "new", "config.json": "{}"}
    assert (said, there.messages) == (COMMIT, ["Round 2"])


def test_a_repository_that_everybody_can_read_is_refused_unless_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path / "run", small("loop.rounds=1"))
    there = Repository(monkeypatch, {"mine.txt": "kept"}, private=False)
    said = " ".join(scpl(str(run), "--repo", "me/policy", "--yes", code=2).split())
    assert "--repo me/policy: everybody can read this repository" in said and "--public" in said
    assert there.files == {"mine.txt": "kept"} and "uploaded:" not in said
    shown = " ".join(scpl(str(run), "--repo", "me/policy").split())
    assert "which is made private if it is new" in shown and "are deleted there" in shown
    assert f"uploaded: {COMMIT}" in scpl(str(run), "--repo", "me/policy", "--yes", "--public")
    assert "README.md" in there.files and "mine.txt" not in there.files


def test_the_config_on_the_card_names_no_folder(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", small("loop.rounds=1", f"model.name={save_model(tmp_path / 'mine', 'llama')}"))
    card = scpl(str(run), "--repo", "me/policy").partition("README.md:")[2]
    assert "name: mine" in card and str(tmp_path) not in card
    assert json.loads((run / "run.json").read_text())["format"] == Reader(run).facts["format"]
