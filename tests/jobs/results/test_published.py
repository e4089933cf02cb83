"""What the pages keep of studies that were run: the committed tables follow from the committed results."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from jobs.results import published
from jobs.results.__main__ import app
from scpl_ray.report import text
from scpl_ray.report.text import MINUS
from scpl_ray.studies import results, verdicts
from scpl_ray.studies.statistics import mean_interval
from scpl_ray.studies.study import STUDY_FILE, Study, dump
from tests.docs.pages import DOCS
from tests.jobs.results.pages import numbers_of, words_of

KEPT = sorted(file.parent for file in (DOCS / "results").glob(f"*/{STUDY_FILE}"))
QUICK = DOCS / "results" / "compare-quickstart"
PAGES = [file.read_text() for file in (DOCS / "results").glob("*.md")]
SEEDS = {"loop": "users react: preference since round 0", "static": "the same users in every round"}
"""The rows of the quick start's table of seeds, by arm."""
ON_AVX2 = {"loop": "AVX2, users react", "static": "AVX2, the same users in every round"}


def judge_of(study: str) -> dict[str, Any]:
    """The card of the judge of a study."""
    card: dict[str, Any] = json.loads((DOCS / "results" / study / published.JUDGE).read_bytes())
    return card


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_the_table_of_the_page_follows_from_the_results_beside_it(folder: Path) -> None:
    part = published.read(folder)
    assert part.study is not None and part.study.name == folder.name and part.gaps == ()
    (page,) = [page for page in PAGES if f"<!-- study {folder.name} -->" in page]
    assert published.table(part, verdicts.judge(part.series, part.study)) in page
    drawn = [file.name for file in folder.glob("*.svg")]
    several = len(part.study.claims) > 1
    assert {f"{name}.svg" for name in published.DRAWN if several or name != published.CLAIMS} == set(drawn)
    assert [name for name in drawn if f"({folder.name}/{name})" not in page] == []


def test_every_seed_of_the_quick_start_is_on_the_page() -> None:
    page = (DOCS / "results" / "quickstart.md").read_text()
    for folder, rows in ((QUICK, SEEDS), (QUICK / "avx2", ON_AVX2)):
        series = published.read(folder).series
        for arm, words in rows.items():
            numbers = series.path(arm, "preference_log_odds_round0")[:, -1]
            assert f"| {words} | {' | '.join(f'{x:+.2f}'.replace('-', MINUS) for x in numbers)} |" in page


def test_what_is_said_of_the_quick_start_in_other_arithmetic_is_what_was_found() -> None:
    part = published.read(QUICK / "avx2")
    assert part.study is not None and part.gaps == ()
    (judged,) = verdicts.judge(part.series, part.study).judged
    found, page = judged.verdict, " ".join((DOCS / "results" / "quickstart.md").read_text().split())
    assert found is not None
    low, high = text.signed(found.interval.low), text.signed(found.interval.high)
    assert (
        f"end {found.estimate:.3f} further from equal than those of the control ({low} to {high}, "
        f"p = {found.p_adjusted:.3f}): {judged.outcome}." in page
    )
    assert (
        f"they end {found.estimate:.3f} further from equal ({low} to {high})" in (DOCS.parent / "README.md").read_text()
    )
    loop, static = (part.series.path(arm, "preference_log_odds_round0")[:, -1] for arm in ("loop", "static"))
    assert f"rises by 0.3 or more in {(loop >= 0.3).sum()} of 10 seeds there, and the control stays within" in page
    assert f"0.15 of where it began in {(np.abs(static) <= 0.15).sum()}." in page
    both = (published.read(QUICK).series, part.series)
    leans = [one.path("loop", "preference_log_odds_balanced")[:, 0].mean() for one in both]
    assert f"it leans by {' and '.join(f'{lean:+.2f}' for lean in leans)} here".replace("-", MINUS) in page


