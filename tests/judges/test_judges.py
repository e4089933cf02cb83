"""The leaning judge and its card."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from scpl_ray.config import Experiment
from scpl_ray.judges import card as judge_card
from scpl_ray.judges import tfidf
from scpl_ray.judges.card import DEPLOYED, OUTLETS, RANDOM, JudgeCard, Measured, usable_confusion
from scpl_ray.judges.tfidf import LabelledText, LeaningJudge
from scpl_ray.tasks.news import judge as leaning
from scpl_ray.tasks.outlets import PARTS, assign, outlet
from tests.support import news_data

WORDS = 12


def labelled(rows: list[dict[str, str]]) -> list[LabelledText]:
    return [
        LabelledText(r["id"], r["text"], r["label"], outlet(r["source"]), r.get("split_random"), r.get("split_media"))
        for r in rows
    ]


@pytest.fixture(scope="module")
def texts() -> list[LabelledText]:
    return labelled(news_data.rows())


@pytest.fixture(scope="module")
def judge(texts: list[LabelledText]) -> LeaningJudge:
    return tfidf.fit(texts, news_data.LEANINGS, WORDS)


@pytest.mark.parametrize("labels", [("left", "right"), ("left", "middle", "right")])
def test_probabilities_are_scikit_learns(labels: tuple[str, ...], texts: list[LabelledText]) -> None:
    middle = [
        LabelledText(f"m{i}", text.text.replace("council", "centre"), "middle", "m") for i, text in enumerate(texts)
    ]
    texts = texts + middle[:20] if len(labels) == 3 else texts
    fitted = tfidf.fit(texts, labels, WORDS)
    windows = [(w, t.label) for t in texts for w in tfidf.windows(t, WORDS, tfidf.WINDOWS_PER_ARTICLE)]
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2)
    features = vectorizer.fit_transform([w for w, _ in windows])
    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(features, [label for _, label in windows])
    for text in ("Workers and unions said", "tradition, tradition! the council", texts[0].text):
        wanted = model.predict_proba(vectorizer.transform([text]))[0]
        np.testing.assert_allclose(fitted.probabilities(text), wanted, atol=1e-7)


def test_it_tells_leanings_apart_and_says_when_it_cannot(judge: LeaningJudge) -> None:
    assert judge.label("justice for workers") == "left" and judge.label("LIBERTY!") == "right"
    assert judge.probabilities("zzz 1 ?") is None and judge.label("") is None


def test_a_reloaded_judge_is_the_same_bit_for_bit(judge: LeaningJudge, tmp_path: Path) -> None:
    judge.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    again = LeaningJudge.load(tmp_path)
    assert again.labels == judge.labels and again.words == judge.words
    for one, other in ((again.idf, judge.idf), (again.weights, judge.weights), (again.intercept, judge.intercept)):
        assert one.dtype == np.float64 and np.array_equal(one, other)


def test_files_that_are_no_judge_are_refused(judge: LeaningJudge, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no judge that can be read"):
        LeaningJudge.load(tmp_path)
    judge.save(tmp_path)
    facts = json.loads((tmp_path / tfidf.VOCABULARY).read_text())
    (tmp_path / tfidf.VOCABULARY).write_text(json.dumps(facts | {"words": facts["words"][1:]}))
    with pytest.raises(ValueError, match="do not fit"):
        LeaningJudge.load(tmp_path)


def test_a_judge_needs_articles_of_every_label(texts: list[LabelledText]) -> None:
    with pytest.raises(ValueError, match="no article is labelled right"):
        tfidf.fit([text for text in texts if text.label == "left"], news_data.LEANINGS, WORDS)
    strangers = [LabelledText(label, label, label, label) for label in news_data.LEANINGS]
    with pytest.raises(ValueError, match="share no words"):
        tfidf.fit(strangers, news_data.LEANINGS, WORDS)


def test_windows_are_disjoint_pieces_of_the_article(texts: list[LabelledText]) -> None:
    found = tfidf.windows(texts[0], WORDS, 4)
    assert len(found) == 4 == len(set(found)) and all(len(w.split()) == WORDS and w in texts[0].text for w in found)
    assert found == tfidf.windows(texts[0], WORDS, 4) != tfidf.windows(texts[1], WORDS, 4)
    assert tfidf.windows(LabelledText("s", "only three words", "left", "o"), WORDS, 4) == ["only three words"]


def test_rates_and_f1_of_a_confusion() -> None:
    one = Measured("p", "articles", 1, 100, ((40, 10), (20, 25)), (0, 5))
    assert one.true_positive_rates == (0.8, 0.5)
    assert one.false_positive_rates == (0.4, 0.2)
    true = ["l"] * 50 + ["r"] * 50
    said = ["l"] * 40 + ["r"] * 10 + ["l"] * 20 + ["r"] * 25 + ["none"] * 5
    assert one.macro_f1 == pytest.approx(f1_score(true, said, labels=["l", "r"], average="macro"))


def with_splits(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Published splits: by row, and by outlet but for one article that is in train and in an outlet of test."""
    for i, row in enumerate(rows):
        row["split_random"] = ("train", "train", "test")[i % 3]
        row["split_media"] = "test" if row["source"].endswith(("2", "3")) else "train"
    rows[-1]["split_media"] = "train"
    return rows


