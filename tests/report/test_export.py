"""What a paper takes from a report."""

import csv
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.configs import CONFIGS
from scpl_ray.records import Metric
from scpl_ray.report import data, export, page, text
from scpl_ray.report.data import Part, Run
from scpl_ray.storage.run_directory import Reader
from scpl_ray.studies import results
from scpl_ray.studies.series import Series
from scpl_ray.studies.study import Study, StudyClaim
from tests.support.configs import defaults
from tests.support.html_page import Reading

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert runner.invoke(app, ["compare", "--simulate", "--study-dir", "s", "loop.rounds=2"]).exit_code == 0
        result = runner.invoke(app, ["report", "s", "--csv", "--latex"])
        assert result.exit_code == 0, result.output
    return place / "s/report"


def test_the_table_has_a_row_per_claim(folder: Path) -> None:
    with (folder / "claims.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == export.COLUMNS and row["seeds"] == "6" and row["verdict"] == "supported"
    assert float(row["low"]) <= float(row["estimate"]) <= float(row["high"])
    table = (folder / "claims.tex").read_text()
    assert row["estimate"] in table and table.count(r"\\") == 4 and not re.search(r"(?<!\\)[_#]", table)


def test_a_row_says_what_was_claimed_and_how_many_seeds_there_are_though_nothing_is_judged() -> None:
    asked = CLAIM.model_copy(update={"direction": "below 0", "margin": 0.02})
    rows = [*export.claims(part("one", "0.1.0", ARMS, seeds=1, claims=(asked,)), "one")]
    (row,) = (dict(zip(export.COLUMNS, row, strict=True)) for row in rows)
    assert (row["direction"], row["margin"], row["seeds"], row["verdict"]) == (
        "below 0",
        "0.02",
        "1",
        "not enough seeds",
    )
    assert "& below 0, margin 0.02 & 1 & -- &" in export.as_latex(rows)


def test_the_latex_table_has_the_metric_with_its_round_and_scale_and_the_number_of_seeds() -> None:
    asked = CLAIM.model_copy(update={"metric": "preference_log_odds_balanced"})
    (row,) = export.claims(part("one", "0.1.0", ARMS, seeds=6, claims=(asked,)), "one")
    said = export.as_latex([row])
    assert r"}{c: \emph{preference log-odds above balance, round 1, share}} \\" in said
    assert r"\raggedright a - b & above 0 & 6 & " in said
    uncompared = (*row[:10], "4", "2 5", *row[12:])
    assert r"\raggedright a - b & above 0 & 4 of 6 & " in export.as_latex([uncompared])


def test_the_methods_say_what_was_run(folder: Path) -> None:
    said = (folder / "methods.tex").read_text()
    for fact in (
        "2 arms with 6 seeds each and 2 self-consuming rounds",
        "the analytic mode",
        "256 queries",
        "north, south",
    ):
        assert fact in said
    assert "the rule retention or static" in said and "1 claim was fixed" in said
    assert "2601.05184" in (folder / "references.bib").read_text()


def test_characters_of_latex_are_text() -> None:
    claim, rest = r'50% of a_b & c\d <e> | "f"', ("above 0", "0.02", "", "", "", "1", "", "", "not enough seeds")
    row = ("s", "", claim, f"a {text.MINUS} b", "share, a_b", *rest)
    wanted = r"50\% of a\_b \& c\textbackslash{}d \textless{}e\textgreater{} \textbar{} ''f'': \emph{share, a\_b}"
    said = export.as_latex([row])
    assert rf"{{{wanted}}} \\" in said
    assert r"\raggedright a - b & above 0, margin 0.02 & 1 & -- & -- & not enough seeds \\" in said


@pytest.mark.parametrize("claim", ["[2cm] is no length", "*starred", " [after a blank"])
def test_a_claim_is_no_argument_of_what_stands_before_it(claim: str) -> None:
    row = ("s", "", claim, claim, "", "below 0", *[""] * 4, "1", "", "", "cannot tell")
    lines = export.as_latex([row, row]).splitlines()
    assert len([line for line in lines if claim in line]) == 4
    assert [line for line in lines if line.lstrip().startswith(("[", "*"))] == []


def test_no_cell_of_the_table_is_a_formula_and_numbers_stay_numbers() -> None:
    names = ["=1+1", "+1-1", "-1+1", "@SUM(A1)", "a=b", "\t=1", "\r=1"]
    numbers = ("-0.25", "-1e-05", "+0.5", "6", "", "0.03")
    rows = [("s", "", name, "c", "m", "above 0", "", *numbers, "supported") for name in names]
    found = list(csv.DictReader(io.StringIO(export.as_csv(rows), newline="")))
    assert [row["claim"] for row in found] == [*(f"'{name}" for name in names[:4]), "a=b", "⇥\t=1", "⟨U+000D⟩=1"]
    assert {(row["estimate"], row["low"], row["high"]) for row in found} == {("-0.25", "-1e-05", "+0.5")}


CONTRAST = {"a": 1.0, "b": -1.0}
CLAIM = StudyClaim(name="c", metric="quality_mean", contrast=CONTRAST)


def measured(more: float) -> list[Metric]:
    shares = [Metric(t, g, m, 0.5) for t in (0, 1) for g in ("north", "south") for m in ("share", "kind_share")]
    return [Metric(1, None, "quality_mean", 0.5 + more), *shares]


def part(name: str, version: str, arms: Mapping[str, Sequence[str]], seeds: int = 2, **keys: object) -> Part:
    """A study whose arms have these overrides and numbers of seeds, and whose runs were made with a version."""
    asked = Study.model_validate({"name": name, "arms": {arm: {} for arm in arms}, "claims": (CLAIM,)} | keys)
    experiments = {arm: defaults(overrides) for arm, overrides in arms.items()}
    table = results.table([(arm, s, measured(s / 100)) for arm in arms for s in range(seeds)])
    # the folder of a run is not read
    run = Run("a", 0, cast(Reader, None), experiments["a"], {"scpl_ray": version}, {})
    return Part(
        name, f"/there/{version}/{name}", asked, tuple(arms), table, Series.of(table), experiments, (run,), (), ()
    )


ARMS = {"a": [], "b": []}


def test_tables_of_several_studies_name_them(tmp_path: Path) -> None:
    export.write([part("one", "0.1.0", ARMS), part("two", "0.2.0", ARMS)], tmp_path, csv=True, latex=True)
    with (tmp_path / "claims.csv").open() as file:
        assert [row["study"] for row in csv.DictReader(file)] == ["one", "two"]
    table = (tmp_path / "claims.tex").read_text()
    assert r"\multicolumn{6}{l}{\textit{two}} \\" in table and table.count(r"\midrule") == 2
    assert "version = {0.1.0 and 0.2.0}" in (tmp_path / "references.bib").read_text()


def test_studies_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    export.write([part("one", "0.1.0", ARMS), part("one", "0.2.0", ARMS)], tmp_path, csv=True, latex=False)
    with (tmp_path / "claims.csv").open() as file:
        assert [row["study"] for row in csv.DictReader(file)] == ["0.1.0/one", "0.2.0/one"]


def test_the_methods_state_the_groups_of_all_arms_and_count_points() -> None:
    other = ["groups.names=[x, y, z]", "groups.shares=[0.5, 0.25, 0.25]"]
    said = export.stated(part("one", "0.1.0", {"a": [], "b": other}, axes={"selection.beta": (0.5, 1.0, 2.0)}))
    assert (
        "queries of the groups north, south or x, y, z, at first in the shares 0.6, 0.4 or 0.5, 0.25, 0.25, got" in said
    )
    assert "held-out prompts per group (north, south or x, y, z)" in said
    assert "1 claim was fixed in the study file, each at 3 points of the axes, which makes 3 claims." in said
    assert "None was tested: a test takes 6 seeds with a finite number in every arm." in said
    assert "points" not in export.stated(part("one", "0.1.0", ARMS))


def test_the_methods_state_in_what_the_arms_differ() -> None:
    arms = {
        "a": ["cycle.kind=accumulate"],
        "random": ["selection.matched_control=true", "reward.terms={correct: 1.0, length: 0.5}"],
        "quotas": ["selection.strategy=quotas", "reward.choices=balanced", "cycle.real_share=0.25"],
    }
    named = {"a": {}, "random": {"selection.matched_control": True}, "quotas": {"task": {"data": "/home/me/d.jsonl"}}}
    asked = {"set": {"feedback.step": [0.1, -0.1]}, "axes": {"selection.beta": (0.5, 1.0)}}
    one = part("one", "0.1.0", arms, claims=(), **asked)
    assert one.study is not None
    said = export.stated(dataclasses.replace(one, study=one.study.model_copy(update={"arms": named})))
    for fact in (
        "selection was vrs or as many at random as vrs keeps or quotas, training",
        "Rewards were a model of choices by the current users or the term correct + 0.5 "
        f"{text.TIMES} the term length or a model of choices by all groups equally.",
        "A round trained on what it and all rounds before kept or what it kept or what it kept with a share of 0.25 of "
        "real data (anchored).",
        "Set for all arms: feedback.step = [0.1, -0.1].",
        "Arms were run at all points of the axes selection.beta (0.5, 1.0).",
        "Set by each arm on top of that: a: nothing; random: selection.matched_control = true; quotas: task.data = "
        "d.jsonl.",
    ):
        assert fact in said


def test_the_methods_of_a_published_study_name_its_remedy() -> None:
    (one,) = data.load([Path(__file__).parents[2] / "docs/results/remedy_engines"], CONFIGS)
    said = export.stated(one)
    assert "choices by the current users or a model of choices by all groups equally" in said
    assert (
        "static-quotas: selection.strategy = quotas, selection.keep_fraction = 0.05, reward.choices = balanced" in said
    )


def test_the_methods_state_the_tests_that_were_made_and_no_others() -> None:
    claims = {
        "q": {"metric": "quality_mean"},
        "m": {"metric": "quality_mean", "margin": 0.1},
        "d": {"metric": "total_variation_balanced"},
        "s": {"metric": "preference_log_odds_balanced"},
        "none": {"metric": "distinct_2"},
    }

    def said(seeds: int, *names: str) -> str:
        asked = [StudyClaim.model_validate({"name": n, "contrast": CONTRAST, **claims[n]}) for n in names]
        return export.stated(part("one", "0.1.0", ARMS, seeds, claims=asked))

    plain = said(6, "q")
    assert "Each was tested on the differences" in plain and "over 1 tested claim at the 5% level." in plain
    assert "margin" not in plain and "distance" not in plain and "log-odds" not in plain
    some = said(6, "q", "none", "m")
    assert "2 of 3 were tested on the differences" in some
    assert "over 2 tested claims at the 5% level; a test takes 6 seeds" in some
    assert "Claims with a margin were tested against it." in some
    assert "jointly over kinds, that the mean shares differ at all; the larger p-value counts." in said(6, "d")
    assert "tested as differences in its share, whose mean chance alone does not move." in said(6, "s")
    few = said(5, *claims)
    assert "None was tested" in few and "sign-flip" not in few and "Holm" not in few


def test_what_is_to_be_copied_has_line_breaks_and_nothing_that_acts() -> None:
    assert text.copyable("a \\\n  b\x1b[31m\r\u202e\n") == "a \\\n  b⟨U+001B⟩[31m⟨U+000D⟩⟨U+202E⟩\n"


def test_commands_and_references_can_be_copied_from_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_began", lambda _: [("scpl run \\\n  'name=<b>\x1b'", 1)])
    (one,) = data.load([folder.parent], {})
    found = Reading()
    found.feed(page.render([page.view(one, "")], "now"))
    command, references = found.preformatted
    assert command == "scpl run \\\n  'name=<b>⟨U+001B⟩'"
    assert references == export.references(one)
