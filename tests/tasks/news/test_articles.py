"""Which articles are used once, and what is said of the lengths to which they are cut."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scpl_ray.config import Experiment
from scpl_ray.tasks.news import articles
from scpl_ray.tasks.news.task import _other
from scpl_ray.tasks.outlets import outlets
from tests.support import news_data


def experiment_on(rows: list[dict[str, Any]], folder: Path, **task: Any) -> Experiment:
    source = news_data.write_jsonl(folder / "news.jsonl", rows)
    return Experiment.model_validate(
        {
            "groups": {"names": ["left", "right"]},
            "task": {"name": "news", "data": str(source), **task},
            "generation": {"max_new_tokens": 16},
        }
    )


def test_one_agencys_article_is_used_once_whatever_its_end_and_case(tmp_path: Path) -> None:
    rows = news_data.rows()
    copies = [
        {**rows[0], "id": "end", "source": "Left Paper 1", "text": f"{rows[0]['text']} Read more in our paper."},
        {**rows[1], "id": "case", "source": "Left Paper 2", "text": rows[1]["text"].title()},
    ]
    corpus = articles.load(experiment_on([*rows, *copies], tmp_path))
    assert corpus.report.dropped == {"with a text that an earlier row has": 2}
    used = [f"{article.opening} {article.reference}".casefold() for article in (*corpus.train, *corpus.evaluation)]
    assert len(used) == len(set(used))


def test_rows_of_a_label_that_is_no_group_hide_no_row_of_a_group(tmp_path: Path) -> None:
    rows = news_data.rows()
    others = [
        {**rows[0], "label": "center", "id": "a text of its own"},
        {**rows[1], "label": "center", "part": "train"},
    ]
    corpus = articles.load(experiment_on([*others, *rows], tmp_path))
    assert corpus.report.dropped == {"of a label that is no group": 2} and corpus.report.kept == len(rows)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("Washington Times", "https://www.washingtontimes.com/news/2021"),
        ("The Hill", "thehill.com"),
        ("USA Today", "https://usatoday.com"),
        ("The Daily Beast - Opinion", "www.thedailybeast.com/opinion"),
        ("New York Post (News)", "//newyorkpost.com"),
        ("Investor's Business Daily", "InvestorsBusinessDaily.com"),
        ("Chicago Sun-Times", "chicagosuntimes.com"),
        ("The Times News", "http://m.timesnews.com:80/a"),
    ],
)
def test_an_outlet_is_the_same_by_name_and_by_address(name: str, address: str) -> None:
    found = outlets([address, name, "Another Paper"])
    assert found[name] == found[address] == outlets([name])[name] != found["Another Paper"]


def test_an_outlet_that_is_written_in_one_way_keeps_its_name() -> None:
    assert outlets(["The Left Paper", "Left Paper News"]) == dict.fromkeys(
        ("The Left Paper", "Left Paper News"), "left paper"
    )
    assert outlets(["theblaze.com"]) == {"theblaze.com": "theblaze"}


def test_names_and_addresses_of_outlets_give_the_parts_of_names(tmp_path: Path) -> None:
    rows = news_data.rows()
    mixed = [
        {**row, "source": f"https://www.the{row['source'].replace(' ', '')}.com/{i}" if i % 2 else row["source"]}
        for i, row in enumerate(rows)
    ]
    named, found = (articles.load(experiment_on(these, tmp_path)) for these in (rows, mixed))
    assert found.split == named.split
    assert [article.article_id for article in found.train] == [article.article_id for article in named.train]
    assert {text.outlet for text in found.labelled["judge"]} == set(named.split.outlets["judge"])


@pytest.mark.parametrize(("words", "warned"), [(None, False), (8, False), (18, False), (7, True), (19, True)])
def test_a_judge_of_another_length_than_the_answers_is_warned_of(
    words: int | None, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    articles.check_lengths(experiment_on(news_data.rows(), tmp_path, continuation_words=words))
    said = f"task.continuation_words = {words}: the judge is fitted and measured on texts of so many words"
    assert (said in caplog.text) == warned and ("makes answers of about 12" in caplog.text) == warned


def test_another_article_is_drawn_as_from_a_list_without_the_first() -> None:
    found: list[Any] = [*"abcdef"]
    for seed in range(20):
        for place in range(len(found)):
            rest = [one for one in found if one != found[place]]
            wanted = rest[int(np.random.default_rng(seed).integers(len(rest)))]
            assert _other(found, place, np.random.default_rng(seed)) == wanted
