"""What the pages say of the paper's tasks under retraining is what the studies found."""

import pytest

from jobs.results import published
from scpl_ray.studies import verdicts
from tests.docs.pages import DOCS
from tests.jobs.results.pages import numbers_of, words_of


@pytest.mark.parametrize("study", ["paper_maths_retraining", "paper_news_retraining", "paper_preference_retraining"])
def test_the_page_of_the_papers_statements_has_both_verdicts(study: str) -> None:
    part = published.read(DOCS / "results" / study)
    assert part.study is not None and part.gaps == () and len(part.series.seeds) == 9
    judged = verdicts.judge(part.series, part.study).judged
    assert [one.outcome for one in judged] == ["cannot tell", "cannot tell"]
    task = study.split("_")[1].capitalize()
    page = words_of("paper")
    for one in judged:
        said = f"{'maths' if task == 'Maths' else task}, tiny: **cannot tell**, {numbers_of(one.verdict)}"
        assert said in page, said


def test_what_is_said_of_maths_is_what_was_found() -> None:
    part, page = published.read(DOCS / "results" / "paper_maths_retraining"), words_of("tasks")
    asdiv, mawps = (
        {arm: part.series.path(f"{arm}-retraining", "kind_share", kind) for arm in ("static", "shifted")}
        for kind in ("asdiv", "mawps")
    )
    assert f"`asdiv` in {asdiv['static'][:, 0].mean():.0%} of its answers to neutral prompts" in page
    assert f"like `mawps` in {mawps['static'][:, 0].mean():.0%}." in page
    ends = {arm: path[:, -1] for arm, path in mawps.items()}
    assert f"`mawps` leads with {ends['static'].mean():.0%} where nobody moves and with" in page
    assert f"with {ends['shifted'].mean():.0%} where users are shifted to `asdiv`" in page
    own = [asdiv[arm][:, -1].mean() for arm in ("static", "shifted")]
    assert f"which has {own[0]:.0%} and {own[1]:.0%}:" in page
    assert f"`mawps` has {ends['static'].min():.0%} to {ends['static'].max():.0%} where nobody moves" in page
    right = [part.series.path(f"{arm}-retraining", "pass_at_1")[:, -1].mean() for arm in ("static", "shifted")]
    assert {f"answers {one:.0%} of problems rightly" in page for one in right} == {True}
    first, *last = (
        part.series.path(f"{arm}-retraining", "distinct_2")[:, t].mean()
        for arm, t in (("static", 0), ("static", -1), ("shifted", -1))
    )
    assert f"{first:.0%} are distinct in round 0, and {last[0]:.0%} and {last[1]:.0%} in round 5" in page


def test_what_is_said_of_news_is_what_was_found() -> None:
    part, page = published.read(DOCS / "results" / "paper_news_retraining"), words_of("tasks")
    left, quality, distinct = (
        {arm: part.series.path(f"{arm}-retraining", metric, group) for arm in ("static", "shifted")}
        for metric, group in (("kind_share", "left"), ("quality_mean_without_own_kind", None), ("distinct_2", None))
    )
    ends = {arm: path[:, -1] for arm, path in left.items()}
    assert f"{left['static'][:, 0].mean():.0%} of the answers to neutral prompts left in round 0" in page
    assert f"{ends['static'].mean():.0%} after five rounds where nobody moves and {ends['shifted'].mean():.0%}" in page
    assert (ends["shifted"] > ends["static"]).sum() == 8 and "more in eight of nine seeds" in page
    first, *last = (quality[arm][:, t].mean() for arm, t in (("static", 0), ("static", -1), ("shifted", -1)))
    assert f"falls from {first:.2f} to {last[0]:.2f} and {last[1]:.2f}" in page
    first, *last = (distinct[arm][:, t].mean() for arm, t in (("static", 0), ("static", -1), ("shifted", -1)))
    assert f"{first:.0%} are distinct in round 0, and {last[0]:.0%} and {last[1]:.0%} in round 5" in page


def test_what_is_said_of_open_questions_is_what_was_found() -> None:
    part, page = published.read(DOCS / "results" / "paper_preference_retraining"), words_of("tasks")
    academy, entertainment, literature, quality, distinct = (
        {arm: part.series.path(f"{arm}-retraining", metric, group) for arm in ("static", "shifted")}
        for metric, group in (
            *(("kind_share", kind) for kind in ("academy", "entertainment", "literature")),
            ("quality_mean_without_own_kind", None),
            ("distinct_2", None),
        )
    )
    first = [kind["static"][:, 0].mean() for kind in (literature, entertainment, academy)]
    told = f"{first[0]:.0%} of the answers to neutral questions as literature's in round 0, {first[1]:.0%} as"
    assert f"{told} entertainment's and {first[2]:.0%} as the academics'." in page
    ends = [kind[arm][:, -1].mean() for kind in (literature, academy) for arm in ("static", "shifted")]
    assert f"literature has {ends[0]:.0%} where nobody moves and {ends[1]:.0%} where users" in page
    assert f"whose share is {ends[2]:.0%} and {ends[3]:.0%}, more in four of nine seeds and equal in two" in page
    moved = academy["shifted"][:, -1] - academy["static"][:, -1]
    assert ((moved > 0).sum(), (moved == 0).sum()) == (4, 2)
    first, *last = (quality[arm][:, t].mean() for arm, t in (("static", 0), ("static", -1), ("shifted", -1)))
    assert {f"falls from {first:.2f} to {one:.2f} in both" in page for one in last} == {True}
    first, *last = (distinct[arm][:, t].mean() for arm, t in (("static", 0), ("static", -1), ("shifted", -1)))
    assert f"{first:.0%} are distinct in round 0, and {last[0]:.0%} and {last[1]:.0%} in round 5" in page
