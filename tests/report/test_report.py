"""The report of studies and runs: whole, broken and hostile ones."""

import json
import math
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from jobs import report
from jobs.cli import app
from scpl_ray.config import Experiment
from scpl_ray.judges.card import DEPLOYED, JudgeCard, Measured
from scpl_ray.records import Completion, Metric, from_table, to_table
from scpl_ray.report import data, evidence, text
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import Store
from scpl_ray.studies import results, study
from scpl_ray.studies.study import Search, Study, StudyClaim
from tests.support import fakes
from tests.support.html_page import read
from tests.support.loops import loop

HOSTILE = "<script>alert(1)</script>"
NORTH, SOUTH = f"nord {HOSTILE} $x$", "جنوب"
SIZES = {
    "generation.engine": "transformers",
    "groups.names": [NORTH, SOUTH],
    "queries.prompts_per_round": 40,
    "evaluation.prompts_per_group": 10,
    "evaluation.neutral_prompts": 30,
    "loop.rounds": 3,
}
CLAIMS = (
    StudyClaim(
        name=f"raises preference {HOSTILE}",
        question="a",
        metric="preference_log_odds_round0",
        contrast={"performative": 1.0, "static": -1.0},
    ),
    StudyClaim(
        name="lowers the gap",
        question="b",
        metric="disparate_gap",
        contrast={"performative": 1.0, "static": -1.0},
        direction="below 0",
    ),
    StudyClaim(name="never ran", metric="disparate_gap", contrast={"absent": 1.0, "static": -1.0}),
)
STUDY = Study(
    name="remedy",
    title=f"Remedy {HOSTILE}",
    seeds=3,
    set=SIZES,
    arms={
        "unclaimed": {"selection.strategy": "tpp"},
        "static": {"feedback.rule": "static"},
        "performative": {"feedback.rule": "schedule", "feedback.step": [0.1, -0.1]},
        "absent": {"selection.strategy": "top"},
    },
    claims=CLAIMS,
)


def run_fakes(root: Path, experiment: Experiment, base: Path) -> None:
    store = Store.create(root, experiment, {"ray": f"1 {HOSTILE}"})
    loop(store, experiment, base).run()
    store.close()


def write_study(folder: Path, base: Path) -> Path:
    """Four arms; one without results, one failed seed, one run cut short."""
    fakes.make_base(base, 2)
    folder.mkdir()
    (folder / study.STUDY_FILE).write_text(study.dump(STUDY))
    found = []
    for trial in study.trials(STUDY, {}):
        if trial.arm == "absent" or (trial.arm, trial.seed) == ("static", 2):
            continue
        run_dir = folder / trial.folder
        run_fakes(run_dir, trial.experiment, base)
        if (trial.arm, trial.seed) == ("unclaimed", 1):
            shutil.rmtree(run_dir / "rounds" / "003")
            shutil.rmtree(run_dir / "rounds" / "002" / "feedback")
        found.append((trial.label, trial.seed, results.run_rows(run_dir)))
    results.write(results.table(found), folder)
    (folder / study.FAILED_FILE).write_text(json.dumps({"runs/static/seed-002": f"out of memory {HOSTILE} \x1b[31m"}))
    return folder


