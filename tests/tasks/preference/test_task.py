"""The preference task on made-up data of both shapes: prompts, choices, judgements."""

import copy
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from scpl_ray.config import Experiment
from scpl_ray.models.template import Template
from scpl_ray.protocols import Task
from scpl_ray.records import Query
from scpl_ray.tasks import TASKS
from scpl_ray.tasks.preference import judge, questions
from scpl_ray.tasks.preference import task as preference
from scpl_ray.tasks.preference.judge import PreferenceJudge
from scpl_ray.tasks.preference.task import Preference
from scpl_ray.tasks.rows import DataError
from scpl_ray.tasks.texts import ModelSide
from tests.support import preference_data as made
from tests.support.preference_data import GROUPS
from tests.support.tiny_models import save_model

CHAT = Template("<|u|>", "<|a|>", "<|again|>", "<|u2|>")


@pytest.fixture(scope="module", autouse=True)
def quick(cached: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # untrained bases have nothing in their layers that is worth keeping
        patch.setattr(judge, "FROZEN_LAYERS", 0)
        patch.setattr(judge, "STEPS", 60)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "m", "llama", hidden=64)


def experiment_on(source: Path, model: Path, groups: tuple[str, ...], **task: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "groups": {"names": list(groups), "shares": [1 / len(groups)] * len(groups)},
            "task": {"name": "preference", "data": str(source), "judge_model": str(model), **task},
            "model": {"name": str(model)},
            "generation": {"max_new_tokens": 16},
            "reward": {"terms": {"own_preference": 1.0}},
            "evaluation": {"prompts_per_group": 4, "neutral_prompts": 4},
        }
    )


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Experiment:
    return experiment_on(made.write_jsonl(tmp_path_factory.mktemp("d") / "r.jsonl", made.responses()), model, GROUPS)


