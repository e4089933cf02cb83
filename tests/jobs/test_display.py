"""What reaches the screen of a run: our own lines, and not a word of a library, a child process or code in C."""

import os
import subprocess
import sys
from pathlib import Path

NOISE = """
import logging, os, subprocess, sys, warnings
from pathlib import Path
from jobs.terminal.display import chatter_to

def make_noise(where):
    logging.getLogger("transformers").warning("noise of transformers %s", where)
    logging.getLogger("DeepSpeed").error("noise of DeepSpeed %s", where)
    warnings.warn(f"noise of Python {where}", stacklevel=1)
    print(f"noise of a library {where}")
    sys.stderr.write(f"noise on standard error {where}\\n")
    os.write(2, f"noise of C {where}\\n".encode())
    subprocess.run(["sh", "-c", f"echo noise of a child {where}; echo noise of its errors {where} >&2"])

late = logging.StreamHandler(sys.stderr)
logging.getLogger("early").addHandler(late)
with chatter_to(Path(sys.argv[1])) as screen:
    make_noise("inside")
    logging.getLogger("early").warning("noise of a handler that was there before")
    print("a line of ours", file=screen)
print("the end")
"""


def test_no_noise_reaches_the_screen_and_all_of_it_is_kept(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOISE, str(tmp_path / "output.log")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
    )
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, ["a line of ours", "the end"], "")
    kept = (tmp_path / "output.log").read_text()
    for source in (
        *("transformers", "DeepSpeed", "Python", "a library", "C", "a child", "its errors"),
        "a handler that was there before",
    ):
        assert f"noise of {source}" in kept
    assert "noise on standard error" in kept


def test_our_warnings_are_shown_once_and_those_of_others_never(tmp_path: Path) -> None:
    code = (
        "import logging\nfrom jobs.terminal.display import unheard\n"
        "with unheard('doing'):\n"
        "    logging.getLogger('transformers.modeling').warning('noise')\n"
        "    logging.getLogger('DeepSpeed').warning('noise')\n"
        "    logging.getLogger('scpl_ray.tasks').warning('ours')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "warning: ours\n") and "noise" not in done.stdout
