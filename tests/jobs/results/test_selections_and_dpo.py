"""What pages say of other selections and preference optimisation on the tasks of the paper is what studies found."""

import functools

import numpy as np
import pytest

from jobs.results import published
from scpl_ray.report import text
from scpl_ray.studies import verdicts
from scpl_ray.studies.series import Series
from tests.docs.pages import DOCS
from tests.jobs.results.pages import numbers_of, words_of

SELECTIONS = ("tpp", "top", "reweight")


def at(series: Series, t: int, metric: str, kind: str | None = None) -> list[float]:
    """The mean over the seeds of round t under each of the three selections where users are shifted."""
    return [float(series.path(f"shifted-{one}", metric, kind)[:, t].mean()) for one in SELECTIONS]


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ("paper_maths_selection", "of TPP and TOP: maths, tiny: **cannot tell**, {}."),
        ("paper_news_selection", "News, tiny: **holds** of both, {}."),
        ("paper_preference_selection", "Preference, tiny: **cannot tell**, {}"),
    ],
)
def test_the_page_of_the_papers_statements_has_the_verdicts_on_other_selections(study: str, said: str) -> None:
    part = published.read(DOCS / "results" / study)
    assert part.study is not None and part.gaps == () and len(part.series.seeds) == 9
    judged = verdicts.judge(part.series, part.study).judged
    assert {one.outcome for one in judged} == {"supported" if "holds" in said else "cannot tell"} and len(judged) == 2
    both = " and ".join(numbers_of(one.verdict) for one in judged)
    assert said.format(both) in words_of("paper") and both in words_of("index")


@pytest.mark.parametrize(("study", "task"), [("paper_maths_dpo", "maths"), ("paper_news_dpo", "News")])
def test_the_page_of_the_papers_statements_has_the_verdict_on_preference_optimisation(study: str, task: str) -> None:
    part = published.read(DOCS / "results" / study)
    assert part.study is not None and part.gaps == () and len(part.series.seeds) == 9
    (judged,) = verdicts.judge(part.series, part.study).judged
    outcome = {"supported": "holds", "cannot tell": "cannot tell"}[judged.outcome]
    assert f"{task}, tiny: **{outcome}**, {numbers_of(judged.verdict)}." in words_of("paper")
    assert f"{numbers_of(judged.verdict)[:-1].replace(' (', ', ')}" in words_of("index")


def test_what_is_said_of_three_selections_on_maths_is_what_was_found() -> None:
    series, page = published.read(DOCS / "results" / "paper_maths_selection").series, words_of("tasks")
    last = functools.partial(at, series, -1)

    tpp, top, reweight = last("kind_share", "asdiv")
    assert f"{tpp:.0%} are told as the majority's, `asdiv`'s, under TPP and {top:.0%} under TOP" in page
    assert f"and {reweight:.0%} under reweighting, where `mawps` has {last('kind_share', 'mawps')[2]:.0%}." in page
    assert {f"All three answer {one:.0%} of problems rightly" in page for one in last("pass_at_1")} == {True}
    tpp, top, reweight = last("distinct_2")
    first = series.path("shifted-tpp", "distinct_2")[:, 0].mean()
    assert (
        f"{first:.0%} are distinct in round 0, and {tpp:.0%} (TPP), {top:.0%} (TOP) and {reweight:.0%} (reweighting)"
        in page
    )
    ends = last("total_variation_balanced")
    assert np.ptp(ends) < 0.02, "by distance the three end alike"


def test_what_is_said_of_three_selections_on_news_is_what_was_found() -> None:
    series, page = published.read(DOCS / "results" / "paper_news_selection").series, words_of("tasks")
    last = functools.partial(at, series, -1)

    tpp, top, reweight = last("kind_share", "left")
    assert f"it is {tpp:.0%} under TPP, {top:.0%} under TOP, and {reweight:.0%} under reweighting" in page
    tpp, top, reweight = last("quality_mean_without_own_kind")
    assert f"it is {reweight:.2f} where TPP and TOP leave {tpp:.2f}." in page and f"{tpp:.2f}" == f"{top:.2f}"
    tpp, top, reweight = last("distinct_2")
    first = series.path("shifted-tpp", "distinct_2")[:, 0].mean()
    ends = f"{tpp:.0%} (TPP), {top:.0%} (TOP) and {reweight:.0%} (reweighting) in round 5"
    assert f"{first:.0%} are distinct in round 0, and {ends}" in page