def card() -> JudgeCard:
    measured = Measured(DEPLOYED, "windows of 24 words", 10, 8, ((3, 1), (1, 3)), (0, 0))
    return JudgeCard((NORTH, SOUTH), 24, "0" * 64, {}, (measured,), {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    folder = write_study(root / "remedy", root / "base")
    for run_dir in (folder / "runs" / "static").iterdir():
        card().save(run_dir)
    path = folder / "runs/static/seed-000/rounds/003/evaluation/completions.parquet"
    answers = from_table(pq.read_table(path, partitioning=None), Completion)
    strange = "\x1b[31mred\u202egnp.exe\x00 <img src=x onerror=alert(1)> שלום"
    pq.write_table(to_table([with_text(c, strange) for c in answers], Completion), path)
    return folder


def with_text(completion: Completion, said: str) -> Completion:
    values = {name: getattr(completion, name) for name in Completion.__slots__}
    return Completion(**values | {"text": said})


@pytest.fixture(scope="module")
def page(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write([folder], tmp_path_factory.mktemp("out"))


def test_the_page_loads_nothing_and_runs_nothing(page: Path) -> None:
    found = read(page)
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & {tag for tag, _ in found.tags}
    for tag, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/svg+xml;base64,")), attributes
    style = page.read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style and "@media print" in style


def test_foreign_text_is_shown_and_does_nothing(page: Path) -> None:
    raw, said = page.read_text(encoding="utf-8"), read(page).said()
    assert "<script" not in raw and "<img src=x" not in raw
    assert f"Remedy {HOSTILE}" in said and f"raises preference {HOSTILE}" in said and SOUTH in said
    assert f"out of memory {HOSTILE} ⟨U+001B⟩[31m" in said
    assert "⟨U+202E⟩gnp.exe⟨U+0000⟩ <img src=x onerror=alert(1)> שלום" in said
    assert not [c for c in raw if ord(c) < 32 and c != "\n"] and "\u202e" not in raw


def test_the_page_can_be_read_by_a_machine_that_reads_aloud(page: Path) -> None:
    found = read(page)
    assert found.of("html")[0]["lang"] == "en"
    assert all(attributes.get("scope") in ("col", "row") for attributes in found.of("th"))
    assert found.of("img") and all(str(a["alt"]).startswith("Line chart.") for a in found.of("img"))
    assert "width=device-width" in str(found.of("meta"))


def test_the_page_says_what_is_missing(page: Path) -> None:
    said = read(page).said()
    assert "3 of 4 have results" in said
    assert "absent, seeds 0, 1, 2: no result" in said
    assert "unclaimed, seed 1: stopped after round 2 of 3" in said
    assert "static, seed 2: failed: out of memory" in said
    assert "Not compared: seed 2 (no number in static)." in said


def test_a_study_whose_first_seed_is_missing_lacks_that_and_no_other(tmp_path: Path) -> None:
    (tmp_path / study.STUDY_FILE).write_text("name: s\nseeds: 3\narms: {a: {}}\n")
    found = [("a", seed, [Metric(1, None, "quality_mean", 0.5)]) for seed in (1, 2)]
    results.write(results.table(found), tmp_path)
    (part,) = data.load([tmp_path], {})
    assert [(gap.arm, gap.seed, gap.reason) for gap in part.gaps] == [("a", 0, "no result")]


def test_every_claim_has_a_verdict_in_words(page: Path) -> None:
    said = read(page).said()
    facts = json.loads((page.parent / "report.json").read_text())
    (part,) = facts["parts"]
    assert [claim["question"] for claim in part["claims"]] == ["a", "b", ""]
    assert part["claims"][2]["outcome"] == "not enough seeds" and "absent: no seed has it" in said
    for claim in part["claims"]:
        assert " ".join(claim["sentence"].split()) in said
    assert part["claims"][0]["differences"].keys() == {"0", "1"}
    assert "2 of 3 claims could be judged" in said


def test_report_json_holds_all_paths(page: Path, folder: Path) -> None:
    (part,) = json.loads((page.parent / "report.json").read_text())["parts"]
    assert part["arms"].keys() == {"static", "performative", "unclaimed"}
    (path,) = [p for p in part["arms"]["static"]["paths"] if p["metric"] == "quality_mean" and p["group"] is None]
    table = results.read(folder).to_pandas()
    rows = table[(table.arm == "static") & (table.metric == "quality_mean")]
    assert path["mean"] == pytest.approx(rows.groupby("round")["value"].mean().tolist())
    assert part["arms"]["static"]["stability"] == "cannot tell"


def test_figures_lie_beside_the_page(page: Path) -> None:
    names = {"shares", "preference", "disparity", "perplexity"}
    assert names <= {p.stem for p in page.parent.glob("*.svg")} == {p.stem for p in page.parent.glob("*.png")}
    for drawing in page.parent.glob("*.svg"):
        raw = drawing.read_text(encoding="utf-8")
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(raw).iter()}
        assert "script" not in tags and "image" not in tags
    shares = (page.parent / "shares.svg").read_text(encoding="utf-8")
    assert SOUTH in shares and "performative" in shares and "$x$" in shares


def test_the_judge_stands_beside_the_shares_it_produced(page: Path) -> None:
    found = read(page)
    said = found.said()
    assert "Kinds were counted by a judge that errs: see its card" in said and "Judge of static" in said
    assert {"href": "#judge-1"} in found.of("a") and "macro F1" in said and "0.750" in said


def test_selection_is_described_by_what_it_saw_and_kept(folder: Path) -> None:
    (part,) = data.load([folder], {})
    found = evidence.selected(part.series, part.runs, "performative")
    assert found is not None and found.round == 3 and 0 < found.kept_fraction < 1
    (north, asked, before, kept), (_, other_asked, other_before, other_kept) = found.shares
    assert north == NORTH and asked == pytest.approx(0.8) and before is not None and other_before is not None
    assert [before + other_before, kept + other_kept, asked + other_asked] == pytest.approx([1.0, 1.0, 1.0])


def test_samples_follow_one_prompt_per_group_through_the_rounds(folder: Path) -> None:
    (part,) = data.load([folder], {})
    found = evidence.samples(part, "static")
    assert [(s.round, s.group) for s in found] == [(t, g) for t in (0, 2, 3) for g in (NORTH, SOUTH, None)]
    assert len({s.prompt for s in found if s.group == NORTH}) == 1
    assert evidence.samples(part, "absent") == []


def test_a_study_without_a_table_is_read_from_its_runs(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / results.FILE).unlink()
    (copy / "runs/unclaimed/seed-000/config.yaml").write_text("loop: {rounds: many}")
    (part,) = data.load([copy], {})
    left_out, table = part.notes
    assert table == "There is no results.parquet yet: the numbers were read from 7 run directories."
    assert left_out.startswith("runs/unclaimed/seed-000 cannot be read and is left out")


def test_a_single_run_supports_no_claim(folder: Path, tmp_path: Path) -> None:
    run_dir = folder / "runs/static/seed-000"
    said = read(report.write([run_dir], tmp_path)).said()
    assert "one seed without a control supports no claim" in said and "Verdicts" not in said
    assert "What was written" in said and "Where the time went" in said
    assert "cannot tell: fewer than 2" in said and "one seed" in said


def test_intervals_within_a_run_stand_beside_those_between_seeds(folder: Path, page: Path, tmp_path: Path) -> None:
    def path_of(report_page: Path, arm: str) -> dict[str, list[float]]:
        (part,) = json.loads((report_page.parent / "report.json").read_text())["parts"]
        (found,) = [p for p in part["arms"][arm]["paths"] if p["metric"] == "preference_log_odds_balanced"]
        return dict(found)

    single = report.write([folder / "runs/static/seed-000"], tmp_path / "one")
    alone, many = path_of(single, "remedy-static"), path_of(page, "static")
    assert alone["low"] == [None] * 4 and None not in many["low"]
    for found in (alone, many):
        bounds = zip(found["within_run_low"], found["mean"], found["within_run_high"], strict=True)
        assert all(low < value < high for low, value, high in bounds)
    assert "intervals of one run over its prompts, in every round that has one; another seed" in read(single).said()
    assert "they say nothing of other seeds" in read(page).said()


def test_runs_of_an_older_version_have_a_page_without_them(folder: Path, tmp_path: Path) -> None:
    old = shutil.copytree(folder / "runs/static/seed-000", tmp_path / "old")
    for path in old.glob("rounds/*/evaluation/metrics.parquet"):
        pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["low", "high"]), path)
    (part,) = data.load([old], {})
    assert not any(part.series.within.values())
    assert "Capped error bars" not in read(report.write([old], tmp_path / "page")).said()


