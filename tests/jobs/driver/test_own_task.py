"""A task of the user's own: every part of it is tried before a run, and what goes wrong later is told with its name."""

import dataclasses
import pickle
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from jobs.driver import experiments
from scpl_ray.config import Experiment
from scpl_ray.protocols import ReadsTogether
from scpl_ray.records import Query
from scpl_ray.tasks import TASKS, own, trial
from scpl_ray.tasks.language.task import Language
from tests.support import own_code
from tests.support.fakes import FakeTask
from tests.support.own_code import scpl


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path / "mine"
    own_code.forget("pets", "more")


def test_an_own_task_is_tried_part_by_part(here: Path) -> None:
    scpl("init", "--task", "pets.py")
    text = (here / "pets.py").read_text()
    assert "task.name=pets.py:build" in text and "FILE" not in text
    assert "code of yours that will run: task.name = pets:build" in scpl("run", "--dry-run", "task.name=pets:build")
    for old, new, said in (
        ("def choices", "def choses", "without choices"),
        (
            "return [Query(f",
            "return 2 * [Query(f",
            "neutral_prompts(1000) gave 2000 of no group; expected 1000 of no group",
        ),
        ("/ 3\n", "* 3\n", "judge gave quality = 9.0; quality and terms lie in [0, 1]"),
        ("return Pets(experiment.groups.names)", 'raise KeyError("x")', "failed: KeyError: 'x'"),
        ("return named[0] if", "return 'fish' if", "judge said kind = 'fish'"),
        ("quality, terms))", "quality, terms, (1.0,)))", "judge gave log_odds = (1.0,); a tuple of one finite number"),
        (
            "judged.append(Judgement(completion_id,",
            "judged.append((completion_id,",
            "judge of 'pets.py:build' gave a tuple",
        ),
        (
            "judged.append(Judgement(completion_id,",
            "judged.append(Judgement('x',",
            "gave other completion ids than it was",
        ),
        (
            "quality, terms))",
            "quality, terms if text else {}))",
            "judge of 'pets.py:build' gave some answers to queries of north finished, own_kind, pet among their terms",
        ),
    ):
        assert old in text
        (here / "pets.py").write_text(text.replace(old, new, 1))
        experiment = experiments.load(None, ["task.name=pets.py:build"])
        with pytest.raises(ValueError, match=r"task.name: ") as error:
            TASKS["pets.py:build"].build(experiment)
        assert said in str(error.value)
    assert "exists; give another name" in scpl("init", "--task", "pets.py", code=2)
    assert "not the name of a module" in scpl("init", "--task", "my-pets.py", code=2)
    assert "leave config.yaml out" in scpl("init", "config.yaml", "--task", "p.py", code=2)


def test_the_evaluation_sets_of_an_own_task_are_tried_in_the_numbers_that_are_asked(here: Path) -> None:
    scpl("init", "--task", "pets.py")
    text = (here / "pets.py").read_text()
    for old, new, said in (
        (
            "{g: per_group}",
            "{g: min(per_group, 7)}",
            "gave 7 of north, 7 of south; expected 90 of north",
        ),
        ("in range(count)]", "in range(min(count, 50))]", "neutral_prompts(1000) gave 50 of no group; expected 1000"),
        ("in range(count)]", "in (0, *range(1, count - 1), 0)]", "neutral_prompts(1000) gave one query_id twice"),
        ('f"eval-neutral-q{i:05d}"', 'f"eval-north-q{i:05d}"', "both gave the query_id 'eval-north-q00000'"),
    ):
        (here / "pets.py").write_text(text.replace(old, new))
        asked = ("task.name=pets.py:build", "evaluation.prompts_per_group=90")
        assert said in scpl("run", "--dry-run", *asked, code=2), new


