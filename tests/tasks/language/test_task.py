import dataclasses
import itertools
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from scpl_ray.config import Experiment
from scpl_ray.records import Query
from scpl_ray.seeds import generator
from scpl_ray.tasks import TASKS
from scpl_ray.tasks.language.grammar import TEMPLATES, Grammar, join_words, words_of
from scpl_ray.tasks.language.judge import Judge
from scpl_ray.tasks.language.lexicon import POOLS, Lexicon, deal
from scpl_ray.tasks.language.task import EVALUATION_SEED, Language

NAMES = ("north", "south", "east", "west", "hill", "vale", "coast", "isle", "moor", "fen", "dale", "wold")


@pytest.fixture(scope="module")
def language() -> Language:
    return Language(("north", "south"), 0.8)


@pytest.fixture(scope="module", params=[2, 3, 5, 12])
def any_language(request: pytest.FixtureRequest) -> Language:
    return Language(NAMES[: request.param], 0.8)


@pytest.fixture(scope="module")
def small() -> Grammar:
    """Two kinds, two topics, two words per class, two templates: all 2,080 sentences of a kind can be listed."""
    pairs = {
        "ADJECTIVE": (("a0", "a1"), ("b0", "b1")),
        "VERBED": (("v0", "v1"), ("w0", "w1")),
        "ACTORS": (("m0", "m1"), ("n0", "n1")),
        "THING": (("s0", "s1"), ("t0", "t1")),
        "JOINER": (("and", "but"),),
    }
    templates = {"the ADJECTIVE ACTORS VERBED THING": 0.7, "THING VERBED": 0.3}
    return Grammar(Lexicon(("x", "y"), ("p", "q"), pairs), templates)


def clauses(kind: int, topic: int) -> list[list[str]]:
    letters = ("av", "bw")[kind] + ("ms", "nt")[topic]
    adjective, verb, actor, thing = ([f"{letter}0", f"{letter}1"] for letter in letters)
    long = itertools.product(["the"], adjective, actor, verb, thing)
    return [list(words) for words in (*long, *itertools.product(thing, verb))]


def sentences(kind: int, topic: int) -> list[list[str]]:
    all_clauses = clauses(kind, topic)
    single = [[*a, "."] for a in all_clauses]
    double = [[*a, ",", j, *b, "."] for a in all_clauses for j in ("and", "but") for b in all_clauses]
    return single + double


