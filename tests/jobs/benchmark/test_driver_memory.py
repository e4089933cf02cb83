"""The benchmark of the driver's memory: it runs, and says how much each phase took."""

import re

from typer.testing import CliRunner

from jobs.benchmark.__main__ import app


def test_a_small_round() -> None:
    small = ["queries.prompts_per_round=150", "task.max_prompt_tokens=32", "generation.max_new_tokens=16"]
    small += ["evaluation.prompts_per_group=20", "evaluation.neutral_prompts=40"]
    result = CliRunner().invoke(app, ["memory", *small])
    assert result.exit_code == 0, result.output
    assert "150 prompts of 32 tokens, 4 completions of 16 each" in result.output
    rows = re.findall(r"│\s+(\d)\s+│\s+(\w+)\s+│\s+[\d.]+\s+│\s+([\d.]+)\s+│", result.output)
    phases = ["queries", "completions", "scores", "selection", "dataset", "weights", "evaluation", "feedback"]
    assert [phase for round_, phase, _ in rows if round_ == "1"] == phases
    peaks = [float(peak) for _, _, peak in rows]
    assert peaks == sorted(peaks) and 0.05 < peaks[-1] < 8
