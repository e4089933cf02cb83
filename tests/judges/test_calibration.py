"""Calibrated log-odds: known laws, judges that know nothing, and what can be seen with them."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from scpl_ray.judges import calibration, preference_card
from scpl_ray.judges.calibration import Calibration
from scpl_ray.judges.card import DEPLOYED, JudgeCard, Measured
from scpl_ray.judges.preference_card import PreferenceCard
from scpl_ray.protocols import Choice
from scpl_ray.shares import FloatArray

Scored = tuple[FloatArray, list[int], list[str]]


def scored(apart: float, texts: int = 4000, share: float = 0.5, seed: int = 0) -> Scored:
    """Normal scores of two kinds that are so many standard deviations apart, on the judge's own scale, by source."""
    rng = np.random.default_rng(seed)
    kind = (rng.random(texts) < share).astype(int)
    z = apart * (kind - 0.5) + rng.normal(size=texts)
    scores = 3.0 * np.stack([-z, z], axis=-1) + np.array([0.5, -0.5])
    return scores, kind.tolist(), [f"{'ab'[k]}{i % 20}" for i, k in enumerate(kind)]


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_log_odds_are_those_of_the_law_at_even_odds(share: float) -> None:
    """Of normal scores a standard deviation apart they are z itself, however many texts of each kind there are."""
    found = calibration.fit(*scored(1.0, share=share))
    assert found is not None and found.texts == 4000
    for z in (-1.0, 0.0, 2.0):
        first, second = found.log_odds([0.5 - 3.0 * z, 3.0 * z - 0.5])
        assert second == pytest.approx(z, abs=0.15) and first == pytest.approx(-z, abs=0.15)
    assert found.reliability == pytest.approx((1.0, 1.0), abs=0.15)
    assert np.subtract(found.own_mean, found.other_mean) == pytest.approx([1.0, 1.0], abs=0.1)
    assert found.own_sd == pytest.approx((1.0, 1.0), abs=0.1) and found.nothing == (0.0, 0.0)


def test_a_judge_that_is_too_sure_is_brought_down() -> None:
    scores, kinds, sources = scored(0.5)
    assert np.abs(scores).mean() > 2
    found = calibration.fit(scores, kinds, sources)
    assert found is not None and np.abs([found.log_odds(one) for one in scores[:200]]).mean() < 0.6


def test_a_judge_that_knows_nothing_has_no_log_odds() -> None:
    scores, kinds, sources = scored(1.0)
    assert calibration.fit(-scores, kinds, sources) is None
    assert calibration.fit(scores, kinds, ["one" if k else "other" for k in kinds]) is None
    assert calibration.fit(np.empty((0, 2)), [], []) is None


def of_sources(seed: int, *, alike: bool) -> Scored:
    """Scores that tell sources apart and no kinds; the sources of both kinds may have the same scores."""
    rng = np.random.default_rng(seed)
    own = {f"{'ab'[k]}{i}": k for k in (0, 1) for i in range(6)}
    lean = {source: rng.normal() for source in own}
    sources = [str(s) for s in rng.choice(list(own), 600)]
    z = np.array([lean[f"a{s[1]}" if alike else s] for s in sources]) + 0.1 * rng.normal(size=600)
    return np.stack([-z, z], axis=-1), [own[s] for s in sources], sources


def test_what_is_learned_of_a_source_does_not_count() -> None:
    for seed in range(12):
        found = calibration.fit(*of_sources(seed, alike=True))
        assert found is None, seed


def test_log_odds_have_the_right_sign_on_sources_left_out() -> None:
    known = [calibration.fit(*of_sources(seed, alike=False)) for seed in range(20)]
    found = [one for one in known if one is not None]
    for one in found:
        assert np.greater(one.own_mean, one.other_mean).all() and min(one.reliability) > 0
    assert len(found) <= 5


def test_three_kinds_have_log_odds_each_against_the_others() -> None:
    rng = np.random.default_rng(4)
    kinds = rng.integers(3, size=3000)
    scores = 1.5 * np.eye(3)[kinds] + rng.normal(size=(3000, 3))
    found = calibration.fit(scores, kinds.tolist(), [f"{k}-{i % 9}" for i, k in enumerate(kinds)])
    assert found is not None and len(found.slopes) == 3 and min(found.slopes) > 1
    told = found.log_odds([2.0, 0.0, 0.0])
    assert told[0] > 0.5 > 0 > max(told[1:])


def test_probabilities_become_their_log_odds() -> None:
    assert calibration.scores_of([0.25, 0.75]) == pytest.approx([-np.log(3), np.log(3)])
    assert np.isfinite(calibration.scores_of([0.0, 1.0])).all()


REACH = 1.959964 + 0.841621


def test_detectable_differences_by_hand() -> None:
    # a perfect judge: two shares of 1/2 from 200 answers each
    perfect = REACH * np.sqrt(2 * 0.25 / 200)
    assert calibration.detectable_by_labels([1.0, 1.0], [0.0, 0.0], 200) == pytest.approx(perfect, abs=1e-6)
    # one whose true minus false positive rate is .2 needs 25 times the answers
    assert calibration.detectable_by_labels([0.6, 0.6], [0.4, 0.4], 200) == pytest.approx(5 * perfect, abs=1e-6)
    assert calibration.detectable_by_labels([0.6, 0.6], [0.4, 0.4], 5000) == pytest.approx(perfect, abs=1e-6)
    assert calibration.detectable_by_labels([0.5, 0.9], [0.6, 0.1], 200) == float("inf")
    # log-odds without spread are labels
    certain = Calibration((0.0,) * 2, (1.0,) * 2, 100, (1.0,) * 2, (3.0,) * 2, (-3.0,) * 2, (0.0,) * 2, (0.0,) * 2)
    assert certain.detectable(200) == pytest.approx(perfect, abs=1e-6)
    # of normal scores little apart the labels need pi / 2 as many answers
    d = 0.1
    weak = Calibration((0.0,), (1.0,), 100, (1.0,), (d**2 / 2,), (-(d**2) / 2,), (d,), (d,))
    true = 0.51994
    labels = calibration.detectable_by_labels([true], [1 - true], 200)
    assert (labels / weak.detectable(200)) ** 2 == pytest.approx(np.pi / 2, abs=0.05)
    assert calibration.in_words(0.706) == "0.71" and calibration.in_words(labels) == "none"