def test_runs_that_differ_in_their_seed_only_are_one_arm(folder: Path, tmp_path: Path) -> None:
    static, other = folder / "runs/static", folder / "runs/performative"
    (part,) = data.load([static / "seed-000", static / "seed-001", other / "seed-000"], {})
    assert part.arms == ("remedy-static", "remedy-performative") and part.series.seeds == (0, 1)
    copy = shutil.copytree(static / "seed-000", tmp_path / "copy")
    with pytest.raises(StoreError, match="same config and seed"):
        data.load([static / "seed-000", copy], {})


def test_what_a_search_sampled_is_listed_by_its_folder(folder: Path, tmp_path: Path) -> None:
    found = Study(
        name="best", mode="search", search=Search(metric="disparate_gap"), axes={"selection.beta": (0.5, 1.0)}
    )
    sampled = tmp_path / "runs" / "sampled"
    shutil.copytree(folder / "runs/static/seed-000", sampled / "0a1b")
    shutil.copytree(folder / "runs/performative/seed-000", sampled / "2c3d")
    (tmp_path / study.STUDY_FILE).write_text(study.dump(found))
    (tmp_path / study.FAILED_FILE).write_text(json.dumps({"runs/sampled/4e5f": "out of memory"}))
    said = read(report.write([tmp_path], None)).said()
    assert "0a1b 1 3 as usual" in said and "2c3d 1 3 feedback.rule=schedule" in said and ": no result" not in said
    assert "1 of 1 have results" in said
    assert "4e5f: failed: out of memory" in said and "The study states no claims" in said