@pytest.mark.parametrize(("kind", "topic"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_probabilities_of_all_sentences_sum_to_one(small: Grammar, kind: int, topic: int) -> None:
    listed = sentences(kind, topic)
    assert len(listed) == 20 + 20 * 2 * 20
    total = sum(math.exp(small.log_likelihoods(words, topic)[kind]) for words in listed)
    assert total == pytest.approx(1.0, abs=1e-12)
    assert all(small.log_likelihoods(words, topic)[1 - kind] == -math.inf for words in listed)
    assert all(small.log_likelihoods(words, 1 - topic)[kind] == -math.inf for words in listed)


def test_a_probability_by_hand(small: Grammar) -> None:
    # One clause, .5; the second template, .3; the rarer thing, (1/6) / (1/5 + 1/6) = 5/11; the commoner verb, 6/11.
    assert small.log_likelihoods(["s1", "v0", "."], 0)[0] == pytest.approx(math.log(0.5 * 0.3 * 5 / 11 * 6 / 11))


def test_samples_are_as_frequent_as_their_probability(small: Grammar) -> None:
    count = 100_000
    uniforms = generator(1, "frequency").random((count, small.uniforms_per_sentence))
    texts = small.texts(small.sample(np.ones(count, dtype=int), np.zeros(count, dtype=int), uniforms))
    listed = [join_words(words) for words in sentences(1, 0)]
    probabilities = np.exp([small.log_likelihoods(words_of(text), 0)[1] for text in listed])
    observed = np.array([texts.count(text) for text in listed[:20]])
    assert set(texts) <= set(listed)
    z = (observed - count * probabilities[:20]) / np.sqrt(count * probabilities[:20] * (1 - probabilities[:20]))
    assert np.abs(z).max() < 4.5


def test_the_exact_likelihood_is_the_entropy_of_the_slots(language: Language) -> None:
    """The same rate from the entropy of each choice the grammar makes, word by word."""

    def entropy(probabilities: list[float]) -> float:
        return -sum(p * math.log(p) for p in probabilities)

    lexicon = deal(("north", "south"))

    def of_class(name: str) -> float:
        weights = [1 / (rank + 5) for rank in range(len(lexicon.classes[name][0]))]
        return entropy([weight / sum(weights) for weight in weights])

    clause = entropy(list(TEMPLATES.values())) + sum(
        p * sum(of_class(word) for word in template.split() if word in lexicon.classes)
        for template, p in TEMPLATES.items()
    )
    unmarked = 0.2 * 0.05 / (0.8 + 0.2 * 0.05)
    kind = (1 - unmarked) * entropy([0.8, 0.2]) + unmarked * math.log(2)
    nats = math.log(2) + 1.5 * clause + 0.5 * of_class("JOINER") + kind
    tokens = 1.5 * sum(p * len(t.split()) for t, p in TEMPLATES.items()) + 0.5 * 2 + 2
    examples = language.held_out_examples(5000)
    each = np.array([-language.log_probability(query.prompt, text) for query, text in examples])
    assert each.mean() == pytest.approx(nats, abs=4 * each.std() / math.sqrt(len(each)))
    assert language.nats_per_token(examples) == pytest.approx(nats / tokens, rel=0.01)


def test_the_kind_is_summed_out_given_what_the_prompt_reveals(language: Language) -> None:
    text = "the gentle dockers praised the ferry."
    own = language.log_probability("on monday aldbury readers asked about the harbour:", text)
    other = language.log_probability("on monday ingleby readers asked about the harbour:", text)
    neutral = language.log_probability("on monday several readers asked about the harbour:", text)
    assert own - neutral == pytest.approx(math.log(0.8 / 0.5))
    assert other - neutral == pytest.approx(math.log(0.2 / 0.5))
    assert language.log_probability("on monday several readers asked about the farm:", text) == -math.inf
    assert language.log_probability("on monday several readers asked about the harbour:", text[:-1]) == -math.inf


def test_kinds_of_real_text_are_those_of_the_law(any_language: Language) -> None:
    examples = any_language.real_examples(5000, seed=3)
    judged = [any_language.judge([(query, "c", text)])[0] for query, text in examples]
    assert {judgement.kind for judgement in judged} == set(any_language.kinds)
    own = np.mean([judgement.terms["own_kind"] for judgement in judged])
    groups = len(any_language.kinds)
    unmarked = 0.2 * 0.05 / (0.8 + 0.2 * 0.05)
    expected = (1 - unmarked) * 0.8 + unmarked / groups
    assert own == pytest.approx(expected, abs=4 * math.sqrt(0.16 / 5000))
    assert all(judgement.terms["well_formed"] == judgement.terms["on_topic"] == 1.0 for judgement in judged)
    assert np.mean([judgement.quality for judgement in judged]) == pytest.approx((2 + own) / 3)


def test_even_real_text_has_groups_and_kinds_in_their_shares_in_any_stretch() -> None:
    names = ("north", "south", "east")
    even, drawn = Language(names, 0.8, real_text="even"), Language(names, 0.8)
    towns = {word: k for k, variant in enumerate(deal(names).classes["MARKER"][:-1]) for word in variant}

    def marker(prompt: str) -> int:
        return next((towns[word] for word in words_of(prompt) if word in towns), len(names))

    def furthest(language: Language) -> tuple[float, float]:
        """Largest excess of any stretch of a count over its expectation: of groups, and of kinds by marker."""
        examples = language.real_examples(8000, seed=3)
        kinds = [language.judge([(query, "c", text)])[0].kind for query, text in examples]
        markers = np.array([marker(query.prompt) for query, _ in examples])
        of_groups = max(_furthest(np.array([q.group == name for q, _ in examples]), 1 / 3) for name in names)
        of_kinds = 0.0
        for m in range(len(names) + 1):
            of_marker = [kind for kind, one in zip(kinds, markers, strict=True) if one == m]
            for k, name in enumerate(names):
                share = 1 / 3 if m == len(names) else 0.8 if m == k else 0.1
                of_kinds = max(of_kinds, _furthest(np.array([kind == name for kind in of_marker]), share))
        return of_groups, of_kinds

    assert max(furthest(even)) < 5 < min(furthest(drawn))
    unmarked = np.mean([marker(query.prompt) == len(names) for query, _ in even.real_examples(8000, seed=3)])
    assert unmarked == pytest.approx(0.2, abs=0.02)  # as users ask
    assert even.real_examples(10, seed=1) == even.real_examples(99, seed=1)[:10] != drawn.real_examples(10, seed=1)
    assert even.held_out_examples(10) == drawn.held_out_examples(10)
    assert even.fingerprint != drawn.fingerprint


def _furthest(hits: NDArray[np.bool_], share: float) -> float:
    """The largest distance of the count in any stretch from what its share makes of the stretch."""
    walk = np.concatenate([[0.0], np.cumsum(hits - share)])
    return float(walk.max() - walk.min())


def test_the_judge_names_the_only_kind_that_can_have_written_a_text(any_language: Language) -> None:
    grammar = Grammar(deal(any_language.kinds))
    for query, text in any_language.held_out_examples(500):
        assert query.topic is not None
        likelihoods = grammar.log_likelihoods(words_of(text), any_language.topics.index(query.topic))
        assert np.isfinite(likelihoods).sum() == 1
        judgement = any_language.judge([(query, "c", text)])[0]
        assert judgement.kind == any_language.kinds[int(likelihoods.argmax())]
        assert judgement.log_odds is None  # a judge that never errs has no doubt to measure


def test_neutral_prompts_reveal_nothing_and_their_true_kinds_are_balanced(any_language: Language) -> None:
    queries = any_language.neutral_prompts(3000)
    groups = len(any_language.kinds)
    towns = {word for variant in deal(any_language.kinds).classes["MARKER"][:-1] for word in variant}
    assert all(query.group is None and towns.isdisjoint(words_of(query.prompt)) for query in queries)
    judged = [any_language.judge([(query, "c", str(query.reference))])[0] for query in queries]
    shares = np.array([np.mean([judgement.kind == kind for judgement in judged]) for kind in any_language.kinds])
    topics = np.array([np.mean([query.topic == topic for query in queries]) for topic in any_language.topics])
    assert np.abs(shares - 1 / groups).max() < 4.5 * math.sqrt(1 / groups / 3000)
    assert np.abs(topics - 1 / len(topics)).max() < 4.5 * math.sqrt(1 / len(topics) / 3000)
    assert all("own_kind" not in judgement.terms and judgement.quality == 1.0 for judgement in judged)


def test_groups_ask_mostly_about_their_own_topics(any_language: Language) -> None:
    count = len(any_language.kinds)
    own = np.array_split(np.array(any_language.topics), count)
    queries = any_language.draw(dict.fromkeys(any_language.kinds, 2000), seed=5, prefix="r001")
    for k, kind in enumerate(any_language.kinds):
        share = np.mean([query.topic in own[k] for query in queries if query.group == kind])
        assert share == pytest.approx(0.6, abs=4.5 * math.sqrt(0.24 / 2000))


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.8, 1.0])
def test_marker_strength_is_the_share_of_marked_prompts(strength: float) -> None:
    language = Language(("north", "south", "east"), strength)
    towns = {word: k for k, variant in enumerate(deal(language.kinds).classes["MARKER"][:-1]) for word in variant}

    def markers(prompts: list[tuple[str, str | None]]) -> list[bool]:
        found = []
        for prompt, group in prompts:
            revealed = [towns[word] for word in words_of(prompt) if word in towns]
            assert all(language.kinds[k] == group for k in revealed)
            found.append(bool(revealed))
        return found

    drawn = language.draw(dict.fromkeys(language.kinds, 1000), seed=2, prefix="r")
    assert np.mean(markers([(q.prompt, q.group) for q in drawn])) == pytest.approx(strength, abs=0.035)
    real = language.real_examples(20_000, seed=2)
    unmarked = 1 - np.mean(markers([(q.prompt, q.group) for q, _ in real]))
    kept = 0.05 * (1 - strength)
    assert unmarked == pytest.approx(kept / (strength + kept), abs=0.006)


