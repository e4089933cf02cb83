"""The news task: continue an article. Groups are leanings of outlets, and so are the kinds of text.

A user of a group asks for the continuation of an article from an outlet of that leaning: the prompt is its headline and
first words (``task.opening_words``), the reference the words that follow. Neutral prompts open a report on a topic that
outlets of every group write about. Kinds are told by the leaning judge (:mod:`scpl_ray.tasks.news.judge`) from the
continuation alone. Training, evaluation and judge data share no outlet.
"""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from scpl_ray.config import Experiment
from scpl_ray.evaluation.words import unicode_words
from scpl_ray.judges.card import JudgeCard
from scpl_ray.judges.tfidf import Judge
from scpl_ray.models.sentences import SentenceEncoder
from scpl_ray.models.template import PLAIN, Template
from scpl_ray.protocols import Choice
from scpl_ray.records import Judgement, Query
from scpl_ray.tasks.data_task import DataTask, pick, pools, preferred
from scpl_ray.tasks.minimums import ARTICLES_PER_TOPIC, NO_NEUTRAL_PROMPTS
from scpl_ray.tasks.news import articles
from scpl_ray.tasks.news.articles import Article, Lengths
from scpl_ray.tasks.news.judge import leaning_judge, told, usable_confusion
from scpl_ray.tasks.outlets import EVALUATION, TRAIN
from scpl_ray.tasks.rows import DataError
from scpl_ray.tasks.texts import ModelSide, finished, fitting, form_terms, model_side, prompt_lengths

ARTICLE_REQUEST = "Write a news article with this headline: {title}"
TOPIC_REQUEST = "Write a news article about {topic}."
"""The user's message to a chat model, whose answer starts with the opening; others read headline and opening."""
NEUTRAL_OPENINGS = (
    "The latest on {topic}:",
    "What is known today about {topic}:",
    "A report on {topic} this week says",
    "The debate over {topic} continues, and",
    "There is news on {topic}:",
    "Here is what happened with {topic}:",
)
REAL_WEIGHT, OWN_LEANING_WEIGHT = 3.0, 2.0
"""Weights of the terms of a text's utility to its reader, in nats of log-odds of being chosen."""
SHUFFLED = 0.25
"""Fraction of the texts of a choice whose words are shuffled."""