def test_what_is_said_of_the_groups_of_the_quick_start_is_what_was_found() -> None:
    series, page = published.read(QUICK).series, words_of("quickstart")
    rise, still = (series.path(arm, "preference_log_odds_round0")[:, -1] for arm in ("loop", "static"))
    assert f"In {(rise >= 0.3).sum()} of 10 seeds preference rises by 0.3 or more" in page
    assert f"and in {(np.abs(still) <= 0.15).sum()} of 10 the control stays within 0.15" in page
    south, north = (series.path("loop", "quality", group) for group in ("south", "north"))
    control = series.path("static", "quality", "south")[:, -1]
    lost = south[:, 0] - south[:, -1]
    assert f"served {lost.mean():.3f} worse in the last round than in round 0, in {(lost > 0).sum()} of 10" in page
    assert f"and {(control - south[:, -1]).mean():.3f} worse than in the control" in page
    assert f"north is served {(north[:, -1] - north[:, 0]).mean():.3f} better" in page
    mean = series.path("loop", "quality_mean").mean(axis=0)
    assert mean[-1] > mean[0] and "and mean quality rises" in page
    gap = {arm: series.path(arm, "disparate_gap_without_own_kind")[:, -1].mean() for arm in ("loop", "static")}
    assert f"({gap['loop']:.3f} and {gap['static']:.3f})" in words_of("gap")


def test_what_is_said_of_the_group_that_leaves_is_what_more_prompts_find() -> None:
    page, readme = words_of("quickstart"), (DOCS.parent / "README.md").read_text()
    said = []
    for finer, coarser in (("prompts300", ""), ("prompts300_avx2", "avx2")):
        part, before = published.read(QUICK / finer), published.read(QUICK / coarser)
        assert part.gaps == () and len(part.series.seeds) == 10
        control = [one.series.path("static", "preference_log_odds_round0") for one in (part, before)]
        assert np.array_equal(*control) and "The control moves as above, to the last digit" in page
        south, north, own = (
            part.series.path("loop", metric, group)
            for metric, group in (("quality", "south"), ("quality", "north"), ("quality_own_kind", "south"))
        )
        assert (south < north)[:, -1].all() and (south[:, -1] < south[:, 0]).all()
        for losses in (south[:, 0] - south[:, -1], own[:, 0] - own[:, -1]):
            found = mean_interval(losses)
            said.append(f"{found.estimate:.3f} ({found.low:.3f} to {found.high:.3f})")
    assert f"in 10 of 10 seeds and is served {said[0]} worse than in round 0, in 10 of 10 seeds" in page
    assert f"of its own kind less often, by {said[1]}." in page
    assert f"served worst in 10 of 10 seeds as well, {said[2]} worse, in 10 of 10, and" in page
    assert f"its own kind is rarer by {said[3]}." in page
    assert f"its quality falls by {said[0]}, in 10 of 10 seeds." in readme


def test_the_numbers_of_the_readme_are_those_of_the_quick_start() -> None:
    part = published.read(DOCS / "results" / "compare-quickstart")
    assert part.study is not None
    (judged,) = verdicts.judge(part.series, part.study).judged
    found, readme = judged.verdict, (DOCS.parent / "README.md").read_text()
    assert found is not None
    low, high = text.signed(found.interval.low), text.signed(found.interval.high)
    assert f"**{found.estimate:.3f} further from equal" in readme
    assert f"(95% interval {low} to {high}, p = {found.p_adjusted:.3f}, {len(part.series.seeds)} seeds)" in readme
    ends = {arm: part.series.path(arm, "preference_log_odds_round0")[:, -1] for arm in SEEDS}
    for arm in SEEDS:
        middle, least, most = (
            f"{round(x, 2) + 0.0:+.2f}".replace("-", MINUS)  # no zero below zero
            for x in (np.median(ends[arm]), ends[arm].min(), ends[arm].max())
        )
        assert f"{middle} in the median ({least} to {most})" in readme or f"by {middle} ({least} to {most})" in readme


