"""What the README and the pages of docs/ say is true of the code: commands, keys, names, files, links."""

import importlib.util
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.core import TyperGroup
from typer.exceptions import TyperException

import scpl_ray
from actors.engines.registry import ENGINES
from jobs import cli, docs, init, listing
from jobs.benchmark import __main__ as benchmark_commands
from jobs.configs import CONFIGS, STUDIES
from jobs.driver import experiments
from jobs.results import __main__ as results_commands
from scpl_ray.config import loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.presets import PRESETS
from scpl_ray.feedback.rules import RULES
from scpl_ray.selection.cycles import CYCLES
from scpl_ray.selection.strategies import STRATEGIES
from scpl_ray.studies import study
from scpl_ray.tasks import TASKS
from scpl_ray.training.objectives import OBJECTIVES
from tests.docs.pages import DOCS, PAGES, ROOT, blocks, commands, inline
from tests.support import own_code
from tests.support.finished_runs import finished
from tests.support.loops import SMALL

OWN_CONFIGS = {"CONFIG.yaml", "my.yaml"}
"""Stand for a config of the reader's; the quick start takes their place."""
OWN_STUDIES = {"my_study.yaml", "remedy.yaml", "STUDY"}
"""Studies that a page shows in full."""
APPS = {"jobs.benchmark": benchmark_commands.app, "jobs.results": results_commands.app}
"""Modules that have commands of their own."""
WRONG_KEYS = {"loop.roundss"}
"""Shown as a mistake."""
FILE_NAMES = {"config.yaml", "metrics.parquet", "study.yaml", "search.json", "report.json"}
PATH = re.compile(r"(?:scpl_ray|actors|jobs|tests|docs|examples)/[\w./-]*|pyproject\.toml|cluster\.yaml|mkdocs\.yml")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


def parse(command: typer.core.TyperCommand, words: list[str]) -> tuple[str, dict[str, object]]:
    """The name of the subcommand that the words call, and its parameters; a wrong option is an error."""
    names_only = all(word.isalpha() for word in words)  # such as `scpl report` in a sentence
    context = command.make_context("scpl", list(words), resilient_parsing=names_only)
    if not isinstance(command, TyperGroup):
        return "", dict(context.params)
    rest = [*context._protected_args, *context.args]
    asked = rest[0]
    name, inner, rest = command.resolve_command(context, rest)
    assert inner is not None, f"no command {asked}"
    sub, parameters = parse(inner, rest)
    return f"{name} {sub}".strip(), parameters


def check_keys(arguments: list[str], *, may_change: bool = False) -> None:
    """A config and keys that a run would take; data of the reader's is not looked for."""
    given = [word for word in arguments if word not in OWN_CONFIGS]
    path, overrides = cli.split_arguments(given)
    experiments.load(path, overrides)
    if may_change:
        assert {key for key, _ in map(loading.parse_override, overrides)} <= set(cli.MAY_CHANGE)


def check_scpl(words: list[str]) -> None:
    name, parameters = parse(typer.main.get_command(cli.app), words)
    match name:
        case "run":
            check_keys(parameters["arguments"] or [], may_change=parameters["resume"] is not None)
        case "simulate" | "compare" | "judge train" | "reward train":
            check_keys(parameters["arguments"] or [])
        case "data check" if parameters["task"] is None:
            pass  # its name in a sentence
        case "data check":
            check_keys([f"task.name={parameters['task']}", "task.data=FILE", *(parameters["keys"] or [])])
        case "sweep":
            given = parameters["arguments"] or [None]
            known = {None, *STUDIES, *OWN_STUDIES}
            assert parameters["resume"] or given[0] in known or (ROOT / given[0]).is_file(), given
            if given[0] in STUDIES or (given[0] and (ROOT / given[0]).is_file()):
                keys = dict(map(loading.parse_override, given[1:]))
                study.load(STUDIES.get(given[0], ROOT / given[0]), CONFIGS, quick=parameters["quick"], keys=keys)
        case "init":
            assert parameters["config"] is None or parameters["config"] in CONFIGS
        case "list":
            listing.show(parameters["what"], Console(file=io.StringIO()))
        case "report" | "doctor" | "measure" | "sample" | "status" | "push":
            pass
        case _:
            raise AssertionError(f"no check for scpl {name}: add one")


def check_module(words: list[str]) -> None:
    """A module that exists and knows the options it is given."""
    module, arguments = words[0], words[1:]
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    if module in APPS:
        parse(typer.main.get_command(APPS[module]), arguments)
    elif module == "jobs.loop":
        check_keys(arguments[: arguments.index("--run-dir")])
    else:
        source = Path(spec.origin).read_text()
        for option in (word for word in arguments if word.startswith("--")):
            assert f'"{option}"' in source, f"{module} knows no {option}"


