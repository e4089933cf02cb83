"""The notebook of examples/ runs from top to bottom: its cells in order, and what each shows."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_look.ipynb"


def cells() -> list[str]:
    found = json.loads(NOTEBOOK.read_text())
    assert found["nbformat"] == 4
    code = [cell for cell in found["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code), "outputs are not committed"
    return ["".join(cell["source"]) for cell in code]


def shown(cell: str, names: dict[str, Any]) -> Any:
    """Run a cell; its last expression is what a notebook shows below it."""
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_its_cells_run_in_order_and_show_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    below = [shown(cell, names) for cell in cells()]
    assert below[0] is None and all(hasattr(value, "_repr_html_") and value._repr_html_() for value in below[1:])
    assert names["study"].verdicts.outcome.tolist() == ["supported"]