def test_kind_posterior_by_hand() -> None:
    judge = Judge(Grammar(deal(("north", "south", "east"))))
    # Slips of .05 over two other kinds: one more word of a kind multiplies its odds by .95 * 2 / .05 = 38.
    assert judge.kind_posterior(["praised", "praised", "mocked"]) == pytest.approx(
        np.array([38, 1, 1 / 38]) / (38 + 1 + 1 / 38)
    )
    assert judge.kind_posterior(["the", "ferry"]) == pytest.approx(np.full(3, 1 / 3))
    assert judge.kind(["praised", "praised", "mocked"]) == "north"
    assert judge.kind(["praised", "mocked"]) is None
    assert judge.kind(["the", "ferry", "unheard-of"]) is None


def test_quality_falls_with_every_kind_of_damage(language: Language) -> None:
    query = dataclasses.replace(
        language.group_prompts(1)[0], prompt="on monday aldbury readers asked about the harbour:"
    )

    def terms(text: str) -> tuple[float, float, float]:
        judged = language.judge([(query, "c", text)])[0]
        assert judged.quality == pytest.approx(sum(judged.terms.values()) / 3)
        return judged.terms["well_formed"], judged.terms["on_topic"], judged.terms["own_kind"]

    assert terms("the brave dockers praised the ferry.") == (1, 1, 1)
    assert terms("the lazy dockers mocked the ferry.") == (1, 1, 0)
    assert terms("the brave farmers praised the barn.") == (1, 0, 1)
    assert terms("the brave dockers praised the barn.") == (1, 0.5, 1)
    assert terms("the brave dockers praised the ferry") == (0, 1, 1)
    assert terms("dockers the praised brave ferry the.") == (0, 1, 1)
    assert terms("the brave dockers praised the ferry, the brave dockers praised the ferry.") == (0, 1, 1)
    assert terms("the brave dockers praised the ferry, and harris said the new pier was gentle.") == (1, 1, 1)
    assert terms("monday, the.") == (0, 0, 0)
    assert terms("") == (0, 0, 0)