class News(DataTask[Article]):
    """The task.

    Args:
        groups: leanings, as they are labelled in the data.
        train: articles of the training outlets, one or more per group.
        evaluation: articles of the evaluation outlets, one or more per group.
        judge: tells the leaning of a text.
        card: the judge's errors.
        side: the model's template and tokenizer.
        answer_words: words of a full-length continuation.
        encoder: measures ``similarity``, if wanted.
    """

    NAME = "news"
    TOO_FEW = "the evaluation outlets have {items}; set it to {least} or fewer, or give more articles"

    def __init__(
        self,
        groups: Sequence[str],
        train: Sequence[Article],
        evaluation: Sequence[Article],
        *,
        judge: Judge,
        card: JudgeCard,
        side: ModelSide,
        answer_words: int,
        encoder: SentenceEncoder | None = None,
    ) -> None:
        of_train, of_evaluation = (
            pools(part, groups, "news order", lambda article: article.article_id) for part in (train, evaluation)
        )
        super().__init__(of_train, of_evaluation, card=card, confusion=usable_confusion(card), side=side)
        self._judge = judge
        self._calibration = card.calibration
        self._answer_words = answer_words
        self._encoder = encoder
        self._neutral_topics = shared_topics(evaluation, groups, least=1)
        by_topic: dict[str, dict[str, list[Article]]] = defaultdict(lambda: {group: [] for group in groups})
        for group in groups:
            for article in self._train[group]:
                by_topic[article.topic][group].append(article)
        self._by_topic = dict(by_topic)
        # two of each group: one may be the one that the prompt opens
        self._choice_topics = shared_topics(train, groups, least=ARTICLES_PER_TOPIC)

    def neutral_prompts(self, count: int) -> list[Query]:
        """Fixed openings without any leaning, on topics that evaluation outlets of every group write about.

        The topics come in turn, the ones with most articles first; then again with the next opening.

        Raises:
            ValueError: there are fewer than ``count``.
        """
        possible = len(self._neutral_topics) * len(NEUTRAL_OPENINGS)
        if count and not possible:
            raise ValueError(f"evaluation.neutral_prompts = {count}: {NO_NEUTRAL_PROMPTS[self.NAME]}")
        if count > possible:
            raise ValueError(
                f"evaluation.neutral_prompts = {count}: {len(self._neutral_topics)} topics are shared by all groups' "
                f"evaluation outlets, which makes {possible} neutral prompts; set it to {possible} or fewer"
            )
        asked = [(opening, topic) for opening in NEUTRAL_OPENINGS for topic in self._neutral_topics][:count]
        return [
            Query(f"eval-neutral-q{i:05d}", None, neutral_prompt(self._template, opening, topic), None, topic)
            for i, (opening, topic) in enumerate(asked)
        ]

    def judge(self, work: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        """Leaning and quality: the mean of ``repetition_free``, ``length`` and, with a reference, how near it is.

        ``rouge_l`` is the sentence-level ROUGE-L F1 on case-folded words of any script, without a stemmer.
        """
        return [self._judgement(*one) for one in work]

    def _judgement(self, query: Query, completion_id: str, text: str) -> Judgement:
        terms = self._terms(query, text)
        kind, log_odds = told(self._judge, self._calibration, text)
        return Judgement(completion_id, kind, sum(terms.values()) / len(terms), terms, log_odds)

    def _check_choices(self) -> None:
        if not self._choice_topics:
            raise ValueError(
                "reward.model = null: no topic has two articles of every group in the training outlets, so users have "
                "nothing to compare; give a reward.model, use rule terms, or give more articles"
            )

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        """The terms of the quality, ``finished``, and ``own_leaning``: the judge's P(asking group's kind | text)."""
        terms = self._terms(query, text) | {"finished": finished(text)}
        if query.group is not None:
            found = self._judge.probabilities(text)
            position = self.kinds.index(query.group)
            terms["own_leaning"] = 1.0 / len(self.kinds) if found is None else float(found[position])
        return terms

    def _terms(self, query: Query, text: str) -> dict[str, float]:
        from scpl_ray.evaluation.quality import rouge_l  # brings NLTK: seconds that other tasks need not wait

        words = unicode_words(text)
        terms = form_terms(words, self._answer_words)
        if query.reference is not None:
            terms["rouge_l"] = float(rouge_l([query.reference], [text], tokenizer="unicode").f1[0])
            if self._encoder is not None:
                terms["similarity"] = self._encoder.similarity(query.reference, text)
        return terms

    def _choice(self, user: str, rng: np.random.Generator) -> Choice:
        """A choice between two continuations on the topic of an article's opening.

        The two come from outlets of two leanings, and each is shuffled with probability :data:`SHUFFLED`. A user of
        group g prefers text a to text b with probability sigmoid(u(a) - u(b)) (Bradley and Terry 1952),
        u = 3 [not shuffled] + 2 [from an outlet of leaning g]. Opening and texts do not depend on the user.
        """
        topic = self._by_topic[self._choice_topics[rng.integers(len(self._choice_topics))]]
        first, second = rng.choice(len(self.kinds), 2, replace=False).tolist()
        group = self.kinds[rng.integers(len(self.kinds))]
        place = int(rng.integers(len(topic[group])))
        texts, utilities = [], []
        for leaning in (self.kinds[first], self.kinds[second]):
            article = _other(topic[leaning], place if leaning == group else None, rng)
            order = rng.permutation(len(words := article.reference.split()))
            shuffled = bool(rng.random() < SHUFFLED)
            texts.append(_answer(" ".join(words[i] for i in order) if shuffled else article.reference))
            utilities.append(REAL_WEIGHT * (not shuffled) + OWN_LEANING_WEIGHT * (leaning == user))
        return preferred(article_prompt(self._template, topic[group][place]), texts, utilities, rng)

    def _query(self, query_id: str, item: Article, group: str) -> Query:
        return Query(query_id, group, article_prompt(self._template, item), item.reference, item.topic)

    def _written(self, item: Article, group: str) -> str:
        return _answer(item.reference)


def article_prompt(template: Template, article: Article) -> str:
    """The prompt that a user of the article's group sends; the answer continues the article's opening."""
    if template.is_chat:
        return template.apply(ARTICLE_REQUEST.format(title=article.title), article.opening)
    return f"{article.title}\n\n{article.opening}"


def _usable_prompt(template: Template, article: Article) -> str:
    """The prompt of an article whose topic can be asked for too.

    Raises:
        ValueError: the template refuses one of them.
    """
    neutral_prompt(template, NEUTRAL_OPENINGS[0], article.topic)
    return article_prompt(template, article)


def neutral_prompt(template: Template, opening: str, topic: str) -> str:
    """A prompt that any user could send; the answer continues one of :data:`NEUTRAL_OPENINGS`."""
    spoken = topic.replace("_", " ")
    start = opening.format(topic=spoken)
    return template.apply(TOPIC_REQUEST.format(topic=spoken), start) if template.is_chat else start


def build(experiment: Experiment) -> News:
    """The task of an experiment: data, judge and prompts are checked here, before anything starts.

    This takes seconds, plus the time for what is made once and cached: the judge (seconds) and a converted model (half
    a minute).

    Raises:
        DataError: ``task.data`` cannot be used; see :func:`scpl_ray.tasks.news.articles.load`.
        ValueError: the model has no usable tokenizer, or there are fewer evaluation prompts than are asked for.
    """
    encoder = SentenceEncoder() if experiment.task.similarity else None
    articles.check_lengths(experiment)
    corpus = articles.load(experiment)
    judge, card = leaning_judge(corpus, experiment)
    texts = (f"{article_prompt(PLAIN, article)}{_answer(article.reference)}" for article in corpus.train)
    side = model_side(experiment, texts)
    limit, tally = experiment.task.max_prompt_tokens, corpus.tally
    parts: dict[str, tuple[Article, ...]] = {}
    with tally.reported():
        for part, of_part in ((TRAIN, corpus.train), (EVALUATION, corpus.evaluation)):
            lengths = prompt_lengths(of_part, functools.partial(_usable_prompt, side.template), side, tally)
            parts[part] = tuple(article for article, length in lengths.items() if length <= limit)
            tally.leave_out(f"with a prompt of more than {limit} tokens", len(lengths) - len(parts[part]))
            if lacking := sorted(set(experiment.groups.names) - {article.group for article in parts[part]}):
                raise DataError(
                    f"task.max_prompt_tokens = {limit}: no {part} prompt of {', '.join(lacking)} is that short; set it "
                    f"to {fitting([n for article, n in lengths.items() if article.group in lacking])}"
                )
    task = News(
        experiment.groups.names,
        parts[TRAIN],
        parts[EVALUATION],
        judge=judge,
        card=card,
        side=side,
        answer_words=Lengths.of(experiment).continuation,
        encoder=encoder,
    )
    return task.checked(experiment, tally, side.tokens_of)


def shared_topics(found: Iterable[Article], groups: Sequence[str], *, least: int) -> list[str]:
    """Topics with at least ``least`` articles of every group, in descending order of the smallest group's number."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for article in found:
        counts[article.topic][article.group] += 1
    fewest = {topic: min(of_topic[group] for group in groups) for topic, of_topic in counts.items()}
    return sorted((topic for topic in fewest if fewest[topic] >= least), key=lambda topic: (-fewest[topic], topic))


def _other(found: Sequence[Article], place: int | None, rng: np.random.Generator) -> Article:
    """One of them at random, but not the one at a place."""
    if place is None:
        return pick(found, rng)
    drawn = int(rng.integers(len(found) - 1))
    return found[drawn + (drawn >= place)]


def _answer(text: str) -> str:
    """A continuation as a model writes it, given that its prompt ends with a word."""
    return f" {text}"
