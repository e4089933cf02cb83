"""Code of a user's own in a folder outside of the checkout, with every hook."""

import sys
from pathlib import Path

from typer.testing import CliRunner

from jobs.cli import app
from scpl_ray.own import references

HELPERS = "LONG = 20\n"
HOOKS = '''"""Every hook, in one file that imports its neighbour."""
import numpy as np
from helpers import LONG

def crowding(shares, measured, *, initial_shares, round_, seed):
    pull = np.exp(measured - 2 * shares)
    return pull / pull.sum()

def short(candidates, *, selection, chance):
    order = sorted(range(candidates.size), key=lambda i: (len(candidates.texts[i]), chance[i]))
    return order[: candidates.size // 2]

def brevity(queries, texts):
    assert len(queries) == len(texts) and queries[0].prompt
    return [1 - len(text.split()) / LONG for text in texts]

def tell(step):
    with open(STEPS, "a") as file:
        file.write(f"{step.round} {step.step}/{step.steps} {step.loss:.6f} {step.learning_rate:.4f}\\n")

def after(done):
    with open(ROUNDS, "a") as file:
        gap = done.value("disparate_gap")
        file.write(f"{done.round}/{done.rounds} {sorted(done.shares)} {gap >= 0} {done.from_disk}\\n")
'''
NAMES = {
    "feedback.function": "hooks.py:crowding",
    "selection.function": "hooks:short",
    "reward.function": "hooks.py:brevity",
    "training.callback": "hooks.py:tell",
    "loop.on_round": "hooks:after",
}
"""Every key of code but the task, by file and by module."""
KEYS = [f"{key}={name}" for key, name in NAMES.items()]


def write(folder: Path) -> Path:
    """The hooks and their neighbour in a folder; what they are told is written beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "helpers.py").write_text(HELPERS)
    where = f"STEPS, ROUNDS = {str(folder / 'steps.txt')!r}, {str(folder / 'rounds.txt')!r}\n"
    (folder / "hooks.py").write_text(HOOKS + where)
    return folder


def scpl(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


def forget(*names: str) -> None:
    """Let this process import modules of these names anew, from wherever they lie now."""
    for name in names:
        sys.modules.pop(name, None)
        known = references._LOADED.pop(name, None)
        if known is not None and str(known.root) in sys.path:
            sys.path.remove(str(known.root))
