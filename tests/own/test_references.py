"""Functions that a config names: by module, by file, from packages; and what of them is shipped and kept."""

import importlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from scpl_ray.config import Selection
from scpl_ray.feedback.rules import RULES, Rule
from scpl_ray.own import references, sources
from scpl_ray.own.references import NotFoundError
from scpl_ray.selection.candidates import Candidates, Selected
from scpl_ray.selection.strategies import STRATEGIES, reads_texts, select
from scpl_ray.tasks import TASKS
from tests.support import own_code


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path
    own_code.forget("mine", "hooks", "helpers", "inner", "pkg", "packaged")


def load(name: str) -> object:
    return references.load(name, "some.key")


def test_by_module_in_the_working_directory_by_file_and_in_a_package(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def f():\n    return 1\nclass C:\n    @staticmethod\n    def g():\n        return 2\n"
    )
    assert load("mine:f")() == 1 and load("mine:C.g")() == 2 and load("./mine.py:f")() == 1
    assert load(f"{tmp_path}/mine.py:f") is load("mine:f")
    (tmp_path / "pkg" / "deep").mkdir(parents=True)
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "deep" / "__init__.py").write_text("from ..one import f\n")
    (tmp_path / "pkg" / "one.py").write_text("def f():\n    return 3\n")
    assert load("pkg.deep:f")() == 3
    assert load("math:sqrt")(4.0) == 2.0
    assert pickle.loads(pickle.dumps(load("./mine.py:f")))() == 1, "workers find it by its name"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "nowhere:f",
            "",
            "'nowhere:f' cannot be imported: No module named 'nowhere'; a module must lie in the working",
        ),
        ("no/where.py:f", "", "where.py is not there"),
        ("mine.py", "", "is not of the form 'package.module:function' (or 'FILE.py:function')"),
        ("mine.py:", "", "is not of the form"),
        (":f", "", "is not of the form"),
        ("mine.py:1f", "", "is not of the form"),
        ("mine.py:g", "def f(): ...\n", "mine has no g; it has f"),
        ("mine.py:x", "x = 3\n", "is a int, not a function"),
        ("mine.py:f", "def f(:\n", "cannot be imported: invalid syntax (mine.py, line 1)"),
        ("mine.py:f", "import no_such_package\n", "No module named 'no_such_package'"),
        ("mine.py:f", "raise RuntimeError('in the middle')\n", "cannot be imported: in the middle"),
        (
            "mine.py:f",
            "import sys\nsys.exit(3)\n",
            'it ends the program (SystemExit(3)); put what it does as a script under `if __name__ == "__main__":`',
        ),
        ("random.py:f", "", "random is also the name of"),
        ("json.py:f", "", "rename the file"),
        ("pytest.py:f", "", "rename the file"),
        ("a.b.py:f", "", "is not the name of a module"),
    ],
)
def test_what_is_not_there_is_one_message_that_names_the_key(tmp_path: Path, name: str, text: str, said: str) -> None:
    if ".py" in name and "/" not in name:
        (tmp_path / name.partition(":")[0]).write_text(text or "def f(): ...\n")
    with pytest.raises(NotFoundError) as error:
        load(name)
    assert str(error.value).startswith("some.key: ") and said in str(error.value)


def test_a_file_that_changed_is_imported_anew_and_so_is_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import inner\ndef f():\n    return inner.N\n")
    (tmp_path / "inner.py").write_text("N = 1\n")
    for name in ("mine.py:f", "mine:f"):
        assert load(name)() == 1
    (tmp_path / "inner.py").write_text("N = 22\n")
    for name in ("mine.py:f", "mine:f"):
        assert load(name)() == 22


def test_a_function_that_ends_the_program_fails_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(code):\n    exit(code)\n")
    with pytest.raises(references.FailedError, match=r"^k: 'mine:f' failed: SystemExit: 3 \("):
        references.called("mine:f", "k", references.load("mine:f", "k"), 3)


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a notebook, which imports what lies there by itself."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine.py").write_text("import inner\nSEEN = []\ndef f():\n    SEEN.append(1)\n    return inner.N\n")
    (tmp_path / "inner.py").write_text("N = 1\n")
    return tmp_path


