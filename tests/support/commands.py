"""`scpl` in a process of its own, as a user runs it, and settings that make a run small."""

import os
import subprocess
import sys
from pathlib import Path

from ray._common.utils import get_default_ray_temp_dir

from scpl_ray.storage.files import sha256

SMALL = [
    "model.base_training_sentences=2000",
    "loop.rounds=2",
    "queries.prompts_per_round=48",
    "generation.samples_per_prompt=2",
    "evaluation.prompts_per_group=10",
    "evaluation.neutral_prompts=20",
    "selection.strategy=tpp",
    # whatever the machine: each process costs its start
    "generation.replicas=1",
    "reward.replicas=1",
]


def scpl(folder: Path, *words: str, cache: Path) -> subprocess.Popen[str]:
    """Start ``scpl`` with these words in a working folder."""
    code = "import sys; sys.argv[0] = 'scpl'; from jobs.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env={**os.environ, "SCPL_CACHE": str(cache)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the end, which must have this exit code, and return what was printed."""
    output, _ = process.communicate(timeout=900)
    assert process.returncode == code, output
    # the name of Ray's session folder contains the id of the process that started it
    assert list(Path(get_default_ray_temp_dir()).glob(f"session_*_{process.pid}")) == []
    return output


def records(run_dir: Path) -> dict[str, str]:
    """SHA-256 of every record of every round of a run."""
    return {str(p.relative_to(run_dir)): sha256(p) for p in sorted(run_dir.glob("rounds/*/*/*.parquet"))}