def test_what_pages_say_of_the_tiny_study_is_what_it_found() -> None:
    part = published.read(DOCS / "results" / "paper_tiny")
    assert part.study is not None
    found = {one.claim.name: one.verdict for one in verdicts.judge(part.series, part.study).judged}

    def numbers(claim: str, form: str) -> str:
        verdict = found[claim]
        assert verdict is not None
        low, high = text.signed(verdict.interval.low), text.signed(verdict.interval.high)
        return form.format(size=text.number(verdict.estimate), signed=text.signed(verdict.estimate), low=low, high=high)

    shifted = "users who are shifted to the majority raise preference bias"
    paper, readme = (file.read_text() for file in (DOCS / "results" / "paper.md", DOCS.parent / "README.md"))
    assert numbers(f"{shifted} (incremental)", "{size} further from equal ({low} to {high})") in paper
    assert numbers(f"{shifted} (incremental)", "{size} further from equal, {low} to {high}") in readme
    for claim in (
        f"{shifted} (retraining)",
        "users who are shifted lower the disparate gap (incremental)",
        "users who are shifted lower the disparate gap (retraining)",
        "users who react to their own kind lower the disparate gap (replicator)",
        "reweighting reduces the excess of preference bias",
    ):
        assert numbers(claim, "{signed} ({low} to {high})") in paper, claim
    for claim in (
        "selection by users' choices raises preference bias beyond keeping as many at random",
        "accumulating data lowers preference bias against replacing it",
        "reweighting reduces the excess of preference bias",
    ):
        assert numbers(claim, "({signed}, {low} to {high})") in readme, claim
    assert {"supported", "cannot tell"} == {verdict.verdict for verdict in found.values() if verdict is not None}


def test_what_pages_say_of_the_study_of_maths_is_what_it_found() -> None:
    part = published.read(DOCS / "results" / "paper_maths")
    assert part.study is not None
    page, index, paper = map(words_of, ("tasks", "index", "paper"))
    *judged, cost = verdicts.judge(part.series, part.study).judged
    assert cost.outcome == "supported" and {one.outcome for one in judged} == {"cannot tell"}
    shifted, _, reacting, gap, _, excess = (one.verdict for one in judged)
    assert all(numbers_of(found) in one for found in (shifted, reacting) for one in (index, paper))
    assert all(numbers_of(found) in paper for found in (gap, excess))
    ends = {arm: part.series.path(arm, "kind_share", "mawps").mean(axis=0) for arm in ("static", "shifted")}
    assert f"tells {ends['static'][0]:.0%} of its" in page and f"so, and {ends['static'][-1]:.0%} after" in page
    assert f"it is {ends['shifted'][-1]:.0%}: the mean shares" in page
    corrected = part.series.path("static", "kind_share_corrected", "mawps").mean(axis=0)
    assert f"confuses, {corrected[0]:.0%} and {corrected[-1]:.0%})" in page
    own = {arm: part.series.path(arm, "kind_share", "asdiv")[:, -1] for arm in ("static", "shifted")}
    assert f"{own['static'].mean():.0%} are told as `asdiv`'s" in page
    assert f"and {own['shifted'].mean():.0%} where users are shifted, more in seven of nine seeds" in page
    more = own["shifted"] - own["static"]
    assert (more > 0.005).sum() == 7 and (more < 0.0002).sum() == 2
    right, distinct = (part.series.path("static", metric).mean(axis=0) for metric in ("pass_at_1", "distinct_2"))
    assert f"answers {right[-1]:.0%} of problems rightly" in page
    assert f"{distinct[0]:.0%} are distinct in round 0 and {distinct[-1]:.0%} in" in page
    assert f"macro F1 of {judge_of('paper_maths')['table'][-1]['macro F1']:.2f} on problems" in page