def test_protocols_and_published_splits() -> None:
    texts = labelled(with_splits(news_data.rows()))
    found, left_out = judge_card.measure_protocols(texts, news_data.LEANINGS, WORDS)
    assert [m.protocol for m in found[::2]] == [
        f"{RANDOM}, 5 folds",
        f"{OUTLETS}, 4 folds",
        f"{RANDOM}, published test",
        f"{OUTLETS}, published test",
    ]
    assert {m.texts for m in found[1::2]} == {f"windows of {WORDS} words"}
    assert found[0].tested_on == found[2].tested_on == len(texts)
    # the outlet "right paper 3" is in train through one article: its 8 others cannot be a test of new outlets
    assert left_out == {"of published test, outlet also in train": 8} and found[6].tested_on == 2 * 9 + 9
    assert all(m.macro_f1 > 0.9 for m in found)


def test_one_random_split_is_the_published_one_where_there_is_one(texts: list[LabelledText]) -> None:
    def fit(articles: Sequence[LabelledText]) -> LeaningJudge:
        fitted.append({article.text_id for article in articles})
        return tfidf.fit(articles, news_data.LEANINGS, WORDS)

    fitted: list[set[str]] = []
    whole, cut = judge_card.measure_random_split(fit, texts, news_data.LEANINGS, WORDS, 10)
    assert whole.protocol == f"{RANDOM}, 1 of 5 folds" and whole.tested_on == 10 and cut.tested_on == 20
    assert whole.trained_on == len(fitted[0]) == 57 and whole.macro_f1 > 0.8
    published = labelled(with_splits(news_data.rows()))
    whole, _ = judge_card.measure_random_split(fit, published, news_data.LEANINGS, WORDS, 1000)
    assert whole.protocol == f"{RANDOM}, published valid and test"
    assert fitted[1] == {text.text_id for text in published if text.split_random == "train"}
    assert whole.tested_on == len(published) - len(fitted[1])


def test_outlets_that_only_give_themselves_away_fail_on_held_out_outlets() -> None:
    """Words of an outlet instead of words of a leaning: perfect on a random split, chance on outlets not seen."""
    rows = news_data.rows(outlets=8, per_outlet=6)
    for row in rows:
        name = row["source"].replace(" ", "").lower()
        words = [w for w in row["text"].split() if w.strip(".") in news_data.SHARED]
        row["text"] = " ".join(f"{word} {name}" if i % 4 == 0 else word for i, word in enumerate(words))
    found, _ = judge_card.measure_protocols(labelled(rows), news_data.LEANINGS, WORDS)
    by_protocol = {m.protocol.split(",")[0]: m.macro_f1 for m in found if m.texts == "articles"}
    assert by_protocol[RANDOM] > 0.95 and by_protocol[OUTLETS] < 0.7


def test_too_few_outlets_for_a_test_are_named() -> None:
    with pytest.raises(ValueError, match="a label has 1 outlets"):
        judge_card.measure_protocols(labelled(news_data.rows(outlets=1)), news_data.LEANINGS, WORDS)


def test_a_card_is_saved_with_its_rates_and_reloads(tmp_path: Path) -> None:
    measured = (
        Measured(DEPLOYED, "articles", 10, 20, ((9, 1), (2, 8)), (0, 0)),
        Measured(DEPLOYED, "windows of 12 words", 10, 40, ((12, 4), (6, 14)), (4, 0)),
    )
    card = JudgeCard(("left", "right"), 12, "0" * 64, tfidf.SETTINGS, measured, {"why": 3})
    card.save(tmp_path)
    assert JudgeCard.load(tmp_path) == card
    assert measured[1].confusion_rates() == ((0.75, 0.25), (0.3, 0.7))
    row = card.table()[1]
    assert row["texts"] == "windows of 12 words" and row["TPR left"] == 0.6 and row["undecided"] == 4
    assert json.loads((tmp_path / "card.json").read_text())["table"] == card.table()
    with pytest.raises(ValueError, match="the card has as used"):
        card.find("other", windows=True)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(ValueError, match="no judge card"):
        JudgeCard.load(tmp_path)