def test_rule_terms_do_not_know_the_group(language: Language) -> None:
    text = "the brave dockers praised the barn, and"
    query = language.group_prompts(1)[0]
    rules = [language.rule_terms(dataclasses.replace(query, group=group), text) for group in ("north", "south", None)]
    assert rules[0] == rules[1] == rules[2]
    assert language.rule_terms(query, "the dock") == {"well_formed": 0, "on_topic": 0, "finished": 0, "length": 2 / 7}
    assert language.rule_terms(query, "the " * 34 + ".")["length"] == pytest.approx(17 / 35)
    assert language.rule_terms(query, str(query.reference)) == dict.fromkeys(rules[0], 1.0)


def test_draws_are_functions_of_seed_group_and_position(language: Language) -> None:
    first = language.draw({"north": 30, "south": 20}, seed=7, prefix="r003")
    assert [query.query_id for query in first] == [f"r003-q{i:05d}" for i in range(50)]
    assert [query.group for query in first] == ["north"] * 30 + ["south"] * 20
    assert first == language.draw({"south": 20, "north": 30}, seed=7, prefix="r003")
    more = language.draw({"north": 10, "south": 60}, seed=7, prefix="r003")
    assert [query.prompt for query in more if query.group == "south"][:20] == [query.prompt for query in first[30:]]
    other = language.draw({"north": 30, "south": 20}, seed=8, prefix="r003")
    assert len({query.prompt for query in first} & {query.prompt for query in other}) <= 2
    assert language.real_examples(10, seed=1) == language.real_examples(99, seed=1)[:10]
    assert language.real_examples(10, seed=1) != language.real_examples(10, seed=2)
    assert language.neutral_prompts(5) == language.neutral_prompts(50)[:5]


def test_everything_is_the_same_in_another_process(language: Language) -> None:
    code = (
        "import hashlib; from scpl_ray.tasks.language.task import Language;"
        "t = Language(('north', 'south'), 0.8);"
        "x = (t.draw({'north': 9, 'south': 9}, seed=4, prefix='r'), t.group_prompts(9), t.neutral_prompts(9),"
        " t.real_examples(9, seed=4), t.choices(['north'] * 9, seed=4), t.fingerprint, t.vocabulary);"
        "print(repr(x))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert language.fingerprint in outputs[0]


def test_the_fingerprint_tells_languages_apart(language: Language) -> None:
    others = [Language(("north", "south"), 0.7), Language(NAMES[:3], 0.8), language]
    assert len({other.fingerprint for other in others}) == 3
    assert Language(("north", "south"), 0.8).fingerprint == language.fingerprint


def test_no_training_draw_is_an_evaluation_prompt(any_language: Language) -> None:
    names = any_language.kinds
    evaluation = [*any_language.group_prompts(500), *any_language.neutral_prompts(500)]
    evaluation += [query for query, _ in any_language.held_out_examples(500)]
    training = [
        query.prompt for query in any_language.draw(dict.fromkeys(names, 1000), seed=EVALUATION_SEED, prefix="r")
    ]
    training += [query.prompt for query, _ in any_language.real_examples(3000, seed=EVALUATION_SEED)]
    training += [choice.prompt for choice in any_language.choices([names[0]] * 1000, seed=EVALUATION_SEED)]
    assert all(any_language.is_held_out(query.prompt) for query in evaluation)
    assert not any(any_language.is_held_out(prompt) for prompt in training)
    assert {query.prompt for query in evaluation}.isdisjoint(training)
    held_out_words = {word for query in evaluation for word in words_of(query.prompt)}
    assert held_out_words <= {word for prompt in training for word in words_of(prompt)}


def test_group_prompts_are_equal_in_number(any_language: Language) -> None:
    queries = any_language.group_prompts(40)
    assert all(sum(query.group == kind for query in queries) == 40 for kind in any_language.kinds)
    assert len({query.query_id for query in queries}) == len(queries)


def test_users_choose_their_own_kind_so_the_majority_pulls(language: Language) -> None:
    users = ["north"] * 4000 + ["south"] * 1000
    choices = language.choices(users, seed=6)
    wins = []
    for choice in choices:
        chosen, rejected = (
            language.judge([(Query("q", None, choice.prompt), "c", text)])[0]
            for text in (choice.chosen, choice.rejected)
        )
        if chosen.terms == rejected.terms and {chosen.kind, rejected.kind} == {"north", "south"}:
            wins.append(chosen.kind == "north")
    sigmoid = 1 / (1 + math.exp(-2))
    expected = 0.8 * sigmoid + 0.2 * (1 - sigmoid)
    assert len(wins) > 500
    assert np.mean(wins) == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / len(wins)))