@pytest.mark.parametrize("name", ["mine.py:f", "mine:f"])
@pytest.mark.parametrize("imported", ["mine", "inner"])
def test_what_a_notebook_imported_and_edited_since_is_imported_anew(noted: Path, name: str, imported: str) -> None:
    importlib.import_module(imported)
    for number in (22, 333):
        (noted / "inner.py").write_text(f"N = {number}\n")
        assert load(name)() == number
    (noted / "mine.py").write_text("def f():\n    return 4\n")
    assert load(name)() == 4


@pytest.mark.parametrize("name", ["mine.py:f", "mine:f"])
def test_what_a_script_imported_and_nobody_edited_is_the_same_module(
    noted: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    mine = importlib.import_module("mine")
    monkeypatch.setattr(references.psutil.Process, "create_time", lambda _: time.time() + 1)
    load(name)()
    assert mine.SEEN == [1]
    (noted / "inner.py").write_text("N = 22\n")
    assert load(name)() == 22, "from now on it is known"


def test_a_module_that_names_itself_while_it_is_imported_is_imported_once(noted: Path) -> None:
    (noted / "mine.py").write_text(
        "from scpl_ray.own.references import load\ndef f():\n    return 1\n"
        "with open('times.txt', 'a') as file:\n    file.write('x')\nload('mine:f', 'k')\nload('mine.py:f', 'k')\n"
    )
    importlib.import_module("mine")
    assert (noted / "times.txt").read_text() == "x"


@pytest.mark.parametrize("imported", ["inner", "hooks", None])
def test_two_files_of_one_run_share_their_neighbour(noted: Path, imported: str | None) -> None:
    for name in ("hooks", "mine"):
        (noted / f"{name}.py").write_text("import inner\ndef f():\n    return inner\n")
    if imported is not None:
        importlib.import_module(imported)
    (noted / "inner.py").write_text("N = 22\ndef f(): ...\n")
    names = ("mine.py:f", "hooks:f", "inner:f", "hooks.py:f", "mine:f")
    first, second, own, *later = [load(name) for name in names]
    assert first() is second() is later[0]() is later[1]() and first().N == 22 and own is first().f


def test_another_folder_of_the_same_name_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, number in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def f():\n    return {number}\n")
    assert [load(f"{folder}/mine.py:f")() for folder in "aba"] == [1, 2, 1]
    for folder, number in (("b", 2), ("a", 1)):
        monkeypatch.chdir(tmp_path / folder)
        assert load("mine:f")() == number
    load(f"{tmp_path}/a/mine.py:f")
    both = [f"{tmp_path}/a/mine.py:f", f"{tmp_path}/b/mine.py:f"]
    with pytest.raises(NotFoundError, match="two modules of one name; rename one of them"):
        sources.luggage(both)


@pytest.mark.parametrize("path", [[""], ["", "{a}"], ["{a}/"], ["{a}"], []])
def test_a_module_of_the_working_directory_is_that_of_the_one_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: list[str]
) -> None:
    """As in a notebook, where Python looks there first; a folder that PYTHONPATH names stays the first one."""
    for folder, number in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def f():\n    return {number}\n")
    monkeypatch.setattr(sys, "path", [*(one.format(a=tmp_path / "a") for one in path), *sys.path])
    found = []
    for folder in "aba":
        monkeypatch.chdir(tmp_path / folder)
        found.append(load("mine:f")())
    assert found == ([1, 1, 1] if path and path[0] else [1, 2, 1])