@pytest.fixture(scope="module")
def of_pairs(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Experiment:
    return experiment_on(made.write_jsonl(tmp_path_factory.mktemp("d") / "p.jsonl", made.pairs()), model, GROUPS[:2])


@pytest.fixture(scope="module")
def task(experiment: Experiment) -> Preference:
    return preference.build(experiment)


@pytest.fixture(scope="module")
def pair_task(of_pairs: Experiment) -> Preference:
    return preference.build(of_pairs)


def asked_in(prompt: str) -> str:
    return prompt.removeprefix("Human: ").removesuffix("\n\nAssistant:")


def test_it_is_registered_and_is_a_task(experiment: Experiment) -> None:
    built: Task = TASKS["preference"].build(experiment)
    assert built.kinds == GROUPS and built.judge_card is not None


def test_a_user_asks_and_would_like_the_own_answer(task: Preference) -> None:
    rows = {row["query"]: row for row in made.responses()}
    for query in [*task.group_prompts(4), *task.draw(dict.fromkeys(GROUPS, 5), seed=1, prefix="r001")]:
        assert query.reference == rows[asked_in(query.prompt)][str(query.group)]
    for query in task.neutral_prompts(4):
        assert query.group is None and query.reference == rows[asked_in(query.prompt)]["normal"]


def test_training_evaluation_judge_and_neutral_prompts_are_disjoint(
    task: Preference, experiment: Experiment, pair_task: Preference, of_pairs: Experiment
) -> None:
    for one, of, groups in ((task, experiment, GROUPS), (pair_task, of_pairs, GROUPS[:2])):
        judged = {q.transcript() for q in questions.load(of).parts["judge"]}
        train = {q.prompt for q in one.draw(dict.fromkeys(groups, 40), seed=0, prefix="x")}
        train |= {q.prompt for q, _ in one.real_examples(40, seed=1)}
        train |= {c.prompt for c in one.choices(groups * 20, seed=2)}
        asked, neutral = ({q.prompt for q in qs} for qs in (one.group_prompts(4), one.neutral_prompts(4)))
        sets = [judged, train, asked, neutral]
        assert all(sets) and sum(map(len, sets)) == len(set.union(*sets))


def test_groups_ask_the_same_questions_where_all_ask_all(task: Preference, pair_task: Preference) -> None:
    assert set(Counter(q.prompt for q in task.group_prompts(4)).values()) == {3}
    assert set(Counter(q.prompt for q in pair_task.group_prompts(4)).values()) == {1}


def test_where_no_question_is_neutral_no_number_is_advised(pair_task: Preference) -> None:
    bare = copy.copy(pair_task)
    bare._neutral = []
    with pytest.raises(ValueError, match="neutral_prompts = 1: no held-out question is left for them; give more rows"):
        bare.neutral_prompts(1)


def test_neutral_prompts_of_pairs_come_from_all_groups_in_turn(pair_task: Preference) -> None:
    neutral = pair_task.neutral_prompts(4)
    assert [q.prompt.split()[1] for q in neutral] == ["academy", "business"] * 2
    assert {(q.group, q.reference) for q in neutral} == {(None, None)}


def test_draws_are_seeded_and_without_replacement_as_far_as_possible(task: Preference) -> None:
    queries = task.draw({"academy": 45, "stage": 3}, seed=7, prefix="r002")
    assert queries == task.draw({"academy": 45, "stage": 3}, seed=7, prefix="r002")
    assert queries != task.draw({"academy": 45, "stage": 3}, seed=8, prefix="r002")
    assert [q.query_id for q in queries] == [f"r002-q{i:05d}" for i in range(48)]
    # 20 training questions: every one twice before any comes a third time
    assert sorted(Counter(q.prompt for q in queries[:45]).values()) == [2] * 15 + [3] * 5
    fewer = task.draw({"academy": 1, "stage": 3}, seed=7, prefix="r002")
    assert [q.prompt for q in fewer[1:]] == [q.prompt for q in queries[45:]]
    with pytest.raises(ValueError, match="counts: unknown groups"):
        task.draw({"centre": 1}, seed=0, prefix="x")


def test_too_many_evaluation_prompts_are_refused(task: Preference, experiment: Experiment) -> None:
    assert (
        task.group_prompts(4)[:2] == task.group_prompts(2)[:2]
        and task.neutral_prompts(2) == task.neutral_prompts(4)[:2]
    )
    with pytest.raises(ValueError, match=r"evaluation\.prompts_per_group = 5: half of .* makes 4 for academy, 4 for b"):
        task.group_prompts(5)
    with pytest.raises(ValueError, match=r"evaluation\.neutral_prompts = 5: half of the held-out questions makes 4"):
        task.neutral_prompts(5)
    many = experiment.model_copy(
        update={"evaluation": experiment.evaluation.model_copy(update={"neutral_prompts": 99})}
    )
    with pytest.raises(ValueError, match="neutral_prompts = 99"):
        preference.build(many)


def test_real_examples_are_what_each_group_prefers_in_turn(task: Preference) -> None:
    examples = task.real_examples(7, seed=3)
    assert task.real_examples(5, seed=3) == examples[:5]
    assert [q.group for q, _ in examples] == [GROUPS[i % 3] for i in range(7)]
    assert all(answer == f" {query.reference}" for query, answer in examples)


def test_a_user_chooses_the_own_groups_answer(task: Preference) -> None:
    rows = {row["query"]: row for row in made.responses()}
    users = list(GROUPS) * 100
    choices = task.choices(users, seed=1)
    assert choices == task.choices(users, seed=1) != task.choices(users, seed=2)
    assert choices[:10] == task.choices(users[:10], seed=1)
    rejected = Counter()
    for user, choice in zip(users, choices, strict=True):
        row = rows[asked_in(choice.prompt)]
        assert choice.group == user and choice.chosen == f" {row[user]}"
        (other,) = (name for name in (*GROUPS, "normal") if choice.rejected == f" {row[name]}")
        rejected[user, other] += 1
    # each of the three other answers equally often: 33 of 100, sd 4.7
    assert len(rejected) == 9 and min(rejected.values()) > 15 and max(rejected.values()) < 55
    assert len({choice.prompt for choice in choices}) == 20
    with pytest.raises(ValueError, match="users: unknown groups"):
        task.choices(["nobody"], seed=0)


def test_pairs_are_chosen_as_the_data_say(pair_task: Preference) -> None:
    found = {(row["chosen"], row["rejected"]) for row in made.pairs()}
    for choice in pair_task.choices(list(GROUPS[:2]) * 20, seed=1):
        assert (f"\n\n{choice.prompt}{choice.chosen}", f"\n\n{choice.prompt}{choice.rejected}") in found


@pytest.mark.parametrize("which", ["task", "pair_task"])
def test_the_judge_tells_whose_preference_an_answer_is(which: str, request: pytest.FixtureRequest) -> None:
    one: Preference = request.getfixturevalue(which)
    queries = one.group_prompts(4)
    own = one.judge([(q, "c", f" {q.reference}") for q in queries])
    assert sum(j.kind == q.group for q, j in zip(queries, own, strict=True)) > 0.8 * len(queries)
    # an answer that is the reference wins half of the time
    assert [j.quality for j in own] == [j.terms["win_rate"] for j in own] == [0.5] * len(queries)
    other = {group: one.kinds[k - 1] for k, group in enumerate(one.kinds)}
    said = [" ".join(f"w{i}" for i in made.LIKED[other[str(q.group)]]) for q in queries]
    swapped = one.judge([(q, "c", text) for q, text in zip(queries, said, strict=True)])
    assert np.mean([j.quality for j in swapped]) < 0.4
    assert sum(j.kind == other[str(q.group)] for q, j in zip(queries, swapped, strict=True)) > 0.8 * len(queries)
    for judgement in (*own, *swapped):
        assert set(judgement.terms) == {"repetition_free", "length", "reward", "win_rate"}
        assert all(0.0 <= value <= 1.0 for value in judgement.terms.values())


def test_win_rate_and_reward_are_logistic_in_the_judges_rewards(task: Preference) -> None:
    query = task.group_prompts(4)[-1]
    assert query.group == "stage"
    (found,) = task.judge([(query, "c", " w30 w81 w40 w41 w42 w43")])
    answer, reference = task._judge.rewards(
        [(query.prompt, "w30 w81 w40 w41 w42 w43"), (query.prompt, query.reference)]
    )
    assert found.terms["reward"] == pytest.approx(expit(answer[2]))
    assert found.terms["win_rate"] == pytest.approx(expit(task._judge.nats()[2] * (answer[2] - reference[2])))
    assert found.kind == GROUPS[int(answer.argmax())] and found.terms["length"] == 1.0


def test_no_answer_is_of_no_kind_and_worth_nothing(task: Preference) -> None:
    query, neutral = task.group_prompts(1)[0], task.neutral_prompts(1)[0]
    for empty in ("", " ?!"):
        (found,) = task.judge([(query, "c", empty)])
        assert found.kind is None and found.quality == 0.0 and set(found.terms.values()) == {0.0}
    (found,) = task.judge([(neutral, "c", "w20 w21")])
    assert set(found.terms) == {"repetition_free", "length"} and found.quality == pytest.approx(2 / 3)
    assert task.judge([]) == []


def test_no_text_sways_another(task: Preference) -> None:
    work = [(q, f"c{i}", f" w{20 + i} w{70 + i} w{30 + i}") for i, q in enumerate(task.group_prompts(4))]
    together = task.judge(work)
    assert [task.judge([one])[0] for one in work] == together
    assert task.judge(work[::-1]) == together[::-1]


def test_rules_read_texts_together_as_one_by_one(task: Preference) -> None:
    queries = [*task.group_prompts(3), *task.neutral_prompts(2)]
    texts = [(query, f" w{20 + i} w{70 + i} w{30 + i}"[: 99 * (i != 4)]) for i, query in enumerate(queries)]
    assert len({query.group for query, _ in texts}) > 2
    assert task.rule_terms_of(texts) == [task.rule_terms(*one) for one in texts]
    assert task.rule_terms_of([]) == []


def test_the_judge_reads_a_reference_once(task: Preference, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, str]] = []
    rewards = PreferenceJudge.rewards
    monkeypatch.setattr(PreferenceJudge, "rewards", lambda self, texts: read.extend(texts) or rewards(self, texts))
    queries = task.group_prompts(3)
    first, second = ([(q, f"c{i}", f" w2{i} w7{k}") for i, q in enumerate(queries)] for k in (1, 2))
    judged = [task.judge(work) for work in (first, second, first)]
    assert judged[0] == judged[2] != judged[1]
    references = [text for _, text in read if text in {q.reference for q in queries}]
    assert len(references) <= len({(q.prompt, q.reference) for q in queries})