def test_what_pages_say_of_maths_with_smollm2_is_what_it_found() -> None:
    part = published.read(DOCS / "results" / "paper_maths_smollm2")
    assert part.study is not None and part.gaps == () and part.series.seeds == (0, 1, 2)
    page, index = words_of("tasks"), words_of("index")
    shifted, _, worst = (one.verdict for one in verdicts.judge(part.series, part.study).judged)
    assert shifted is not None and worst is not None
    assert numbers_of(shifted) in index and np.isnan(shifted.p_adjusted)
    assert f"{text.signed(shifted.interval.low)} to {text.signed(shifted.interval.high)}, is nearly as wide" in page
    most = 2 * 2 / 3  # of three kinds a distance from equal lies between 0 and 2/3
    assert 0.9 * most < shifted.interval.high - shifted.interval.low < most
    assert worst.interval.low == worst.interval.high == 0.0
    own = {arm: part.series.path(arm, "kind_share", "asdiv") for arm in ("static", "shifted")}
    assert f"tells {own['static'][:, 0].mean():.0%} of its 32 answers" in page
    assert f"{own['static'][:, 0].min():.0%} to {own['static'][:, 0].max():.0%} by seed" in page
    ends = {arm: path[:, -1] for arm, path in own.items()}
    assert f"it is {ends['static'].mean():.0%} where nobody moves and {ends['shifted'].mean():.0%} where" in page
    assert (ends["shifted"] > ends["static"]).sum() == 2
    right = {arm: part.series.path(arm, "pass_at_1").mean(axis=0) for arm in own}
    assert f"{right['static'][0]:.0%} are answered rightly in round 0, {right['static'][-1]:.0%} after five" in page
    assert f"nobody moves and {right['shifted'][-1]:.0%} where users are shifted." in page


def test_what_pages_say_of_open_questions_with_smollm2_is_what_it_found() -> None:
    part = published.read(DOCS / "results" / "paper_preference_smollm2")
    assert part.study is not None and part.gaps == () and part.series.seeds == (0, 1, 2)
    page, index = words_of("tasks"), words_of("index")
    assert numbers_of(verdicts.judge(part.series, part.study).judged[0].verdict) in index
    own = {arm: part.series.path(arm, "kind_share", "academy") for arm in ("static", "shifted")}
    ends = {arm: path[:, -1] for arm, path in own.items()}
    assert f"leads: {own['static'][:, 0].mean():.0%} of the answers to neutral" in page
    assert f"in round 0, {ends['static'].mean():.0%} after five rounds where nobody moves" in page
    assert f"and {ends['shifted'].mean():.0%} where users are shifted to them" in page
    assert (ends["shifted"] > ends["static"]).sum() == 1 and (ends["shifted"] < ends["static"]).sum() == 2
    distinct = part.series.path("static", "distinct_2").mean(axis=0)
    assert f"{distinct[0]:.0%} of the pairs of words are distinct in round 0, and {distinct[-1]:.0%} after" in page


def test_what_pages_say_of_news_with_smollm2_is_what_it_found() -> None:
    part = published.read(DOCS / "results" / "paper_news_smollm2")
    assert part.study is not None and part.gaps == () and part.series.seeds == (0, 1, 2, 3, 4)
    page, index = words_of("tasks"), words_of("index")
    shifted, gap, _, excess, _ = (one.verdict for one in verdicts.judge(part.series, part.study).judged)
    assert all(numbers_of(found) in index for found in (shifted, excess)) and gap is not None
    left = {arm: part.series.path(arm, "kind_share", "left") for arm in part.study.arms}
    assert len({tuple(path[:, 0]) for path in left.values()}) == 1
    first, ends = left["static"][:, 0], {arm: path[:, -1] for arm, path in left.items()}
    assert f"{first.mean():.0%} of the 32 answers to neutral prompts left in round 0, {first.min():.0%} to" in page
    assert f"to {first.max():.0%} by seed. After five rounds it is {ends['static'].mean():.0%} where nobody" in page
    assert f"and {ends['shifted'].mean():.0%} where users are shifted to the left, more in three of the five" in page
    assert (ends["shifted"] > ends["static"]).sum() == 3 and (ends["shifted"] < ends["static"]).sum() == 2
    assert f"{ends['static-reweight'].mean():.0%} and {ends['shifted-reweight'].mean():.0%}. All of these" in page
    assert judge_of("paper_news_smollm2")["measured"] == judge_of("paper_news")["measured"]
    for arm in left:
        quality = part.series.path(arm, "quality_mean_without_own_kind").mean(axis=0)
        assert f"{quality[0]:.2f} in round 0 and {quality[-1]:.2f} in the last" in page
        gaps = part.series.path(arm, "disparate_gap_without_own_kind").mean(axis=0)
        assert f"its gap {gaps[0]:.2f} and {gaps[-1]:.2f}" in page
    distinct = part.series.path("static", "distinct_2").mean(axis=0)
    assert f"words {distinct[0]:.0%} are distinct in round 0, and {distinct[-1]:.0%} after five" in page


