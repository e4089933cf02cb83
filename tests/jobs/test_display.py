"""What reaches the screen of a run: our own lines, and not a word of a library, a child process or code in C."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.terminal.display import closing_table, wide_console
from scpl_ray.records import Metric

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


def test_groups_with_names_in_brackets_have_headings() -> None:
    groups = ("[bold]", "[/x]")
    found = [Metric(0, group, "share", 0.5) for group in groups]
    heading = " ".join(shown([found], groups))
    assert "[bold]" in heading and "[/x]" in heading


def shown(rounds: list[list[Metric]], groups: Sequence[str] = ("north", "south")) -> list[str]:
    screen = io.StringIO()
    wide_console(screen).print(closing_table([(t, rows, 1.5) for t, rows in enumerate(rounds)], groups))
    return [" ".join(line.split()) for line in screen.getvalue().splitlines()]


def rows(round_: int, *, bounds: bool) -> list[Metric]:
    found = [Metric(round_, g, "share", s) for g, s in (("north", 0.6), ("south", 0.4))]
    interval = (0.01, 0.09) if bounds else (None, None)
    return [*found, Metric(round_, None, "disparate_gap", 0.04, *interval), Metric(round_, None, "kept_fraction", 0.5)]


def test_the_last_round_has_its_intervals_below_it() -> None:
    lines = shown([rows(0, bounds=True), rows(1, bounds=True)])
    assert "1 0.600 0.400 0.040 50% 1.5" in lines
    assert "low 0.010" in lines and "high 0.090" in lines
    assert any("95% intervals of the last round over its prompts, within this run" in line for line in lines)
    # what has no number in any round has no column
    assert not any("preference" in line or "soft" in line for line in lines)


def test_a_run_of_an_older_version_has_no_intervals() -> None:
    lines = shown([rows(0, bounds=False), rows(1, bounds=False)])
    assert "1 0.600 0.400 0.040 50% 1.5" in lines and not any("low" in line or "95%" in line for line in lines)


def test_a_number_that_one_round_lacks_leaves_its_cell_empty() -> None:
    lines = shown([[*rows(0, bounds=False), Metric(0, None, "distinct_2", 0.7)], rows(1, bounds=False)])
    assert "0 0.600 0.400 0.040 0.700 50% 1.5" in lines and "1 0.600 0.400 0.040 50% 1.5" in lines