def test_rule_terms_add_an_ending_and_the_own_preference(task: Preference, experiment: Experiment) -> None:
    query = task.group_prompts(1)[0]
    assert query.group == "academy"
    terms = task.rule_terms(query, " w70 w71 w72 w73 w74 w20.")
    assert set(terms) == {"repetition_free", "length", "finished", "own_preference"} and terms["finished"] == 1.0
    assert terms["own_preference"] > task.rule_terms(query, " w80 w81 w82 w83 w84 w20")["own_preference"]
    assert "own_preference" not in task.rule_terms(task.neutral_prompts(1)[0], "w20")
    assert set(rebuilt(task, experiment, CHAT).rule_terms(query, "w20")) == {"repetition_free", "length", "finished"}
    with pytest.raises(ValueError, match="is no prompt of this task"):
        task.judge([(Query("q", "academy", "something else", None, None), "c", "w20")])


def rebuilt(one: Preference, experiment: Experiment, template: Template) -> Preference:
    parts = questions.load(experiment).parts
    return Preference(
        one.kinds,
        parts["train"],
        parts["evaluation"],
        judge=one._judge,
        card=one.judge_card,
        side=ModelSide(template, len, None),
        answer_words=12,
        own_preference=False,
    )


def test_the_chat_template_is_applied_once_and_the_judge_does_not_see_it(
    task: Preference, experiment: Experiment, pair_task: Preference, of_pairs: Experiment
) -> None:
    chat = rebuilt(task, experiment, CHAT)
    for plain, asked in zip(task.group_prompts(4), chat.group_prompts(4), strict=True):
        assert asked.prompt == f"<|u|>{asked_in(plain.prompt)}<|a|>"
        assert chat.judge([(asked, "c", " w20 w70")]) == task.judge([(plain, "c", "w20 w70")])
    assert chat.choices(["stage"], seed=1)[0].chosen == task.choices(["stage"], seed=1)[0].chosen[1:]
    assert not chat.real_examples(1, seed=1)[0][1].startswith(" ")
    prompts = [q.prompt for q in rebuilt(pair_task, of_pairs, CHAT).group_prompts(4)]
    assert {prompt.count("<|u|>") + prompt.count("<|a|>") for prompt in prompts} == {2}
    assert {prompt.count("<|again|>") for prompt in prompts} == {prompt.count("<|u2|>") for prompt in prompts} == {0, 1}