def test_what_pages_say_of_the_study_of_news_is_what_it_found() -> None:
    part = published.read(DOCS / "results" / "paper_news")
    assert part.study is not None
    page, index, paper = map(words_of, ("tasks", "index", "paper"))
    judged = verdicts.judge(part.series, part.study).judged
    shifted, selected, reacting, gap, _, excess, cost = (one.verdict for one in judged)
    assert {one.outcome for one in judged} == {"cannot tell"}
    assert all(numbers_of(found) in one for found in (shifted, reacting) for one in (index, paper))
    assert all(numbers_of(found) in paper for found in (gap, excess, cost))
    assert shifted is not None and shifted.interval.high > 0
    assert f"difference of {text.signed(shifted.estimate)}, whose interval holds 0" in page
    left = {arm: part.series.path(arm, "kind_share", "left") for arm in ("static", "shifted", "shifted-random")}
    static, moved, drawn = (path.mean(axis=0) for path in left.values())
    assert f"calls {static[0]:.0%} of the model's" in page and f"{static[-1]:.0%} after five rounds" in page
    assert f"and {moved[-1]:.0%} where users are shifted to the left, in seven of nine" in page
    assert (left["shifted"][:, -1] > left["static"][:, -1]).sum() == 7
    apart = [abs(path[-1] - 0.5) for path in (static, moved, drawn)]
    assert f"moved by, {apart[0] - apart[1]:.3f}:" in page
    assert selected is not None and f"and {-selected.estimate:.3f} by the estimate (adjusted p" in page
    assert f"{selected.p_adjusted:.3f}). It keeps" in page
    assert f"keeping by reward is {apart[2] - apart[1]:.3f} nearer" in page
    told = [part.series.path(arm, "kind_share_corrected", "left") for arm in ("static", "shifted")]
    ends = (told[0][:, 0].mean(), told[0][:, -1].mean(), told[1][:, -1].mean())
    assert "that is {:.0%}, {:.0%} and {:.0%}".format(*ends) in page
    assert all(0.2 <= one[:, -1].std(ddof=1) <= 0.3 for one in told)
    windows = judge_of("paper_news")["measured"][-1]["confusion"]
    true_rate, false_rate = (row[0] / sum(row) for row in windows)
    assert told[0][0, 0] == pytest.approx((left["static"][0, 0] - false_rate) / (true_rate - false_rate))
    assert f"left as left in {true_rate:.0%} and right as left in {false_rate:.0%}" in page
    assert f"would call {(true_rate + false_rate) / 2:.0%} left, and of texts that are all left {true_rate:.0%}" in page
    assert (true_rate - false_rate) / 2 < 0.09 and "there is to find is less than 0.09" in page
    assert f"finds {text.number(shifted.minimum_detectable_effect)} with 80% power" in page
    quality = {arm: part.series.path(arm, "quality_mean_without_own_kind").mean(axis=0) for arm in part.study.arms}
    assert f"of {quality['shifted'][0]:.2f} in round 0 it leaves {quality['shifted'][-1]:.2f}" in page
    assert f"random draws leave {quality['shifted-random'][-1]:.2f}" in page
    distinct = part.series.path("static", "distinct_2").mean(axis=0)
    assert f"{distinct[0]:.0%} distinct pairs of words in round 0 and {distinct[-1]:.0%} in round 5" in page