def analytic(folder: Path, arms: int, *, died: bool = False) -> Path:
    """A study of the analytic mode: no run directories."""
    found = Study(
        name="wide",
        mode="analytic",
        seeds=3,
        set={"generation.engine": "transformers"},
        arms={f"arm{i:02d}": {"seed": i} for i in range(arms)},
        claims=(StudyClaim(name="c", metric="quality_mean", contrast={"arm07": 1.0, "arm05": -1.0}),) * (arms > 7),
    )
    folder.mkdir()
    (folder / study.STUDY_FILE).write_text(study.dump(found))
    runs = []
    for i in range(arms):
        for seed in range(3):
            own = []
            for t in range(3):
                share = 1.0 if died and t == 2 else 0.5 + 0.01 * (seed + i + t)
                quality = math.nan if died and t == 1 else 0.5 + 0.1 * seed / (i + 1)
                own += [Metric(t, "a", "share", share), Metric(t, "b", "share", 1 - share)]
                own += [Metric(t, "a", "quality", 0.9), Metric(t, "b", "quality", quality)]
                own.append(Metric(t, None, "quality_mean", quality))
            runs.append((f"arm{i:02d}", seed, own))
    results.write(results.table(runs), folder)
    return folder


def test_of_many_arms_those_of_claims_come_first(tmp_path: Path) -> None:
    page = report.write([analytic(tmp_path / "wide", 30)], None)
    said = read(page).said()
    assert "14 of 30 arms with results are listed and drawn on this page" in said
    assert "arm07" in said and "arm05" in said and "arm09" in said and "arm29" not in said
    assert "There are no run directories" in said
    assert len(json.loads((page.parent / "report.json").read_text())["parts"][0]["arms"]) == 30
    assert page.stat().st_size < 1_000_000


def test_a_group_that_died_out_and_numbers_that_do_not_exist(tmp_path: Path) -> None:
    said = read(report.write([analytic(tmp_path / "died", 2, died=True)], None)).said()
    assert "a group died out" in said and "cannot tell: fewer than 2 whole seeds" in said
    assert "nan" not in said.lower().split()


def test_what_intervals_are_conditional_on_stands_beside_them(page: Path, tmp_path: Path) -> None:
    said = read(page).said()
    assert said.count("on condition of one base model (tiny), one set of held-out prompts, and one judge") == 2
    analytic_mode = read(report.write([analytic(tmp_path / "wide", 8)], None)).said()
    assert "its formulas and parameters are taken as true" in analytic_mode


