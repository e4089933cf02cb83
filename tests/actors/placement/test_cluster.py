"""What is detected of a machine, without its GPUs."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import torch

torch.cuda.device_count = lambda: 1
from actors.placement.cluster import local_cluster

print("GPUs:", local_cluster().nodes[0].gpus)
"""


def test_a_script_that_is_not_ready_to_be_imported_again_learns_of_gpus(tmp_path: Path) -> None:
    """As in the pages for users: statements at the top level, without a guard for child processes."""
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, env=hidden)
    # the process that is asked has no patch and sees no GPU
    assert (done.returncode, done.stdout) == (0, "GPUs: 0\n"), done.stderr
