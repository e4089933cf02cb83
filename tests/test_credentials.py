"""Credentials: refused in configs, masked at every door, ordinary text untouched."""

import ctypes
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from jobs.cli import app
from jobs.driver import experiments, ray_session, run
from jobs.terminal.display import Display, chatter_to
from scpl_ray import credentials
from scpl_ray.config import Experiment, loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.credentials import MASK, MaskedLog, MaskedPipe, copy_masked, held_by, mask, patterns
from scpl_ray.credentials.stream import Masker
from tests.support.configs import defaults

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
    "github_pat_" + "11ABCDEFG0_" + "aB3" * 20: "aB3aB3",
    "glpat-" + "x1Y2" * 5: "x1Y2",
    "clone of https://glpat-abcdefgh1234@gitlab.example.org/a.git": "abcdefgh1234",
    "https://0a1b2c3d4e@github.com/a/b": "0a1b2c3d4e",
    "HTTP://mytoken@example.org": "mytoken",
    "git+https://0a1b2c3d4e@github.com/a/b": "0a1b2c3d4e",
    "Authorization: Basic dXNlcjpodW50ZXIy": "dXNlcjpodW50ZXIy",
    "sent with basic dXNlcjpodW50ZXIy": "dXNlcjpodW50ZXIy",
    "{'Authorization': 'token 0a1b2c3d'}": "0a1b2c3d",
    "Set-Cookie: session=0a1b2c; Path=/": "0a1b2c",
    '{"api_key": "s3cr3t", "rows": 3}': "s3cr3t",
    '{"apiKey":"abcdef"}': "abcdef",
    '{\\"api_key\\": \\"s3cr3t\\"}': "s3cr3t",
    "{'password': 'correct horse battery'}": "horse",
    "APIKEY=abcdef": "abcdef",
    "export DB_PASS=hunter": "hunter",
    "MYSQL_PWD='a b c'": "a b c",
    "PGPASSWORD=hunter psql": "hunter",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY": "wJalrXUtnFEMI",
    "password: hunter2": "hunter2",
    "client-secret: correcthorse": "correcthorse",
    "hub_token=abcd1234efgh": "abcd1234efgh",
    "scpl --token abcdefgh run": "abcdefgh",
    "mysql --password=hunter -u me": "hunter",
    "X-Api-Key: 0a1b2c": "0a1b2c",
    "AccountKey=abcdEFGH1234==;EndpointSuffix=core": "abcdEFGH1234",
    "xoxb-123456789012-abcdefABCDEF": "abcdefABCDEF",
    "https://hooks.slack.com/services/T0/B0/abcdef": "abcdef",
    "AIza" + "aB3dE" * 7: "aB3dE",
    "npm_" + "a1B2" * 9: "a1B2",
    "sk_live_" + "a1B2" * 5: "a1B2",
    "dapi" + "0a1b2c3d" * 4: "0a1b2c3d",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghij": "abcdefghij",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----": "MIIabc",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn\nwithout an end": "b3Blbn",
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
    'pad_token=\'<pad>\' eos_token: </s> {"bos_token": "<s>", "unk_token": "[UNK]"}',
    "max_new_tokens=24 tokens_per_step: 2048 seconds_per_token=0.25 next_token: 12345678",
    "the password: wrong, try again; a secret: nobody knows it",
    "password=None api_key: null, secret = '' token=*** basic training, Basic configuration of compass=north",
    "author: me, keyboard = us, passed=3, bypass=1, authority: 5, monkey=7",
    "ssh://git@github.com/a.git s3://bucket/a@b postgres://localhost/db",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert mask(text) == text


MARKS = re.compile(r"[_-]|AKIA|ASIA|bearer|basic|://|[?&;:=]|SG|SK|pypi|AIza|ya29|dapi|eyJ|hvs", re.IGNORECASE)


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
    assert Experiment() == defaults()


HOSTILE = ["a" * 100_000, "sk-" * 30_000, "a." * 50_000, "Bearer " * 15_000, "://" * 30_000, "password" * 12_000]
HOSTILE += ["a://b:" * 15_000, "?token=&" * 12_000, "x=" * 50_000, '"' * 100_000, "eyJ" * 30_000, "--token" * 14_000]
HOSTILE += ["basic " + "a" * 100_000, "-----BEGIN PRIVATE KEY-----" * 3_000, "authorization" * 8_000, " " * 100_000]


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:12] for text in HOSTILE])
def test_masking_takes_time_in_proportion_to_the_text(text: str) -> None:
    began = time.process_time()
    mask(text)
    assert time.process_time() - began < 1.0


PRIVATE = "-----BEGIN PRIVATE KEY-----\nMIIabc\nMIIdef\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 1000])
def test_a_credential_that_arrives_in_pieces_is_masked(size: int) -> None:
    lines = f"one {HF} two\npassword=hunter2\r{PRIVATE}Authorization: Basic dXNlcjpodW50ZXIy\nend {HF}"
    masker = Masker(["value of mine"])
    shown = "".join(masker.feed(lines[i : i + size]) for i in range(0, len(lines), size)) + masker.finish()
    assert not any(word in shown for word in (HF, "hunter2", "MIIabc", "MIIdef", "dXNlcjpo")), shown
    assert shown.startswith("one *** two\npassword=***\r") and shown.endswith("end ***")