def test_what_pages_say_of_the_study_of_preference_is_what_it_found() -> None:
    part = published.read(DOCS / "results" / "paper_preference")
    assert part.study is not None
    page, index, paper = map(words_of, ("tasks", "index", "paper"))
    judged = verdicts.judge(part.series, part.study).judged
    shifted, _, reacting, gap, _, excess, cost = (one.verdict for one in judged)
    assert {one.outcome for one in judged} == {"cannot tell"}
    assert all(numbers_of(found) in one for found in (shifted, reacting) for one in (index, paper))
    assert all(numbers_of(found) in paper for found in (gap, excess, cost))

    def path(arm: str, metric: str, kind: str | None = None) -> np.ndarray:
        return part.series.path(arm, metric, *([] if kind is None else [kind])).mean(axis=0)

    kinds = {kind: path("static", "kind_share", kind) for kind in ("academy", "literature", "entertainment")}
    assert f"{kinds['academy'][0]:.0%} are told as the academics'" in page
    assert f"{kinds['literature'][0]:.0%} as literature's and {kinds['entertainment'][0]:.0%} as" in page
    moved = path("shifted", "kind_share", "literature")[-1]
    assert f"literature has {kinds['literature'][-1]:.0%} where nobody moves and {moved:.0%} where users" in page
    own = {f"{path(arm, 'kind_share', 'academy')[-1]:.0%}" for arm in ("static", "shifted")}
    assert own == {"7%"} and "share is 7% in both" in page
    corrected = part.series.path("static", "kind_share_corrected", "academy")[:, 1:]
    assert (corrected == 0).mean() > 0.9
    confusion = np.array(judge_of("paper_preference")["kinds"]["confusion"])
    assert f"groups for {np.trace(confusion) / confusion.sum():.0%} of the published" in page
    apart = {arm: path(arm, "total_variation_balanced") for arm in part.study.arms}
    assert all(one[-1] < one[0] for one in apart.values())
    assert f"from {apart['static'][0]:.3f} to {apart['static'][-1]:.3f} in total" in page
    quality = {arm: path(arm, "quality_mean_without_own_kind") for arm in ("static", "shifted")}
    assert f"of {quality['static'][0]:.2f} it keeps {quality['static'][-1]:.2f} where nobody" in page
    assert f"moves and {quality['shifted'][-1]:.2f} where" in page
    distinct = path("static", "distinct_2")
    assert f"{distinct[0]:.0%} are distinct in round 0, and {distinct[-1]:.0%} in round 5" in page


def test_what_pages_say_of_the_remedy_on_the_tiny_model_is_what_was_found() -> None:
    part = published.read(DOCS / "results" / "remedy_engines")
    assert part.study is not None
    page, index, paper = map(words_of, ("remedy", "index", "paper"))
    readme = (DOCS.parent / "README.md").read_text()
    judged = verdicts.judge(part.series, part.study).judged
    assert {one.outcome for one in judged} == {"supported"}
    excess, half, mean, worst, *_ = (one.verdict for one in judged)
    assert excess is not None and half is not None and mean is not None and worst is not None
    assert numbers_of(excess) in paper and f"{numbers_of(half).replace(' (', ' from half (')}" in paper
    assert f"an excess of {excess.estimate:.3f}" in page and f"end {excess.estimate:.3f} further from equal" in index
    assert f"(measured {text.signed(mean.estimate)} and {text.signed(worst.estimate)})" in readme
    left = {}
    for remedy in ("reweight", "quotas"):
        claim = {
            "name": remedy,
            "metric": "total_variation_balanced",
            "contrast": {f"shifted-{remedy}": 1, f"static-{remedy}": -1},
        }
        plan = Study.model_validate({**part.study.model_dump(mode="json"), "claims": [claim]})
        left[remedy] = verdicts.judge(part.series, plan).judged[0].verdict
    assert f"`reweight` leaves {numbers_of(left['reweight'])} and `quotas` {numbers_of(left['quotas'])}" in page
    assert f"{numbers_of(left['reweight'])} and quotas {numbers_of(left['quotas'])}" in index.replace(" of it (", " (")
    north = {arm: part.series.path(arm, "kind_share", "north").mean(axis=0) for arm in part.study.arms}
    assert {f"{path[0]:.0%}" for path in north.values()} == {"60%"}
    assert f"end at {north['static-vrs'][-1]:.0%} where nobody moves and at {north['shifted-vrs'][-1]:.0%}" in page
    for remedy, ends in (("reweight", "59%"), ("quotas", "57%")):
        assert f"{north[f'shifted-{remedy}'][-1]:.0%}" == ends and north[f"static-{remedy}"][-1] <= 0.6
    gaps = {arm: part.series.path(arm, "disparate_gap")[:, -1].mean() for arm in part.study.arms}
    assert f"is {gaps['shifted-reweight']:.3f} and {gaps['shifted-quotas']:.3f} where users" in page
    assert f"shifted, and {gaps['shifted-vrs']:.3f} under VRS" in page
    without = [part.series.path(arm, "disparate_gap_without_own_kind")[:, -1].mean() for arm in part.study.arms]
    assert {f"{gap:.2f}" for gap in without} == {"0.02"}


