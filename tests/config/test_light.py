"""Reading a config, and the command line's first answer, wait for no engine and no numerical library."""

import subprocess
import sys

import pytest

ENGINES = {"torch", "ray", "vllm", "transformers", "deepspeed", "datasets"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("scpl_ray.config", ENGINES | {"numpy", "scipy", "sklearn", "pyarrow", "rich"}),
        ("scpl_ray.checks", ENGINES | {"scipy", "sklearn", "matplotlib"}),
        ("jobs.cli", ENGINES | {"scipy", "sklearn", "matplotlib"}),
    ],
)
def test_what_a_wrong_key_waits_for(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert module.split(".")[0] in loaded and not loaded & heavy