def test_a_judge_is_trained_from_a_file_and_is_the_one_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    source = news_data.write_jsonl(tmp_path / "a.jsonl", with_splits(news_data.rows()))
    experiment = Experiment.model_validate(
        {
            "groups": {"names": ["left", "right"]},
            "task": {"name": "news", "data": str(source)},
            "generation": {"max_new_tokens": 16},
        }
    )
    card = leaning.train_judge(experiment, tmp_path / "judge")
    assert JudgeCard.load(tmp_path / "judge") == card and card.window_words == WORDS
    assert card.measured[0].protocol == DEPLOYED and len(card.measured) == 10
    assert card.find(DEPLOYED, windows=True).macro_f1 > 0.8
    (used,) = (tmp_path / "cache").glob("kind-judge-*/judge.safetensors")
    assert used.read_bytes() == (tmp_path / "judge" / "judge.safetensors").read_bytes()
    with pytest.raises(ValueError, match="not an empty folder"):
        leaning.train_judge(experiment, tmp_path / "judge")


@pytest.mark.parametrize(
    ("published", "house"),
    [
        ("Fox Online News", "fox"),
        ("Fox News (Online)", "fox"),
        ("Fox News Opinion", "fox"),
        ("New York Times - News", "new york times"),
        ("New York Times Editorial Board", "new york times"),
        ("The Guardian", "guardian"),
        ("TheBlaze.com", "theblaze"),
        ("FoxNews.com", "fox"),
        ("ABC News \u2013 Online", "abc"),
        ("News", "news"),
        ("The News", "the news"),
        ("www.foxnews.com", "fox"),
        ("https://www.FoxNews.com/politics/a-b?c=d", "fox"),
        ("http://foxnews.com:80", "fox"),
        ("//m.foxnews.com/", "fox"),
        ("foxnews.com/politics", "fox"),
        ("www.foxnews.com (Online)", "fox"),
        ("https://news.yahoo.com/a", "yahoo"),
        ("https://www.news.com/1", "news.com"),
        ("https://www.npr.org/2026/12", "npr.org"),
        ("Whitehouse.gov", "whitehouse.gov"),
        ("AP/Reuters", "ap/reuters"),
        ("Richard A. Lowry", "richard a. lowry"),
    ],
)
def test_desks_of_one_house_are_one_outlet(published: str, house: str) -> None:
    assert outlet(published) == house


def test_three_outlets_of_a_group_are_enough_however_unequal() -> None:
    counts = {"a1": 90, "a2": 5, "a3": 5, "b1": 30, "b2": 30, "b3": 30}
    parts = assign({name: Counter({name[0]: count}) for name, count in counts.items()}, ["a", "b"])
    for group in "ab":
        assert {part for name, part in parts.items() if name[0] == group} == set(PARTS)
    few = assign({"a1": Counter(a=3), "b1": Counter(b=2), "b2": Counter(b=1)}, ["a", "b"])
    assert few.keys() == {"a1", "b1", "b2"}


def test_a_judge_that_takes_one_kind_for_a_mixture_of_others_corrects_nothing(caplog: pytest.LogCaptureFixture) -> None:
    counts = ((500, 200, 300), (10, 50, 40), (18, 44, 38))
    found = Measured(DEPLOYED, "windows of 12 words", 1, 1, counts, (0, 0, 0))
    assert all(true > false for true, false in zip(found.true_positive_rates, found.false_positive_rates, strict=True))
    assert usable_confusion(found, ("a", "b", "c"), "text") is None
    assert "does not tell all of a, b, c apart" in caplog.text


def test_outlets_are_shared_out_whole_and_evenly() -> None:
    rng = np.random.default_rng(0)
    articles = {f"o{i}": Counter({"ab"[i % 2]: int(rng.integers(1, 30))}) for i in range(60)}
    parts = assign(articles, ("a", "b"))
    assert parts == assign(dict(reversed(articles.items())), ("a", "b"))
    for group in "ab":
        total = sum(counts[group] for counts in articles.values())
        for part, share in PARTS.items():
            got = sum(counts[group] for name, counts in articles.items() if parts[name] == part)
            assert abs(got / total - share) < 0.02
