"""What the pages say of the study with a base model per seed is what it found."""

import numpy as np

from jobs.results import published
from scpl_ray.report import text
from scpl_ray.studies import verdicts
from tests.docs.pages import DOCS


def test_what_pages_say_of_the_study_of_base_models_is_what_it_found() -> None:
    part = published.read(DOCS / "results" / "bases_tiny")
    assert part.study is not None
    first, *others = verdicts.judge(part.series, part.study).judged
    assert first.verdict is not None and first.outcome == "cannot tell"
    interval = text.interval(first.verdict.interval.low, first.verdict.interval.high, signed=True)
    for page, form in (
        ("README.md", "{}, {}"),
        ("docs/results/index.md", "{} ({})"),
        ("docs/results/paper.md", "{} ({})"),
    ):
        assert form.format(text.signed(first.verdict.estimate), interval) in (DOCS.parent / page).read_text()
    assert [one.claim.name[:22] for one in others if one.outcome == "supported"] == [
        "reweighting costs no m",
        "reweighting costs no d",
    ]
    ends = [part.series.path(arm, "preference_log_odds_round0")[:, -1] for arm in ("shifted", "static")]
    still, moved = np.split(np.sort(ends[0] - ends[1]), [2])
    page = (DOCS / "results" / "language.md").read_text()
    assert f"moved by {moved[0]:.2f} to {moved[-1]:.2f} log-odds more" in page
    tiny = published.read(DOCS / "results" / "paper_tiny")
    assert tiny.study is not None
    alone = [tiny.series.path(arm, "preference_log_odds_round0")[:, -1] for arm in ("shifted", "static")]
    mean = (alone[0] - alone[1]).mean()
    assert 1.8 * moved[-1] < mean < 1.9 * moved[-1] and f"it moves by {mean:.2f} in the mean of ten seeds" in page
    assert f"did not move ({text.MINUS}{-still[0]:.2f} and {still[1]:.2f})" in page
    shares = [part.series.path(arm, "kind_difference_balanced", "north")[:, -1] for arm in ("shifted", "static")]
    *_, least, _, _, _, _, most = np.sort(shares[0] - shares[1])
    excess = verdicts.judge(tiny.series, tiny.study).judged[0].verdict
    assert excess is not None
    assert round(4 * least / excess.estimate) == 1 and round(8 * most / excess.estimate) == 5
    said = f"in six of eight base models by {least:.2f} to {most:.2f}, a quarter to five eighths of what it was"
    assert f"{said}, and in two not at all" in (DOCS / "results" / "index.md").read_text()
