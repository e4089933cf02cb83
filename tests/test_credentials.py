"""Credentials: refused in configs, masked at every door, ordinary text untouched."""

import logging
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from jobs.cli import app
from jobs.driver import experiments, run
from jobs.terminal.display import Display, chatter_to
from scpl_ray import credentials
from scpl_ray.config import Experiment, loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.credentials import MASK, MaskedLog, copy_masked, held_by, mask

HF = "hf_" + "aB3" * 11
SECRETS = {
    HF: HF,
    f"token {HF}, which": HF,
    "sk-proj-" + "a1B2" * 6: "sk-proj-" + "a1B2" * 6,
    "id AKIAABCDEFGHIJ234567.": "AKIAABCDEFGHIJ234567",
    "ghp_" + "x9" * 18: "ghp_" + "x9" * 18,
    "Authorization: Bearer abc.def-123_456": "abc.def-123_456",
    "GET https://example.org/data?rows=3&api_key=s3cr3t&x=1": "s3cr3t",
    "https://example.org/d.jsonl?X-Amz-Signature=0a1b2c": "0a1b2c",
    "s3://me:hunter2@bucket/data": "hunter2",
    "pip: https://__token__:pass@example.org/simple": "pass@",
}


@pytest.mark.parametrize("text", SECRETS)
def test_what_looks_like_a_credential_is_masked(text: str) -> None:
    hidden = mask(text)
    assert SECRETS[text] not in hidden and MASK in hidden
    assert mask(hidden) == hidden


def test_what_stands_around_a_credential_stays() -> None:
    text = f"could not read https://me:hunter2@example.org/a?rows=3&token=abc&page=2 with {HF} (403)"
    assert mask(text) == "could not read https://***@example.org/a?rows=3&token=***&page=2 with *** (403)"


ORDINARY = [
    "round 3: 12.5 s, key = 3, 2,048 tokens; the token is 'word'",
    "the bearer of bad news, bearer responsibilities, Bearer authentication-scheme",
    "git@github.com:a/b.git and git+ssh://git@github.com/a/b, https://huggingface.co/gpt2?download=true",
    "http://127.0.0.1:8265/jobs, at 12:30:59 me@example.org",
    "hf_model_of_the_paper, sk-learn-like-classifier-of-text, task-classification-of-2026-data",
    "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "task.data=/data/key=3/part.parquet loop.rounds=3 AKIA ASIA",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert mask(text) == text


MARKS = re.compile(r"hf_|sk-|gh[oprsu]_|AKIA|ASIA|bearer|://|[?&]", re.IGNORECASE)


@settings(max_examples=50)
@given(st.text())
def test_text_without_a_mark_of_a_credential_is_never_changed(text: str) -> None:
    assume(not MARKS.search(text))
    assert mask(text) == text


@settings(max_examples=50)
@given(st.text(alphabet="abz019AKI:/@?&=_-. \nhfskBearer"))
def test_masking_twice_is_masking_once(text: str) -> None:
    assert mask(mask(text)) == mask(text)


def test_values_of_variables_that_say_they_are_secret() -> None:
    environment = {
        "HF_TOKEN": "the-hub-token",
        "WANDB_API_KEY": "the-hub-token-of-wandb",
        "MLFLOW_TRACKING_PASSWORD": "eightest",
        "DB_SECRET": "short",
        "TOKENIZERS_PARALLELISM": "definitely",
        "SSH_KEY_PATH": "/home/me/.ssh/id",
        "HOME": "/home/somebody",
    }
    assert held_by(environment) == ["the-hub-token-of-wandb", "the-hub-token", "eightest"]
    text = "the-hub-token-of-wandb the-hub-token eightest short definitely /home/me/.ssh/id"
    assert mask(text, held_by(environment)) == "*** *** *** short definitely /home/me/.ssh/id"


@pytest.mark.parametrize(
    "override",
    [
        "task.data=https://me:hunter2@example.org/data.jsonl",
        "model.name=https://example.org/model?token=hunter2",
        f"tracking.project={HF}",
        "task.fields={text: 'https://me:hunter2@example.org'}",
        f"groups.names=[{HF}, other]",
    ],
)
def test_a_config_with_a_credential_is_refused_without_repeating_it(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiments.build(loading.overlay({}, dict([loading.parse_override(override)])), "my.yaml")
    key = override.partition("=")[0]
    assert f"{key}" in str(caught.value) and "holds a credential" in str(caught.value)
    assert "HF_TOKEN" in str(caught.value) and not any(word in str(caught.value) for word in (HF, "hunter2"))
    said = CliRunner().invoke(app, ["run", override])
    assert said.exit_code == 2 and not any(word in said.output for word in (HF, "hunter2"))
    assert "holds a credential" in said.output


def test_a_mistyped_key_does_not_show_its_value() -> None:
    said = CliRunner().invoke(app, ["run", f"tracking.projekt={HF}", "loop.rounds=https://me:hunter2@example.org"])
    assert said.exit_code == 2 and "unknown key" in said.output
    assert HF not in said.output and "hunter2" not in said.output


def test_the_drivers_log_and_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "value-of-the-variable")
    root = logging.getLogger()
    handlers, level, filters = root.handlers[:], root.level, list(root.filters)
    (tmp_path / "screen.txt").touch()
    try:
        run.log_to(tmp_path / "driver.log", verbose=False)
        with (
            (tmp_path / "screen.txt").open("w") as screen,
            chatter_to(tmp_path / "output.log"),
            Display(screen, ["north", "south"], 1) as display,
        ):
            display.note(f"a note with {HF}")
            print(f"printed {HF}")
            sys.stderr.write(f"complained https://me:hunter2@example.org ({HF})\n")
            os.write(1, b"written\n")
            logging.getLogger("scpl_ray.x").warning("slow: value-of-the-variable")
            try:
                raise RuntimeError(f"401 for {HF}")
            except RuntimeError:
                logging.getLogger("scpl_ray.x").exception("failed: %s", HF)
    finally:
        for handler in root.handlers[:]:
            root.removeHandler(handler)
            handler.close()
        root.handlers, root.filters = handlers, filters
        root.setLevel(level)
    for name, words in (
        ("driver.log", ("slow: ***", "failed: ***", "RuntimeError: 401 for ***")),
        ("output.log", ("printed ***", "complained https://***@example.org (***)", "written")),
        ("screen.txt", ("a note with ***", "warning: slow: ***")),
    ):
        text = (tmp_path / name).read_text()
        assert all(word in text for word in words), text
        assert not any(secret in text for secret in (HF, "hunter2", "value-of-the-variable")), text


def test_a_log_file_is_appended_to(tmp_path: Path) -> None:
    for text in ("one\n", f"two {HF}\n", "\ud800\n"):
        with MaskedLog(tmp_path / "x.log") as log:
            assert log.write(text) == len(text)
    assert (tmp_path / "x.log").read_text() == "one\ntwo ***\n\\ud800\n"


def test_rays_logs_are_copied_without_credentials(tmp_path: Path) -> None:
    (tmp_path / "session").mkdir()
    (tmp_path / "session" / "raylet.out").write_bytes(f"started\r\nwith {HF}\n".encode() + b"\xff\x00 end")
    shutil.copytree(tmp_path / "session", tmp_path / "kept", copy_function=copy_masked)
    assert (tmp_path / "kept" / "raylet.out").read_bytes() == b"started\r\nwith ***\n\xff\x00 end"


def test_all_of_the_environment_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "a-value-of-mine")
    assert credentials.masked(ValueError("with a-value-of-mine")) == "with ***"
    assert Experiment() == experiments.load(None)
