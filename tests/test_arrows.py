"""Which room may import which: jobs -> actors -> scpl_ray, and inside scpl_ray from the top of a list downwards.

Read from the source, imports inside functions too; what stands under ``if TYPE_CHECKING`` never runs and is not
counted.
"""

import ast
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HOUSES = {
    "scpl_ray": ("the library: it must run without Ray actors and without a command line", set()),
    "actors": ("processes around the library: a job starts them, they know no job", {"scpl_ray"}),
    "jobs": ("the commands: nothing is above them", {"scpl_ray", "actors"}),
}
"""For every package, why it stands where it stands, and the other packages that it may import."""

ROOMS = {
    "seeds": ("arithmetic on seeds alone", ""),
    "shares": ("arithmetic on shares alone", ""),
    "credentials": ("reads the environment alone", ""),
    "records": ("what every phase writes and every reader reads: it depends on nobody's way of making it", ""),
    "config": ("reading a YAML file must not load a task, torch or Ray", ""),
    "protocols": ("what the parts are to each other, in terms of records", "records"),
    "own": ("code of the user's by its name; what it is for is asked by those who call it", "records"),
    "storage": ("keeps records and configs, whatever they say", "config protocols records"),
    "feedback": ("rules are arithmetic on what was measured", "config own protocols records seeds shares"),
    "selection": ("chooses among completions, however they were written", "config own records seeds shares"),
    "evaluation": (
        "measures records, and asks the population whose kind counts first; it knows no task and no engine",
        "config feedback records seeds shares storage",
    ),
    "models": (
        "weights, tokens and templates, of whatever task and however trained",
        "config protocols records seeds storage",
    ),
    "training": ("trains models on data that it is given", "config models own protocols records seeds selection"),
    "judges": ("classifiers of texts for any task; a task owns its judge", "protocols seeds training"),
    "tasks": (
        "the data, judge and base model of a task: all that is special about it stands here and nobody below asks",
        "config evaluation judges models own protocols records seeds shares storage training",
    ),
    "tracking": ("sends records to a dashboard", "config records"),
    "analytic": (
        "the loop as arithmetic: rules and selection of the real one, the record of a task, no model and no task",
        "config evaluation feedback records seeds selection shares storage tasks training",
    ),
    "checks": (
        "what only the parts together can find wrong in a config",
        "config credentials feedback own selection shares tasks tracking training",
    ),
    "registries": (
        "names and meanings of what a config can choose, for files and pages that explain it",
        "config feedback selection tasks training",
    ),
    "studies": (
        "many runs compared; they are read from disk, never driven from here",
        "config evaluation feedback records seeds shares storage",
    ),
    "logs": (
        "what a pipeline logged, measured without its model",
        "config evaluation feedback seeds shares studies tasks",
    ),
    "held_out": (
        "how any policy is measured, by a run or by itself: over protocols, whatever drew the answers",
        "config evaluation protocols records selection storage",
    ),
    "report": (
        "shows what is on disk: it loads no model and runs nothing",
        "config evaluation feedback records shares storage studies",
    ),
    "controller": (
        "the paper's algorithm over protocols: any task and engine can stand behind them",
        "config evaluation held_out protocols records seeds selection storage training",
    ),
}
"""For every room of scpl_ray, lowest first, why it stands where it stands, and the rooms that it may import.

A new arrow is a decision: add it here with the room's reason still true, and only to a room higher up in the list.
"""


@dataclasses.dataclass(frozen=True)
class Arrow:
    """One import: who asks for which module, and where that is written."""

    file: Path
    line: int
    source: tuple[str, ...]
    target: tuple[str, ...]
    """Parts of dotted module names."""

    def why_wrong(self) -> str | None:
        (ours, *our_room), (theirs, *their_room) = self.source[:2], self.target[:2]
        if ours == theirs == "scpl_ray":
            if not our_room or not their_room or our_room == their_room:
                return None
            (room,), (other,) = our_room, their_room
            reason, allowed = ROOMS[room]
            if other in allowed.split():
                return None
            return f"scpl_ray.{room} -> scpl_ray.{other}: {room} may import {allowed or 'no other room'}; {reason}"
        if ours in HOUSES and theirs in HOUSES and theirs != ours:
            reason, others = HOUSES[ours]
            if theirs not in others:
                return f"{ours} -> {theirs}: {reason}"
        if theirs in ("tests", "examples") and ours in HOUSES:
            return f"{ours} -> {theirs}: what is installed does not have them"
        test_module = any(part.startswith("test_") for part in self.target)
        if ours == "tests" and theirs == "tests" and test_module and self.source != self.target:
            return f"{'.'.join(self.source)} -> {'.'.join(self.target)}: what tests share belongs into tests/support"
        return None