def test_users_prefer_sound_text(language: Language) -> None:
    choices = language.choices(["south"] * 3000, seed=1)
    chosen = [language.judge([(Query("q", None, choice.prompt), "c", choice.chosen)])[0] for choice in choices]
    rejected = [language.judge([(Query("q", None, choice.prompt), "c", choice.rejected)])[0] for choice in choices]
    for term in ("well_formed", "on_topic"):
        assert np.mean([c.terms[term] for c in chosen]) > np.mean([r.terms[term] for r in rejected]) + 0.05


def test_pairs_and_prompts_do_not_depend_on_the_users(language: Language) -> None:
    north = language.choices(["north"] * 400, seed=6)
    south = language.choices(["south"] * 500, seed=6)
    assert [choice.prompt for choice in north] == [choice.prompt for choice in south[:400]]
    assert all({a.chosen, a.rejected} == {b.chosen, b.rejected} for a, b in zip(north, south, strict=False))
    assert [choice.chosen for choice in north] != [choice.chosen for choice in south[:400]]


def test_size_of_the_language(language: Language) -> None:
    assert 800 <= len(language.vocabulary) <= 1200
    examples = language.real_examples(60_000, seed=0)
    lengths = [len(words_of(text)) for _, text in examples]
    assert (min(lengths), max(lengths)) == (7, 17)
    used = {word for query, text in examples for word in words_of(f"{query.prompt} {text}")}
    assert used == set(language.vocabulary)


def test_bad_input_is_refused_by_name(language: Language) -> None:
    with pytest.raises(ValueError, match=r"groups\.names: 1 groups; the built-in language takes 2 to 12"):
        Language(("north",), 0.8)
    with pytest.raises(ValueError, match=r"groups\.names: 13 groups"):
        Language((*NAMES, "more"), 0.8)
    with pytest.raises(ValueError, match=re.escape(f"extend {POOLS}")):
        Language(("north",), 0.8)
    assert POOLS.is_file()
    with pytest.raises(ValueError, match=r"unknown groups \['east'\]; the groups are \['north', 'south'\]"):
        language.draw({"east": 3}, seed=0, prefix="r")
    with pytest.raises(ValueError, match=r"unknown groups \['east'\]"):
        language.choices(["north", "east"], seed=0)
    for prompt in (
        "",
        "on monday aldbury readers asked about the moon:",
        "on monday aldbury readers asked about the farm",
    ):
        with pytest.raises(ValueError, match="no prompt of the built-in language"):
            language.log_probability(prompt, "x")
    with pytest.raises(ValueError, match=r"\['and'\] stand in more than one place"):
        Lexicon(("x", "y"), ("p",), {"JOINER": (("and", "and"),)})
    with pytest.raises(ValueError, match="the variants of THING must be equally long"):
        Lexicon(("x", "y"), ("p", "q"), {"THING": (("s0", "s1"), ("t0",))})


def test_the_registry_builds_it_from_a_config() -> None:
    config = Experiment.model_validate({"groups": {"names": NAMES[:3], "shares": (0.5, 0.25, 0.25)}})
    task = TASKS[config.task.name].build(config)
    assert task.kinds == NAMES[:3]
    assert len(task.group_prompts(2)) == 6