def test_a_study_of_many_base_models_prints_how_much_they_differ(tmp_path: Path) -> None:
    found = Study(name="bases", seeds=4, vary="base", set={"generation.engine": "transformers"})
    (tmp_path / study.STUDY_FILE).write_text(study.dump(found))
    runs = []
    for seed, north in enumerate((40, 50, 60, 70)):
        own = [Metric(t, g, "share", 0.5) for t in (0, 1) for g in ("north", "south")]
        for t in (0, 1):
            for group, count in (("north", north), ("south", 100 - north)):
                own += [Metric(t, group, "kind_count", count), Metric(t, group, "kind_share", count / 100)]
        runs.append(("only", seed, own))
    results.write(results.table(runs), tmp_path)
    said = read(report.write([tmp_path], None)).said()
    # sd of the shares .129; counting makes sqrt(mean p (1 - p) / 100) = .0485
    assert (
        "Between 4 base models the share of north's kind in round 0 has standard deviation 0.120 around 0.550" in said
    )
    assert "on condition of base models trained anew per seed" in said


def test_several_studies_make_one_page(tmp_path: Path) -> None:
    page = report.write([analytic(tmp_path / "one", 2), analytic(tmp_path / "two", 2)], tmp_path / "out")
    assert len(read(page).of("h1")) == 2
    assert (tmp_path / "out/part1-shares.svg").exists() and (tmp_path / "out/part2-shares.svg").exists()


def test_paths_that_hold_no_results_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / study.STUDY_FILE).write_text(study.dump(STUDY))
    for name, message in (
        ("nowhere", "no such folder"),
        ("empty", "neither study.yaml nor run.json in it"),
        ("study", "a study without any result"),
    ):
        result = CliRunner().invoke(app, ["report", str(tmp_path / name)])
        assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.output
        assert result.stderr.count("\n") == 1


def test_folders_that_cannot_be_written_and_files_that_are_damaged(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["report", str(folder), "--output", str(tmp_path / "file")])
    assert result.exit_code == 2 and "--output" in result.stderr
    for content, message in (("[]", "holds a list"), ("{", "not JSON")):
        copy = shutil.copytree(folder, tmp_path / f"copy{len(content)}")
        (copy / study.FAILED_FILE).write_text(content)
        with pytest.raises(StoreError, match=message):
            data.load([copy], {})
    (copy / study.FAILED_FILE).unlink()
    (copy / "runs/static/seed-000/card.json").write_text("{}")
    (part,) = data.load([copy], {})
    with pytest.raises(StoreError, match="no judge card"):
        evidence.cards(part, ["static"])


@given(st.text())
def test_visible_text_holds_nothing_that_acts(said: str) -> None:
    shown = text.visible(said)
    assert all(c in "\n\t\u200c\u200d" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") for c in shown)
    shown.encode("utf-8")
    assert text.visible("a\ud800b") == "a⟨U+D800⟩b"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "\N{EN DASH}"),
        (math.nan, "\N{EN DASH}"),
        (-0.5, "\N{MINUS SIGN}0.500"),
        (0.0, "0.000"),
        (1e-5, "1e\N{MINUS SIGN}05"),
        (-math.inf, "\N{MINUS SIGN}∞"),
        (1234.6, "1,235"),
        (1e-17, "0.000"),
    ],
)
def test_numbers_are_written_for_people(value: float | None, shown: str) -> None:
    assert text.number(value) == shown


def test_long_texts_are_cut_aloud() -> None:
    assert text.cut("x" * 700).endswith("… [100 more characters]")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_shows_the_page_without_errors_or_requests(page: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    shown = subprocess.run(
        [
            "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
            "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
            f"--log-net-log={log}", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "What the claims say" in shown.stdout and "CONSOLE" not in shown.stderr
    # the browser's own errands have no origin, a page from a file has the origin "null"
    assert set(re.findall(r'"initiator":"([^"]*)"', log.read_text())) <= {"not an origin"}