@pytest.fixture
def code_of_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with the code that the pages show or have the reader write."""
    (rules,) = (body for body in blocks(DOCS / "extending.md", "python") if "def crowding" in body)
    (tmp_path / "my_rules.py").write_text(rules)
    init.write_task(tmp_path / "pets.py")
    monkeypatch.chdir(tmp_path)
    yield
    own_code.forget("my_rules", "pets")


@pytest.mark.usefixtures("code_of_the_pages")
@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_exist_with_their_options_and_keys(page: Path, caplog: pytest.LogCaptureFixture) -> None:
    for program, *words in commands(page):
        if program == "scpl":
            check_scpl(words)
        else:
            check_module(words[1:])
    assert not [record for record in caplog.records if record.name == "scpl_ray.studies.given"]


def test_a_wrong_command_option_or_key_is_found() -> None:
    for words, message in (
        (["runn"], "no command runn"),
        (["run", "--resum", "x"], "No such option"),
        (["run", "loop.roundss=2"], "the nearest is loop.rounds"),
        (["sweep", "study_nothing"], "study_nothing"),
        (["sweep", "study_paper_tiny", "arms=[shifted]", "feedback.rule=static"], "every arm sets it itself"),
    ):
        with pytest.raises((AssertionError, ConfigError, TyperException), match=message):
            check_scpl(words)
    with pytest.raises(AssertionError):
        check_module(["tests.campaigns.soak", "--hours", "3"])


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_keys_in_running_text_exist(page: Path) -> None:
    keys = set(docs.keys())
    sections = {key.partition(".")[0] for key in keys if "." in key}
    named = {match[1] for code in inline(page) if (match := re.match(r"'?([a-z_]+\.[a-z_.]+)(?:=|:|$)", code))}
    named = {key for key in named if key.partition(".")[0] in sections and key not in FILE_NAMES}
    assert named - keys - WRONG_KEYS == set()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_study_files_that_a_page_shows_are_studies(page: Path, tmp_path: Path) -> None:
    for i, body in enumerate(blocks(page, "yaml")):
        file = tmp_path / f"{i}.yaml"
        file.write_text(body)
        plan = study.load(file, CONFIGS)
        assert plan.claims and study.trials(plan, CONFIGS, experiments.build)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = {path for code in inline(page) for path in PATH.findall(code)}
    assert {path for path in named if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_and_images_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        target, _, anchor = link.partition("#")
        if target.startswith("http"):
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name}: {link}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_the_tree_of_the_readme_is_the_tree() -> None:
    (tree,) = (body for body in blocks(ROOT / "README.md") if body.startswith("scpl_ray/"))
    places = [ROOT, *(ROOT / name for name in ("scpl_ray", "actors", "jobs", "tests"))]
    for name in re.findall(r"\b(\w+)/", tree):
        assert any((place / name).is_dir() for place in places), name


def test_the_readme_is_short_and_holds_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert sum(line.startswith("python3 -m venv") for line in lines) == 2


@pytest.mark.parametrize("name", docs.PAGES)
def test_generated_pages_are_what_the_code_gives(name: str) -> None:
    assert (DOCS / name).read_text() == docs.PAGES[name](), "run `python -m jobs.docs`"


def test_every_key_and_every_registered_name_is_on_the_page_of_config_keys() -> None:
    page = (DOCS / "config.md").read_text()
    keys = set(docs.keys())
    sections = {key.rpartition(".")[0] for key in keys}
    rows = set(re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE))
    assert keys - sections - rows == set()
    names = (*RULES, *STRATEGIES, *TASKS, *CYCLES, *PRESETS, *OBJECTIVES, *ENGINES)
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]
    assert {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} == set(re.findall(r"[\w/-]+\.md", navigation))


def test_the_page_on_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks in their order, on a run that was made with fakes and the study of the tutorial."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    finished(tmp_path / "runs" / "first", experiments.load(None, SMALL))
    (tmp_path / "my_study.yaml").write_text(blocks(DOCS / "first-study.md", "yaml")[0])
    scpl_ray.sweep("my_study.yaml", study_dir="studies/first")
    names: dict[str, object] = {}
    for body in blocks(DOCS / "python.md", "python"):
        exec(compile(body, "python.md", "exec"), names)
    assert (tmp_path / "studies" / "rules" / "results.parquet").is_file()