@functools.cache
def is_module(parts: tuple[str, ...]) -> bool:
    path = ROOT.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").exists()


def imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import statement but those under ``if TYPE_CHECKING``."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING":
            todo.extend(node.orelse)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not isinstance(node, ast.expr):
            todo.extend(ast.iter_child_nodes(node))


def arrows(file: Path, text: str) -> Iterator[Arrow]:
    """Every import of a file of this project; its path is relative to the project."""
    source = file.with_suffix("").parts
    package = source if file.name == "__init__.py" else source[:-1]
    for node in imports(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Arrow(file, node.lineno, source, tuple(alias.name.split(".")))
        else:
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = (*above, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                inner = (*module, alias.name)
                yield Arrow(file, node.lineno, source, inner if is_module(inner) else module)


def files(*tops: str) -> list[Path]:
    return [path.relative_to(ROOT) for top in tops for path in sorted((ROOT / top).rglob("*.py"))]


def wrong(file: Path, text: str) -> list[str]:
    return [f"{a.file}:{a.line}: {why}" for a in arrows(file, text) if (why := a.why_wrong()) is not None]


def test_every_arrow_is_allowed() -> None:
    everywhere = files("scpl_ray", "actors", "jobs", "tests")
    found = [line for file in everywhere for line in wrong(file, (ROOT / file).read_text())]
    assert not found, "\n" + "\n".join(found)


def test_the_list_of_rooms_is_the_tree_and_has_no_circle() -> None:
    there = {p.stem for p in (ROOT / "scpl_ray").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert set(ROOMS) == there - {"__init__"}
    order = list(ROOMS)
    for room, (_, allowed) in ROOMS.items():
        higher = [other for other in allowed.split() if order.index(other) >= order.index(room)]
        assert not higher, f"{room} stands below {higher}: an arrow from it would point up"


def test_every_allowed_arrow_is_there() -> None:
    """What nobody imports any more leaves the list, so that nobody begins again unasked."""
    used = {
        arrow.source[1:2] + arrow.target[1:2]
        for file in files("scpl_ray")
        for arrow in arrows(file, (ROOT / file).read_text())
        if arrow.target[0] == "scpl_ray"
    }
    idle = [
        f"{room} -> {other}" for room, (_, may) in ROOMS.items() for other in may.split() if (room, other) not in used
    ]
    assert not idle, f"nobody needs these arrows any more, take them out of ROOMS: {idle}"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("scpl_ray/config/schema.py", "from scpl_ray.tasks import registry", "config -> scpl_ray.tasks"),
        (
            "scpl_ray/models/tiny.py",
            "def late():\n    from scpl_ray import tasks",
            "tiny.py:2: scpl_ray.models -> scpl_ray.tasks",
        ),
        ("scpl_ray/models/tiny.py", "import scpl_ray.training.worker", "models -> scpl_ray.training"),
        ("scpl_ray/models/tiny.py", "from ..training import worker", "models -> scpl_ray.training"),
        ("scpl_ray/storage/files.py", "from actors.pool import Pool", "scpl_ray -> actors: the library"),
        ("actors/pool.py", "from jobs import cli", "actors -> jobs"),
        ("jobs/cli.py", "from tests.support import fakes", "jobs -> tests"),
        ("tests/models/test_tiny.py", "from tests.test_controller import small", "belongs into tests/support"),
    ],
)
def test_an_arrow_turned_around_is_red(file: str, text: str, said: str) -> None:
    (line,) = wrong(Path(file), text)
    assert said in line and line.startswith(f"{file}:")


def test_an_import_for_type_checkers_is_no_arrow() -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from scpl_ray.tasks import base\n"
    assert wrong(Path("scpl_ray/config/schema.py"), text) == []