def test_what_is_said_of_three_selections_on_open_questions_is_what_was_found() -> None:
    series, page = published.read(DOCS / "results" / "paper_preference_selection").series, words_of("tasks")
    last, first = functools.partial(at, series, -1), functools.partial(at, series, 0)
    distance, literature = "total_variation_balanced", ("kind_share", "literature")
    tpp, top, reweight = last(distance)
    assert f"from equal shares at {reweight:.2f} where TPP leaves {tpp:.2f} and TOP {top:.2f}." in page
    begin = first(distance)[0], first(*literature)[0]
    assert f"In round 0 it is {begin[0]:.2f}, and literature has {begin[1]:.0%} of the answers" in page
    tpp, top, reweight = last(*literature)
    assert f"it has {reweight:.0%} under reweighting, {tpp:.0%} under TPP and {top:.0%} under TOP." in page
    tpp, top, reweight = last("kind_share", "academy")
    assert f"the academics', is told in {reweight:.0%}, {tpp:.0%} and {top:.0%}." in page
    tpp, top, reweight = last("quality_mean_without_own_kind")
    assert f"Quality without own kind is {reweight:.2f}, {tpp:.2f} and {top:.2f}." in page
    tpp, top, reweight = last("distinct_2")
    ends = f"{tpp:.0%} (TPP), {top:.0%} (TOP) and {reweight:.0%} (reweighting) in round 5"
    assert f"{first('distinct_2')[0]:.0%} are distinct in round 0, and {ends}" in page


def test_what_is_said_of_preference_optimisation_on_maths_is_what_was_found() -> None:
    series, page = published.read(DOCS / "results" / "paper_maths_dpo").series, words_of("tasks")
    still, shifted = (series.path(f"{arm}-dpo", "kind_share", "asdiv") for arm in ("static", "shifted"))
    assert f"with {still[:, 0].mean():.0%} of its answers to neutral prompts." in page
    assert f"it is {still[:, -1].mean():.0%} where nobody moves and {shifted[:, -1].mean():.0%} where users" in page
    assert (shifted[:, -1] > still[:, -1]).all() and "`asdiv`, more in nine of nine seeds" in page
    distinct = series.path("static-dpo", "distinct_2").mean(axis=0)
    assert f"{distinct[0]:.0%} of the pairs of words are distinct in round 0 and {distinct[-1]:.0%} in round 5" in page
    retrained = published.read(DOCS / "results" / "paper_maths_retraining").series
    assert f"and retraining leaves {retrained.path('static-retraining', 'distinct_2')[:, -1].mean():.0%}." in page
    right = [series.path(f"{arm}-dpo", "pass_at_1")[:, -1].mean() for arm in ("static", "shifted")]
    assert f"Of problems {right[0]:.0%} are answered rightly where nobody moves, and {right[1]:.0%} where" in page


def test_what_is_said_of_preference_optimisation_on_news_is_what_was_found() -> None:
    series, page = published.read(DOCS / "results" / "paper_news_dpo").series, words_of("tasks")
    still, shifted = (series.path(f"{arm}-dpo", "kind_share", "left") for arm in ("static", "shifted"))
    assert f"calls {still[:, 0].mean():.0%} of the answers to neutral prompts left in round 0" in page
    assert (
        f"{still[:, -1].mean():.0%} after five rounds where nobody moves and {shifted[:, -1].mean():.0%} where" in page
    )
    more = int((shifted[:, -1] > still[:, -1]).sum())
    assert more == 6 and "users are shifted to the left, more in six of nine seeds and less in three" in page
    name = "quality_mean_without_own_kind"
    quality = [series.path(f"{arm}-dpo", name)[:, -1].mean() for arm in ("static", "shifted")]
    assert f"Quality without own kind keeps its {quality[0]:.2f} where nobody moves" in page
    assert f"and is {quality[1]:.2f} where users are shifted" in page
    distinct = [series.path(f"{arm}-dpo", "distinct_2").mean(axis=0) for arm in ("static", "shifted")]
    ends = f"{distinct[0][-1]:.0%} and {distinct[1][-1]:.0%}"
    assert f"{distinct[0][0]:.0%} are distinct in round 0, and {ends} in round 5" in page


def test_the_readme_says_what_was_found_of_preference_optimisation_on_maths() -> None:
    part = published.read(DOCS / "results" / "paper_maths_dpo")
    assert part.study is not None
    (judged,) = verdicts.judge(part.series, part.study).judged
    assert judged.outcome == "supported" and judged.verdict is not None
    found = judged.verdict
    low, high = text.signed(found.interval.low), text.signed(found.interval.high)
    assert f"{text.signed(found.estimate)}, {low} to {high}" in (DOCS.parent / "README.md").read_text()
