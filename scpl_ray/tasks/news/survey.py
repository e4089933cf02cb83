"""What the news task would make of a file."""

from __future__ import annotations

from scpl_ray.config import Experiment
from scpl_ray.tasks import rows as data
from scpl_ray.tasks import survey as common
from scpl_ray.tasks.minimums import ARTICLES_PER_TOPIC
from scpl_ray.tasks.news import articles
from scpl_ray.tasks.news.articles import LEAST_CONTINUATION, Lengths
from scpl_ray.tasks.news.task import NEUTRAL_OPENINGS, shared_topics
from scpl_ray.tasks.outlets import outlets
from scpl_ray.tasks.survey import Survey
from scpl_ray.tasks.texts import tokens

MOST_OUTLETS = 0.8
"""Share of different outlets among the rows above which a column of sources may name articles or authors."""


def survey(experiment: Experiment, *, named: bool) -> Survey:
    """Look at ``task.data``.

    Args:
        experiment: ``task``, ``groups`` and ``generation.max_new_tokens`` matter.
        named: whether the groups are the user's; otherwise all labels of the data are.

    Raises:
        DataError: the rows cannot be read.
    """
    rows, tally = data.load(experiment, articles.FIELDS, named=named)
    experiment = common.grouped(experiment, rows, "label", tally, named=named)
    names, lengths = experiment.groups.names, Lengths.of(experiment)
    rows = data.of_groups(rows, tally, articles.FIELDS, names)
    corpus, stopped = common.attempt(articles.load, experiment)
    called = outlets(row["source"] for row in rows)
    groups: dict[str, dict[str, int]] = {}
    evaluation: int | None = None
    neutral: int | None = None
    settings: list[str] = []
    for group in names:
        mine = [row for row in rows if row["label"] == group]
        groups[group] = {
            "rows": len(mine),
            "outlets": len({called[row["source"]] for row in mine}),
            "topics": len({row["topic"] for row in mine}),
            "words (median)": common.quartiles(row["text"] for row in mine)[1],
        }
        if corpus is not None:
            groups[group] |= {part: of_part[group] for part, of_part in corpus.split.articles.items()}
    if corpus is not None:
        topics = shared_topics(corpus.train, names, least=ARTICLES_PER_TOPIC)
        settings.append(
            f"reward.model=null is possible: users can choose between articles on {len(topics):,} topics"
            if topics
            else "reward.model=MODEL, or reward.terms without model: no topic has articles that users can choose from"
        )
        evaluation = min(sum(article.group == group for article in corpus.evaluation) for group in names)
        neutral = len(NEUTRAL_OPENINGS) * len(shared_topics(corpus.evaluation, names, least=1))
    median = common.quartiles(row["text"] for row in rows)[1]
    opening = max(1, min(lengths.opening, median * 2 // 5))
    if median >= opening + LEAST_CONTINUATION:
        most = min(lengths.continuation, median - opening)
        settings.append(
            f"task.opening_words={opening} task.continuation_words={most} generation.max_new_tokens={tokens(most)} "
            "fits half of the texts or more"
        )
    different = len(set(called.values()))
    prompts = [len(row["title"].split()) + min(lengths.opening, len(row["text"].split())) for row in rows]
    settings.append(common.fits("task.max_prompt_tokens", prompts, "prompts"))
    return Survey(
        tally if corpus is None else corpus.tally,
        groups,
        {field: common.quartiles(row[field] for row in rows) for field in ("title", "text")},
        tuple(settings),
        prompts_per_group=evaluation,
        neutral_prompts=neutral,
        notes=(_many(len(rows), different),) if different > MOST_OUTLETS * len(rows) else (),
        stopped=stopped,
    )


def _many(rows: int, outlets: int) -> str:
    return (
        f"{rows:,} rows have {outlets:,} different outlets, so an outlet that is written in several ways may be in "
        "several parts; give the column of the outlet with task.fields={source: COLUMN}"
    )