def test_a_template_in_the_data_is_refused(tmp_path: Path, experiment: Experiment, task: Preference) -> None:
    rows = made.responses()
    for row in rows:
        row["query"] = f"<|u|>{row['query']}<|a|>"
    source = made.write_jsonl(tmp_path / "r.jsonl", rows)
    settings = experiment.task.model_copy(update={"data": str(source)})
    with pytest.raises(ValueError, match="already carries the chat template"):
        rebuilt(task, experiment.model_copy(update={"task": settings}), CHAT)


def test_the_task_travels_to_actors_whole(task: Preference) -> None:
    again = pickle.loads(pickle.dumps(task))
    query = task.group_prompts(1)[0]
    assert again.judge([(query, "c", "w70 w20")]) == task.judge([(query, "c", "w70 w20")])


def test_prompts_too_long_for_the_model_are_left_out_or_refused(tmp_path: Path, model: Path) -> None:
    rows = made.responses()
    rows[0]["query"] = " ".join(["w20"] * 60)
    source = made.write_jsonl(tmp_path / "r.jsonl", rows)
    report = preference.build(experiment_on(source, model, GROUPS, max_prompt_tokens=40)).data_report
    assert report is not None and report.dropped == {"with a prompt of more than 40 tokens": 1}
    with pytest.raises(DataError, match=r"max_prompt_tokens = 3: fewer than 2 train prompts of academy .* set it to"):
        preference.build(experiment_on(source, model, GROUPS, max_prompt_tokens=3))


def test_the_judge_sees_the_judges_questions_only(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge of other judge data is another judge; other training data leave it as it is."""
    corpus = questions.load(experiment)
    seen: list[Any] = []
    monkeypatch.setattr(judge, "fit", lambda training, held_out, *_: seen.extend((training, held_out)))
    monkeypatch.setattr(judge.cache, "entry", lambda name, key, make, cost=None: make(Path("unused")))
    judge._fitted(corpus, experiment)
    training, held_out = ({choice.prompt for choice in choices} for choices in seen)
    assert training == {question.transcript() for question in corpus.parts["judge"]}
    assert held_out == {q.transcript() for part in ("train", "evaluation") for q in corpus.parts[part]}