@pytest.mark.parametrize("filler", ["x" * 200_000, "word " * 40_000])
def test_a_line_without_an_end_is_not_kept_for_ever(filler: str) -> None:
    masker, shown = Masker([]), ""
    for text in (filler, f" {HF} ", filler):
        for i in range(0, len(text), 4096):
            shown += masker.feed(text[i : i + 4096])
            assert len(masker._held) <= 2**20
    assert len(shown) > len(filler) // 2
    assert HF not in shown + masker.finish()


def test_a_private_key_without_an_end_does_not_hide_the_rest_of_a_log() -> None:
    masker = Masker([])
    shown = masker.feed("-----BEGIN PRIVATE KEY-----\n") + masker.feed("MIIabc\n") + masker.feed("x" * 40_000 + "\n")
    assert "MIIabc" not in shown
    assert masker.feed("the run goes on\n") == "the run goes on\n"


def test_what_a_child_and_code_in_c_write_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "value-of-mine")
    code = f"import os; os.write(1, b'child {HF}'); os.abort()"
    with (tmp_path / "screen.txt").open("w"), chatter_to(tmp_path / "output.log"):
        subprocess.run([sys.executable, "-c", code], check=False)
        os.write(2, f"\nfrom C: {HF[:9]}".encode())
        os.write(2, f"{HF[9:]} value-of-mine\n".encode())
        ctypes.CDLL(None).perror(f"libc {HF}".encode())
    text = (tmp_path / "output.log").read_text()
    assert "child ***" in text and "from C: *** ***" in text and "libc ***" in text, text
    assert HF not in text and "value-of-mine" not in text


def test_the_last_words_of_a_process_that_dies_are_kept(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom scpl_ray.credentials import MaskedPipe\n"
        f"pipe = MaskedPipe(Path({str(tmp_path / 'engine.log')!r}))\npipe.become(1, 2)\n"
        f"os.write(2, b'last words {HF}')\nos.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    until = time.monotonic() + 20
    while not (text := (tmp_path / "engine.log").read_text()) and time.monotonic() < until:
        time.sleep(0.01)
    assert text == "last words ***"


def test_no_log_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "dear").write_text("dear")
    (tmp_path / "x.log").symlink_to(tmp_path / "dear")
    os.mkfifo(tmp_path / "y.log")
    (tmp_path / "source").write_text("text")
    for write in (MaskedLog, MaskedPipe, lambda path: copy_masked(str(tmp_path / "source"), str(path))):
        for name in ("x.log", "y.log"):
            with pytest.raises(OSError):
                write(tmp_path / name)
    with pytest.raises(OSError):
        copy_masked(str(tmp_path / "x.log"), str(tmp_path / "copy"))
    assert (tmp_path / "dear").read_text() == "dear"


def test_rays_logs_get_no_more_permissions_than_the_umask_leaves(tmp_path: Path) -> None:
    logs = tmp_path / "session"
    (logs / "events").mkdir(parents=True)
    for path in (logs, logs / "events"):
        path.chmod(0o777)
    (logs / "raylet.out").write_text(f"with {HF}\n")
    (logs / "events" / "e.log").write_text("event\n")
    (logs / "stolen").symlink_to(tmp_path / "dear")
    (tmp_path / "dear").write_text("dear")
    os.mkfifo(logs / "pipe")
    (logs / "linked").symlink_to(tmp_path)
    target = tmp_path / "run" / "logs" / "ray"
    (target / "events").mkdir(parents=True)
    (target / "events").chmod(0o777)  # as earlier versions left it
    before = os.umask(0o077)
    try:
        ray_session.keep_logs(logs, target)
    finally:
        os.umask(before)
    assert sorted(str(p.relative_to(target)) for p in target.rglob("*")) == ["events", "events/e.log", "raylet.out"]
    assert (target / "raylet.out").read_text() == "with ***\n"
    for path in [target / "events", *target.rglob("*.*")]:
        assert not path.stat().st_mode & 0o077, path


PIECES = (
    *SECRETS,
    *("\n", "\n\n", " ", "token", "tokens", "Bearer", "password", "api_key", ":", "=", "-", '"', "x" * 20, "a1" * 20),
    *("://", "@", "a word", "path", "Authorization", "basic", "-----", "sk-", "eyJ", "AKIA", "İ", "\u2028", "\x85"),
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
def test_looking_before_masking_finds_whatever_masking_finds(text: str) -> None:
    """Whatever is a secret alone stays one wherever it stands, and a line that is no suspect has nothing to mask."""
    shown = mask(text)
    assert patterns._mask_block(shown) == shown
    for line in text.splitlines(keepends=True):
        if not patterns.SUSPECT.search(line.lower()):
            assert patterns._mask_block(line) == line


def test_lines_without_a_suspect_cost_little() -> None:
    line = "(EngineCore pid=12345) INFO 11-26 08:49:18 [gpu_model_runner.py:1234] Loading took 0.1234 GiB and 1.23 s\n"
    text = line * 2_000
    began = time.process_time()
    assert mask(text) == text
    assert time.process_time() - began < 0.15  # masking takes 0.5 s
