"""A process of a pool begins in the second that Ray takes, whatever else the project imports."""

import subprocess
import sys


def test_what_every_replica_imports_loads_no_numerical_library() -> None:
    code = "import sys, actors.feedback, actors.file_transfer, actors.pool, actors.training; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "actors" in loaded and not loaded & {
        "torch",
        "transformers",
        "vllm",
        "deepspeed",
        "peft",
        "sklearn",
        "scipy",
    }