def unreadable(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let this process see the folder itself and not what is in it, though tests may run as an administrator."""
    stat = Path.stat

    def refused(self: Path, **named: bool) -> os.stat_result:
        if self.parent == folder:
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **named)

    monkeypatch.setattr(Path, "stat", refused)


def test_a_folder_that_may_not_be_read_holds_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def f():\n    try:\n        import secret\n    except ImportError: ...\n")
    (tmp_path / "secret").mkdir()
    unreadable(monkeypatch, tmp_path / "secret")
    load("mine.py:f")
    assert [path.name for path in sources.luggage([f"{tmp_path}/mine.py:f"]).modules] == ["mine.py"]

    def refused(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refused)
    assert sources.luggage([f"{tmp_path}/mine.py:f"]).modules


@pytest.mark.parametrize("name", ["jobs.py", "actors/__init__.py", "scpl_ray/__init__.py", "csv.py"])
def test_code_beside_a_module_that_would_hide_another_in_workers_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text("def f(): ...\n")
    load("mine.py:f")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(NotFoundError, match=r"is also the name of .*, which workers would no longer find"):
        sources.luggage([f"{tmp_path}/mine.py:f"])


def test_code_in_the_folder_of_this_project_stands_beside_its_packages() -> None:
    root = Path(sources.__file__).parents[2]
    assert (root / "jobs").is_dir()
    sources._check_beside(root)


def test_what_a_worker_needs_is_the_module_and_its_neighbours(tmp_path: Path) -> None:
    own_code.write(tmp_path)
    (tmp_path / "bystander.py").write_text("raise RuntimeError\n")
    load("hooks.py:brevity")
    found = sources.luggage([str(references.anchored("hooks.py:brevity")), "math:sqrt", "numpy:exp"])
    assert sorted(path.name for path in found.modules) == ["helpers.py", "hooks.py"]
    local, far = found.environment(same_machine=True), found.environment(same_machine=False)
    assert local["env_vars"]["PYTHONPATH"].endswith(str(tmp_path)) and "py_modules" not in local
    assert sorted(far["py_modules"]) == [str(tmp_path / "helpers.py"), str(tmp_path / "hooks.py")]
    assert sources.NO_CODE.environment(same_machine=False) == {}
    # on another node the file is not there, but the copy of its module is
    copies = tmp_path / "elsewhere"
    own_code.write(copies)
    gone = f"{tmp_path}/gone/hooks.py:brevity"
    code = f"from scpl_ray.own.references import load; print(load({gone!r}, 'k').__name__)"
    environment = {"PYTHONPATH": f"{copies}:{Path(__file__).parents[2]}", "SCPL_OWN_CODE": f"{tmp_path}/gone/hooks.py"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "brevity\n", done.stderr
    del environment["SCPL_OWN_CODE"]
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "hooks.py is not there" in done.stderr, "a module of the same name is not taken for it"


def test_a_folder_without_init_that_is_imported_goes_along(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import inner.deep\nimport packaged\nimport yaml\ndef f():\n    return inner.deep.N\n"
    )
    for name, text in (("inner/deep.py", "N = 1\n"), ("packaged/rows.csv", "1\n"), ("yaml/mine.py", "")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    assert load("mine.py:f")() == 1
    found = sources.luggage([f"{tmp_path}/mine.py:f"])
    assert sorted(path.name for path in found.modules) == ["inner", "mine.py"]
    assert set(sources.kept({"k": f"{tmp_path}/mine.py:f"})["files"]) == {"inner/deep.py", "mine.py"}


def test_what_is_kept_is_the_text_of_every_file_and_a_change_is_named(tmp_path: Path) -> None:
    own_code.write(tmp_path)
    load("hooks:brevity")
    before = sources.kept({"reward.function": "hooks:brevity"})
    assert before["code"] == {"reward.function": "hooks:brevity"}
    assert set(before["files"]) == {"helpers.py", "hooks.py"}
    assert before["files"]["helpers.py"]["text"] == own_code.HELPERS
    (tmp_path / "helpers.py").write_text("LONG = 30\n")
    load("hooks:brevity")
    assert sources.changed(before, sources.kept({"reward.function": "hooks:brevity"})) == ["helpers.py"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that offers a task, two rules and a strategy, installed in a folder of its own."""
    site = tmp_path / "site-packages"
    (site / "packaged-1.0.dist-info").mkdir(parents=True)
    (site / "packaged-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: packaged\nVersion: 1.0\n")
    (site / "packaged-1.0.dist-info" / "entry_points.txt").write_text(
        "[scpl_ray.tasks]\ngarden = packaged:build\nnews = packaged:build\n"
        "[scpl_ray.rules]\nstay = packaged:stay\nleave = packaged:LEAVE\n[scpl_ray.selectors]\nfirst = packaged:first\n"
        "shorter = packaged:SHORTER\nodd = packaged:ODD\n"
    )
    (site / "packaged.py").write_text(
        "import numpy as np\nfrom scpl_ray.feedback.rules import Rule\n"
        "def build(experiment):\n    return experiment.groups.names\n"
        'def stay(shares, measured, **_):\n    """Nobody moves."""\n    return shares\n'
        "LEAVE = Rule(meaning='all leave', step=lambda moment, feedback: moment.arrivals, reacts=False)\n"
        "def first(candidates, *, selection, chance):\n    return [0]\n"
        "from scpl_ray.selection.candidates import Kept\n"
        "from scpl_ray.selection.strategies import Strategy\n"
        "def shorter(candidates, selection, draw):\n"
        "    return Kept(np.argsort([len(text) for text in candidates.texts])[:1])\n"
        "SHORTER = Strategy(meaning='the shortest', keep=shorter, meet=lambda *_: 1 / 0)\n"
        "ODD = Strategy(meaning='no rows', keep=lambda *_: [0])\n"
    )
    monkeypatch.syspath_prepend(str(site))


def test_a_strategy_of_a_package_reads_texts_and_what_it_raises_is_told_with_its_name(package: None) -> None:
    def kept(strategy: str, texts: list[str]) -> Selected:
        rows = Candidates(["a", "b"], np.arange(2), np.arange(2), np.zeros(2), 2, texts=texts)
        return select(rows, Selection(strategy=strategy), round_=1, seed=0, initial_shares=[0.5, 0.5])

    assert reads_texts(Selection(strategy="shorter")) and not STRATEGIES["shorter"].modelled
    found = kept("shorter", ["xx", "x"])
    assert found.indices.tolist() == [1] and STRATEGIES["shorter"].meaning == "the shortest"
    who = r"selection\.strategy: 'shorter' failed: "
    with pytest.raises(ValueError, match=who + "TypeError"):
        kept("shorter", [1, 2])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=who + "ZeroDivisionError"):
        STRATEGIES["shorter"].meet()  # type: ignore[call-arg, misc]
    with pytest.raises(ValueError, match=r"selection\.strategy: odd returned a list; return .*candidates\.Kept"):
        kept("odd", ["", ""])


