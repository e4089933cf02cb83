"""The numeric tests again, in a process with other kernels than this processor's best ones.

Kernels differ in the order in which they sum. A bound that was found by looking at one processor is broken by the next
one; here the plainest kernels that the libraries have stand for it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAINEST = {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
"""For matrix products of oneDNN, for PyTorch's own kernels, and for those of MKL."""
TESTS = (
    "tests/training/test_worker.py::test_one_worker_equals_plain_pytorch[1-full]",
    "tests/training/test_worker.py::test_dpo_from_a_later_policy_equals_plain_pytorch[0-lora-start]",
    "tests/training/test_objectives.py",
    "tests/training/test_dpo.py",
    "tests/training/test_reward_model.py::test_likelihoods_are_the_models_own",
    "--deselect=tests/training/test_dpo.py::test_loss_and_gradients_equal_those_of_trl",
)
"""One of each kind of comparison; none that starts further processes."""


@pytest.mark.engines
def test_bounds_hold_with_the_plainest_kernels() -> None:
    """The files whole by hand: the variables of ``PLAINEST`` before ``pytest tests/training tests/models``."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-o", "addopts=", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT,
        env=os.environ | PLAINEST,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
