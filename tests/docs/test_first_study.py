"""The tutorial, followed to the letter: its commands in their order, its study file, and what it says they print.

The cache stays the reader's, as in the tutorial: where the quick start has run, its base model is there already.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from tests.docs.pages import DOCS, blocks, commands

PAGE = DOCS / "first-study.md"


def in_a_process_of_its_own(words: list[str]) -> None:
    """A run starts Ray, which ends with its process."""
    code = "import sys; sys.argv[0] = 'scpl'; from jobs.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.engines
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_tutorial_leads_to_the_verdict_that_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")]))
    (study,) = blocks(PAGE, "yaml")
    Path("my_study.yaml").write_text(study)
    lines = [shlex.join(words) for words in commands(PAGE)]
    assert lines[0] == "scpl doctor" and lines[-1] == "scpl report studies/null"
    for words in commands(PAGE):
        if words[1] == "run" and "--dry-run" not in words:
            in_a_process_of_its_own(words[1:])
        else:
            done = CliRunner().invoke(app, words[1:])
            assert done.exit_code == 0, f"{words}: {done.output}"

    for folder in ("runs/first", "studies/first", "studies/null"):
        assert Path(folder, "report", "report.html").is_file()
    (python,) = blocks(PAGE, "python")
    exec(compile(python, str(PAGE), "exec"), {})
    first, null = (json.loads(Path(f"studies/{name}/report/report.json").read_text()) for name in ("first", "null"))
    said = first["parts"][0]["claims"][0]["sentence"]
    quoted = " ".join(line.removeprefix("> ") for line in PAGE.read_text().splitlines() if line.startswith("> "))
    assert quoted == said
    assert [claim["outcome"] for claim in null["parts"][0]["claims"]] == ["cannot tell", "cannot tell"]