def test_what_pages_say_of_the_gap_on_the_tiny_model_is_what_was_found() -> None:
    part = published.read(DOCS / "results" / "gap_engines")
    assert part.study is not None
    page, index, paper = map(words_of, ("gap", "index", "paper"))
    judged = verdicts.judge(part.series, part.study).judged
    assert [one.outcome for one in judged] == ["supported", *["cannot tell"] * 3]
    assert all(numbers_of(judged[0].verdict) in one for one in (index, paper))
    ends = {arm: part.series.path(arm, "disparate_gap")[:, -1].mean() for arm in part.study.arms}
    assert f"({ends['calm']:.3f} beside {ends['static']:.3f} of the control)" in page
    shares = {arm: part.series.path(arm, "share", "north")[:, -1].mean() for arm in part.study.arms}
    assert f"from 0.60 to {shares['calm']:.2f}." in page and f"share is {shares['keen']:.2f} in round 5 where" in page
    expected = json.loads((DOCS / "results" / "gap.json").read_bytes())["reacting"]
    corner = expected["y"].index(2.0), expected["x"].index(12.0)
    assert f"diagram has {expected['panels']['incremental']['5']['share'][corner[0]][corner[1]]:.2f}" in page
    strong = judged[2].verdict
    assert strong is not None and strong.interval.high < 0.244
    without = [part.series.path(arm, "disparate_gap_without_own_kind")[:, -1].mean() for arm in part.study.arms]
    assert {f"{gap:.2f}" for gap in without} == {"0.01", "0.02"}


@pytest.mark.parametrize("task", ["news", "preference", "maths"])
def test_the_readme_says_of_the_three_tasks_what_was_found(task: str) -> None:
    part = published.read(DOCS / "results" / f"paper_{task}")
    assert part.study is not None
    found = verdicts.judge(part.series, part.study).judged[0].verdict
    assert found is not None and found.verdict == "cannot tell"
    low, high = text.signed(found.interval.low), text.signed(found.interval.high)
    assert f"{task} {text.signed(found.estimate)}, {low} to {high}" in (DOCS.parent / "README.md").read_text()


def test_both_runs_of_the_tiny_study_stand_side_by_side() -> None:
    now = DOCS / "results" / "paper_tiny"
    cells: dict[str, list[str]] = {}
    for folder in (now / "one_pass", now):
        part = published.read(folder)
        assert part.study is not None and part.gaps == ()
        for judged in verdicts.judge(part.series, part.study).judged:
            found = judged.verdict
            assert found is not None
            interval = text.interval(found.interval.low, found.interval.high, signed=True)
            said = f"{text.signed(found.estimate)} ({interval}): {judged.outcome}"
            cells.setdefault(judged.claim.name, []).append(said)
    page = (DOCS / "results" / "language.md").read_text()
    rows = [
        line for line in page.splitlines() if line.endswith(" |") and line.startswith(tuple(f"| {c} |" for c in cells))
    ]
    assert [row.split(" | ")[2:] for row in rows] == [[one, f"{other} |"] for one, other in cells.values()]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    file = tmp_path / "page.md"
    names = [f"<!-- study {folder.name} -->\n<!-- end of study {folder.name} -->\n" for folder in KEPT]
    file.write_text("before\n" + "".join(names) + "after\n")
    return file