RATES = ((0.9, 0.1), (0.2, 0.8))
EVEN = (0.8, 0.1, 0.1)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Of a card, what the errors of a judge are counted on."""

    counts: object

    def confusion_counts(self) -> object:
        return self.counts


def faults(confusion: object, counts: object = None) -> list[str]:
    """What is said of a task with these errors of its judge."""
    experiment = Experiment()
    task = own.own(Language(experiment.groups.names, experiment.task.marker_strength), "pets.py:build")
    task.confusion = confusion
    task.judge_card = None if counts is None else Counts(counts)
    return list(trial._faults(task, experiment))


@pytest.mark.parametrize(
    ("confusion", "counts", "said"),
    [
        (((0.9, 0.2), (0.1, 0.8)), None, "sums to 1.1; shares sum to 1; confusion is P(judged j | true i)"),
        (((0.91, 0.1), (0.2, 0.8)), None, "sums to 1.01"),
        (((0.89, 0.1), (0.2, 0.8)), None, "sums to 0.99"),
        (((90, 10), (20, 80)), None, "of counts, divide each by the sum of its row"),
        (((1.1, -0.1), (0.2, 0.8)), None, "negative or not finite"),
        (((0.9, 0.1),), None, "shape (1, 2) for 2 kinds"),
        ((0.9, 0.1), None, "shape (2,) for 2 kinds"),
        ((EVEN, EVEN[::-1], EVEN), None, "shape (3, 3) for 2 kinds"),
        (((0.5, 0.5), (0.5, 0.5)), None, "is singular"),
        (((0.9, None), (0.2, 0.8)), None, "confusion is P(judged j | true i)"),
        ("a table", None, "confusion is P(judged j | true i)"),
        (RATES, ((9, 1), (0, 0)), "judge_card.confusion_counts(): counts: true kinds [1] have no held-out texts"),
        (RATES, ((9, 1, 0), (2, 8, 0), (0, 0, 9)), "judge_card.confusion_counts(): confusion: shape (3, 3)"),
    ],
)
def test_the_errors_of_an_own_judge_are_rates_of_every_kind(confusion: object, counts: object, said: str) -> None:
    (found,) = faults(confusion, counts)
    assert said in found


def test_errors_in_the_documented_form_are_taken() -> None:
    for confusion in (RATES, np.eye(2), None):
        assert faults(confusion) == faults(confusion, ((90, 10), (20, 80))) == []


class Repeating(FakeTask):
    """A task whose data are too few: it repeats them by a rule of its own."""

    def __init__(self, id_of: str) -> None:
        super().__init__(("north", "south"))
        self.id_of = id_of

    def _queries(self, counts: Mapping[str, int], prefix: str) -> list[Query]:
        found = super()._queries(counts, prefix)
        return [dataclasses.replace(q, query_id=self.id_of.format(prefix=prefix, i=i)) for i, q in enumerate(found)]


def test_what_is_repeated_has_new_ids_that_begin_with_the_prefix() -> None:
    counts = {"north": 2, "south": 2}
    for id_of, said in (
        (
            "{prefix}-q",
            "draw of 'pets.py:build' gave 1 query ids more than once, first 'r001-q'; every query has an id",
        ),
        ("q{i}", r"draw of 'pets.py:build' gave the query id 'q0' for prefix='r001'; begin every id with the prefix"),
    ):
        with pytest.raises(ValueError, match=said):
            own.own(Repeating(id_of), "pets.py:build").draw(counts, seed=1, prefix="r001")
    with pytest.raises(ValueError, match=r"real_examples of .* gave 1 query ids more .* under new query ids"):
        own.own(Repeating("{prefix}-q"), "pets.py:build").real_examples(3, seed=1)
    good = own.own(Repeating("{prefix}-q{i}"), "pets.py:build")
    assert len(good.draw(counts, seed=1, prefix="r001")) == 4 and len(good.real_examples(3, seed=1)) == 3


def test_a_method_that_gives_another_number_is_told_what_to_do() -> None:
    task = own.own(FakeTask(("north", "south")), "pets.py:build")
    task.task.draw = lambda *_, **__: []
    task.task.choices = lambda *_, **__: []
    with pytest.raises(ValueError, match=r"draw .* gave none; expected 2 of north; .* repeat .*, under new query ids$"):
        task.draw({"north": 2}, seed=1, prefix="r001")
    with pytest.raises(ValueError, match=r"choices .* gave 0 choices; expected 1, one per user; .* what there is$"):
        task.choices(["north"], seed=1)


def test_what_a_method_of_an_own_task_raises_is_told_with_its_name_wherever_it_is_called(here: Path) -> None:
    scpl("init", "--task", "pets.py")
    text = (here / "pets.py").read_text()
    experiment = experiments.load(None, ["task.name=pets.py:build"])
    late = text.replace("        judged = []\n", "        judged = []\n        {}[len(work) < 30]\n").replace(
        "{}[", "{True: 1}["
    )
    (here / "pets.py").write_text(late)
    task = pickle.loads(pickle.dumps(TASKS["pets.py:build"].build(experiment)))
    query = Query("q", "north", "A line about a cat:")
    with pytest.raises(
        ValueError, match=r"task.name: judge of 'pets.py:build' failed: KeyError: False \(.*pets.py:\d+\)"
    ):
        task.judge([(query, str(i), "") for i in range(30)])
    assert not isinstance(task, ReadsTogether)
    together = (
        "    def rule_terms_of(self, texts):\n        {}[1] if len(texts) == 1 else None\n"
        "        return [self.rule_terms(*one) for one in texts]\n\n    def rule_terms("
    )
    (here / "pets.py").write_text(text.replace("    def rule_terms(", together))
    task = TASKS["pets.py:build"].build(experiment)
    assert isinstance(task, ReadsTogether)
    with pytest.raises(ValueError, match=r"task.name: rule_terms_of of 'pets.py:build' failed: KeyError: 1"):
        task.rule_terms_of([(query, "")])
    (here / "pets.py").write_text(
        text.replace(
            "        return [q for g in self.kinds", "        return {1: 2}[per_group] or [q for g in self.kinds"
        )
    )
    assert "group_prompts of 'pets.py:build' failed: KeyError: " in scpl(
        "run", "--dry-run", "task.name=pets.py:build", code=2
    )


def test_a_judge_whose_terms_differ_between_the_answers_of_a_group_is_told_wherever_it_is_called(here: Path) -> None:
    scpl("init", "--task", "pets.py")
    text = (here / "pets.py").read_text()
    late = "            quality = (terms"
    (here / "pets.py").write_text(
        text.replace(late, f'            terms |= {{"short": 1.0}} if text == "Meow." else {{}}\n{late}')
    )
    built = TASKS["pets.py:build"].build(experiments.load(None, ["task.name=pets.py:build"]))
    task = pickle.loads(pickle.dumps(built))  # as another process has it, which sees such answers only
    with pytest.raises(
        ValueError, match=r"judge of 'pets.py:build' gave some .* of north short among their terms, and o"
    ):
        task.judge([(Query("q", "north", "A line about a cat:"), "c", "Meow.")])
    assert "short" in task.judge([(Query("q", None, "A line about a pet:"), "c", "Meow.")])[0].terms


def test_the_template_of_a_task_steers_by_prompts_of_every_group(here: Path) -> None:
    scpl("init", "--task", "pets.py")
    asked = ("run", "--dry-run", "task.name=pets.py:build", "evaluation.prompts_per_group=90")
    steered = (*asked, "selection.strategy=reweight")
    assert "and 100 of others that steer selection" in " ".join(scpl(*steered).split())
    across = "return self.draw(dict.fromkeys(self.kinds, per_group), seed=0, prefix='eval')\n        return [q for g in"
    (here / "pets.py").write_text((here / "pets.py").read_text().replace("return [q for g in", across, 1))
    said = scpl(*steered, code=2)
    assert "group_prompts(140) of task.name = " in said and "not begin as group_prompts(90) for 'south'" in said
    scpl(*asked)


def test_text_of_no_kind_is_of_nobodys_own_kind_in_the_template_of_a_task(here: Path) -> None:
    scpl("init", "--task", "pets.py")
    task = TASKS["pets.py:build"].build(experiments.load(None, ["task.name=pets.py:build"]))
    neutral, (north, *_) = task.neutral_prompts(1)[0], task.group_prompts(1)
    work = [(neutral, "a", ""), (neutral, "b", " The cat runs."), (north, "c", " The cat runs."), (north, "d", "")]
    assert [one.terms["own_kind"] for one in task.judge(work)] == [0.0, 0.0, 1.0, 0.0]


def test_a_task_that_cannot_be_sent_to_other_processes_is_told_with_its_attribute(here: Path) -> None:
    scpl("init", "--task", "pets.py")
    text = (here / "pets.py").read_text()
    lock = text.replace(
        "        self.animals =",
        "        import threading\n        self.lock = threading.Lock()\n        self.animals =",
    )
    (here / "pets.py").write_text(lock)
    said = scpl("run", "--dry-run", "task.name=pets.py:build", code=2)
    assert "sending the task of 'pets.py:build' to other processes failed: TypeError: cannot pickle" in said
    assert "its attribute lock cannot be sent" in said


def test_a_task_may_be_one_of_this_project_with_changes(here: Path) -> None:
    (here / "more.py").write_text(
        "from scpl_ray.tasks.language.task import Language\n"
        "def build(experiment):\n    return Language(experiment.groups.names, experiment.task.marker_strength)\n"
    )
    task = TASKS["more.py:build"].build(experiments.load(None, ["task.name=more.py:build"]))
    assert type(own.as_written(task)) is Language and own.as_written(None) is None


def test_a_task_without_choices_is_used_where_nothing_learns_from_them(here: Path) -> None:
    scpl("init", "--task", "pets.py")
    text = (here / "pets.py").read_text()
    begin, end = text.index('        chance = generator(seed, "choices")'), text.index("    def rule_terms")
    (here / "pets.py").write_text(f"{text[:begin]}        raise NotImplementedError('no choices')\n\n{text[end:]}")
    for keys in (["reward.terms={pet: 1.0}"], ["reward.terms={pet: 1.0, model: 0.0}"], ["reward.model=somewhere"]):
        assert TASKS["pets.py:build"].build(experiments.load(None, ["task.name=pets.py:build", *keys])).kinds
    with pytest.raises(ValueError, match=r"task.name: .* failed: NotImplementedError: no choices"):
        TASKS["pets.py:build"].build(experiments.load(None, ["task.name=pets.py:build"]))