def test_installed_packages_offer_tasks_rules_and_strategies(package: None) -> None:
    assert "packaged" not in sys.modules
    assert "garden" in TASKS and "stay" in RULES and "first" in STRATEGIES and "nothing" not in RULES
    assert "garden" not in list(TASKS) and TASKS.names[-1] == "garden"
    assert TASKS["garden"].builder == "packaged:build" and TASKS["news"].builder.startswith("scpl_ray.tasks.news")
    assert RULES.built_in("stay") is None and "packaged" not in sys.modules, "readers import nothing"
    assert RULES["stay"].meaning == "Nobody moves." and RULES["leave"].reacts is False
    assert isinstance(RULES.get("stay"), Rule) and RULES.get("nothing") is None
    assert not STRATEGIES["first"].modelled
    with pytest.raises(KeyError):
        STRATEGIES["nothing"]
    # what is installed on every node is not shipped, and kept all the same
    assert sources.luggage(["packaged:build"]).modules == ()
    assert set(sources.kept({"task.name": "packaged:build"})["files"]) == {"packaged.py"}


def test_a_change_beside_the_module_of_an_installed_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("__init__.py", "rules.py", "deep/terms.py"):
        (file := tmp_path / "site-packages/pkg" / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_text("def f(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    load("pkg.rules:f")
    references_ = {"feedback.rule": "pkg.rules:f", "selection.strategy": "pkg:f"}
    before = sources.kept(references_)
    texts = {name: file.get("text") for name, file in before["files"].items()}
    assert texts == {"pkg/__init__.py": (text := "def f(): ...\n"), "pkg/deep/terms.py": None, "pkg/rules.py": text}
    (tmp_path / "site-packages/pkg/deep/terms.py").write_text("def f(): return 1\n")
    now = sources.kept(references_)
    assert sources.changed(before, now) == ["pkg/deep/terms.py"]
    del before["files"]["pkg/deep/terms.py"]
    assert sources.changed(before, now) == [], "an earlier version noted the module alone"
    assert set(sources.kept({"task.name": "scpl_ray.seeds:derive_seed"})["files"]) == {"scpl_ray/seeds.py"}