def test_what_is_kept_of_a_study_can_be_kept_again(page: Path) -> None:
    folder = QUICK
    found = CliRunner().invoke(app, ["study", str(folder), "--folder", str(page.parent)])
    assert found.exit_code == 0, found.output
    again = page.parent / folder.name
    assert {file.name for file in again.iterdir()} == {file.name for file in folder.iterdir() if file.is_file()}
    assert results.read(again).equals(results.read(folder))
    assert (again / STUDY_FILE).read_text() == (folder / STUDY_FILE).read_text()
    assert found.output.strip() in page.read_text() and page.read_text().endswith("after\n")


def test_paths_of_a_machine_are_not_kept() -> None:
    mine = {"task.data": "/home/me/mine.jsonl"}
    study = Study(
        name="s",
        base="/home/me/base.yaml",
        set=mine,
        arms={"a": {"feedback.function": "/home/me/rule.py:mine"}, "b": {}},
        axes={"loop.rounds": [1, 2]},
        sizes={"large": {"base": "/home/me/large.yaml", "set": mine}},
    )
    kept = published.without_folders(study)
    assert "/home" not in dump(kept)
    assert kept.set == {"task.data": "mine.jsonl"} and kept.arms["a"] == {"feedback.function": "rule.py:mine"}
    assert kept.axes == {"loop.rounds": (1, 2)}
    assert kept.base == "base.yaml" and kept.sizes["large"].base == "large.yaml"
    with pytest.raises(ValueError, match=r"axes\.task\.data holds files by their place .* make an arm of each"):
        published.without_folders(study.model_copy(update={"axes": {"task.data": ("/home/me/1.jsonl", "2.jsonl")}}))


def test_minutes_are_those_of_the_runs_that_were_timed() -> None:
    folder = QUICK
    part = published.read(folder)
    assert part.study is not None
    family = verdicts.judge(part.series, part.study)
    (session,) = part.sessions
    half = dataclasses.replace(part, sessions=(dataclasses.replace(session, trials=12, ran_s=540.0),))
    assert "20 runs of 4 rounds; 12 of the runs took 9 minutes." in published.table(half, family)
    assert published.table(dataclasses.replace(part, sessions=()), family).endswith("20 runs of 4 rounds.")


def test_the_spread_of_base_models_stands_below_the_table() -> None:
    folder = QUICK
    part = published.read(folder)
    assert part.study is not None
    varied = dataclasses.replace(part, study=part.study.model_copy(update={"vary": "base"}))
    plain, told = (published.table(one, verdicts.judge(one.series, one.study)) for one in (part, varied))
    assert told.startswith(plain) and "Between 10 base models the share of north's kind" in told


def test_a_study_that_is_not_finished_is_not_kept(page: Path) -> None:
    folder = QUICK
    copy = page.parent / "study"
    shutil.copytree(folder, copy)
    table = results.read(copy)
    results.write(table.filter([seed != 3 or arm != "static" for seed, arm in zip(*columns(table), strict=True)]), copy)
    found = CliRunner().invoke(app, ["study", str(copy), "--folder", str(page.parent)])
    assert found.exit_code == 2
    assert "runs missing or not finished: 1, first static, seed 3 (no result); go on with" in found.output


def test_one_page_has_a_place_for_the_table(page: Path) -> None:
    folder = QUICK
    (page.parent / "other.md").write_text(page.read_text())
    words = ["study", str(folder), "--folder", str(page.parent)]
    twice = CliRunner().invoke(app, words)
    page.unlink()
    (page.parent / "other.md").unlink()
    never = CliRunner().invoke(app, words)
    for found, pages in (twice, 2), (never, 0):
        assert (
            found.exit_code == 2
            and f"{pages} pages hold <!-- study {folder.name} -->; write it into the one page" in found.output
        )
    assert not (page.parent / folder.name).exists()


def columns(table) -> tuple[list[int], list[str]]:
    return table["seed"].to_pylist(), table["arm"].to_pylist()
