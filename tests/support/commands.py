"""`scpl run` in its own process, and the settings that make it small."""

import os
import subprocess
import sys
from pathlib import Path

from ray._common.utils import get_default_ray_temp_dir

SMALL = [
    "model.base_training_sentences=2000",
    "loop.rounds=2",
    "queries.prompts_per_round=48",
    "generation.samples_per_prompt=2",
    "generation.prompts_per_chunk=16",
    "evaluation.prompts_per_group=10",
    "evaluation.neutral_prompts=20",
    "selection.strategy=tpp",
]


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "SCPL_CACHE": str(folder / "cache")}
    code = "import sys; sys.argv[0] = 'scpl'; from jobs.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "run", *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    # the name of Ray's session folder contains the id of the process that started it
    assert list(Path(get_default_ray_temp_dir()).glob(f"session_*_{process.pid}")) == []
    return output