def test_power_is_had_at_the_detectable_difference() -> None:
    d, n = 1.5, 200
    soft = Calibration((0.0,), (1.0,), 9, (1.0,), (d**2 / 2,), (-(d**2) / 2,), (d,), (d,))
    delta, rng = soft.detectable(n), np.random.default_rng(5)
    means = []
    for share in (0.5 + delta / 2, 0.5 - delta / 2):
        sign = np.where(rng.random((4000, n)) < share, 1.0, -1.0)
        means.append((sign * d**2 / 2 + d * rng.normal(size=(4000, n))).mean(axis=1))
    apart = means[0] - means[1]
    assert float((apart > 1.96 * apart.std()).mean()) == pytest.approx(0.8, abs=0.04)


def test_the_card_says_what_its_judge_could_see() -> None:
    worth = calibration.fit(*scored(1.0))
    measured = Measured(DEPLOYED, "windows of 12 words", 10, 40, ((12, 8), (8, 12)), (0, 0))
    whole = Measured(DEPLOYED, "articles", 10, 40, ((16, 4), (4, 16)), (0, 0))
    card = JudgeCard(("left", "right"), 12, "0" * 64, {"judge": "a judge"}, (whole, measured), {}, calibration=worth)
    assert "neutral prompts" not in card.summary() and "soft" not in card.table()[0]
    known = dataclasses.replace(card, prompts=200)
    assert known == card  # how many prompts it speaks of is no property of the judge
    assert worth is not None
    soft = calibration.in_words(worth.detectable(200))
    assert known.summary().endswith(
        f"200 neutral prompts show a difference in shares of 0.70 by its labels, of {soft} by soft preference, "
        "with 80% power"
    )
    first, second = known.table()
    assert first["detectable at 200, labels"] == "0.23" and first["soft"] == ""
    assert second["detectable at 200, labels"] == "0.70" and second["soft"] == soft
    assert set(first) == set(second)


def test_a_preference_judge_is_calibrated_by_questions() -> None:
    rng = np.random.default_rng(6)
    groups = ("one", "two", "three")
    choices = [
        Choice(f"question {i}", f"{group} likes {i}", f"nobody likes {i}", group) for i in range(60) for group in groups
    ]

    def rewards(texts: Sequence[tuple[str, str]]) -> FloatArray:
        own = np.array([[float(answer.startswith(group)) for group in groups] for _, answer in texts])
        return np.asarray(own + 0.8 * rng.normal(size=own.shape))

    _, _, kinds, worth = preference_card.measure(rewards, choices, groups, trained_on=1)
    assert worth is not None and worth.texts == kinds.tested_on == 180
    told = worth.log_odds(preference_card.scores_of(np.array([2.0, 0.0, 0.0])))
    assert told[0] > 1 and max(told[1:]) < 0


@pytest.mark.parametrize(("shared", "said"), [(6, None), (3, None), (2, "67%"), (1, "83%"), (0, "100%")])
def test_a_card_says_where_kinds_and_questions_cannot_be_told_apart(shared: int, said: str | None) -> None:
    groups = ("one", "two")
    choices = [
        Choice(f"question {i if i < shared else (i, group)}", f"{group} {i}", f"nobody {i}", group)
        for i in range(6)
        for group in groups
    ]

    def rewards(texts: Sequence[tuple[str, str]]) -> FloatArray:
        return np.array([[float(answer.startswith(group)) for group in groups] for _, answer in texts])

    tested, right, kinds, worth = preference_card.measure(rewards, choices, groups, trained_on=1)
    own = preference_card.own_questions(choices, choices)
    card = PreferenceCard(groups, "a base", 12, "0" * 64, {}, tested, right, kinds, worth, own_questions=own)
    told = f"{said} of the answers are to questions that one group alone asks, so kinds of answers cannot be told from"
    assert (told in card.summary()) == (said is not None) == ("cannot be told" in card.summary())
    # a sample that holds one group's choice says nothing about who else asks the question
    assert preference_card.own_questions(choices[::2], choices) == own


def test_a_card_of_an_earlier_version_says_it_of_questions_that_are_all_one_groups(tmp_path: Path) -> None:
    for texts in (preference_card.ANSWERS, preference_card.OF_OWN_QUESTIONS):
        kinds = Measured("deployed", texts, 1, 2, ((1, 0), (0, 1)), (0, 0))
        PreferenceCard(("a", "b"), "a base", 12, "0" * 64, {}, (1, 1), (1.0, 1.0), kinds).save(tmp_path)
        facts = json.loads((tmp_path / "card.json").read_text())
        del facts["own_questions"]
        (tmp_path / "card.json").write_text(json.dumps(facts))
        said = PreferenceCard.load(tmp_path).summary()
        assert ("100% of the answers are to questions" in said) == (texts == preference_card.OF_OWN_QUESTIONS)
