"""Finding an answer in a text, and the form in which references write it."""

import itertools
import random
import time
from collections.abc import Callable

import pytest

from scpl_ray.tasks.maths import answers
from scpl_ray.tasks.maths.reader import read
from scpl_ray.tasks.maths.verifier import Comparison, Verifier

RIGHT, WRONG, UNREADABLE = Comparison(True, True), Comparison(True, False), Comparison(False, False)


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    return Verifier()


CASES = [
    # text, what is extracted, gold, verdict
    # boxes
    (r"So it is \boxed{5}.", "5", "5", RIGHT),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "0.5", RIGHT),
    (r"\boxed{\left\{1, \frac{3}{4}\right\}}", r"\left\{1, \frac{3}{4}\right\}", r"\{0.75, 1\}", RIGHT),
    (r"so \boxed 7 it is", "7", "7", RIGHT),
    (r"\fbox{12}", "12", "12", RIGHT),
    (r"so \boxed{3} it is. Next: \boxed{4}", "3", "3", RIGHT),
    (r"\boxed{\boxed{4}}", r"\boxed{4}", "4", RIGHT),
    (r"\boxed{\text{The answer is }(1, 2)}", r"\text{The answer is }(1, 2)", "(1,2)", RIGHT),
    (r"the answer is $600+60 = \boxed{660}$.", "660", "660", RIGHT),
    (r"\boxed{5} so the answer is unique.", "5", "5", RIGHT),
    (r"The answer is $\boxed{5}$.", "5", "5", RIGHT),
    (r"\boxed{5 but it never ends, 8", "8", "8", RIGHT),
    (r"\boxed{}", None, "5", UNREADABLE),
    # said
    ("The answer is 12.", "12", "12", RIGHT),
    ("the Answer Is: 12", "12", "12", RIGHT),
    ("Answer: 12", "12", "12", RIGHT),
    ("The final answer is **12**.", "12", "12", RIGHT),
    ("The answer to the question is 12.", "12", "12", RIGHT),
    ("The answer is\n12", "12", "12", RIGHT),
    ("The answer is 5. Problem: 2 + 4? The answer is 6.", "5", "5", RIGHT),
    ("answer: 5. answer: 6.", "5", "5", RIGHT),
    ("The answer is therefore 3.", "3", "3", RIGHT),
    ("The answer is not obvious. So the answer is 3.", "3", "3", RIGHT),
    ("The answer is blue.\nProblem: 2 + 4?\nThe answer is 6.", "blue", "blue", RIGHT),
    (r"The answer is 34\text{ sq. units}.", r"34\text{ sq. units}", "34", RIGHT),
    ("The answer is 5, because 2 + 3 = 5.", "5", "5", RIGHT),
    ("#### 72", "72", "72", RIGHT),
    ("2*36=72\n#### 72\n", "72", "72", RIGHT),
    ("2*9=18\n#### 18\n\nQuestion: what is 2*8?\n2*8=16\n#### 16", "18", "18", RIGHT),
    ("The answer is 18.\n\nProblem: solve\n\\boxed{5}", "18", "18", RIGHT),
    ("in the text #### 3 is no mark, 4 is", "4", "4", RIGHT),
    # the last number
    ("They have 3 + 4 = 7 apples", "7", "7", RIGHT),
    ("10-3", "3", "3", RIGHT),
    ("x = -3", "-3", "-3", RIGHT),
    ("It costs $1,250.50 in all", "$1,250.50", "1250.5", RIGHT),
    ("about 20%", "20%", "20", RIGHT),
    ("it is 3/4 of it", "3/4", "0.75", RIGHT),
    ("it is 2 1/2 of it", "2 1/2", "2.5", RIGHT),
    ("no numbers here", None, "5", UNREADABLE),
    ("", None, "5", UNREADABLE),
    # numbers
    ("The answer is 8.0.", "8.0", "8", RIGHT),
    ("The answer is -8.", "-8", "8", WRONG),
    ("The answer is \u22128.", "\u22128", "-8", RIGHT),
    ("The answer is 1,234,567.", "1,234,567", "1234567", RIGHT),
    (r"The answer is 40,\!320.", r"40,\!320", "40320", RIGHT),
    ("The answer is 1000001.", "1000001", "1000000", WRONG),
    ("The answer is 0.9166666667.", "0.9166666667", "11/12", RIGHT),
    ("The answer is 0.92.", "0.92", "11/12", WRONG),
    ("The answer is 2 1/2.", "2 1/2", "5/2", RIGHT),
    ("The answer is 1½.", "1½", "1.5", RIGHT),
    (r"The answer is \dfrac34.", r"\dfrac34", ".75", RIGHT),
    (r"The answer is $-\frac{3}{4}$.", r"$-\frac{3}{4}$", "-0.75", RIGHT),
    ("The answer is 1.5e3.", "1.5e3", "1500", RIGHT),
    (r"The answer is $1.5 \times 10^{3}$.", r"$1.5 \times 10^{3}$", "1500", RIGHT),
    ("The answer is 3e-2.", "3e-2", "0.03", RIGHT),
    ("The answer is 1/0.", "1/0", "5", WRONG),
    # percent
    ("The answer is 50%.", "50%", "50", RIGHT),
    ("The answer is 50%.", "50%", "0.5", RIGHT),
    (r"The answer is 50\%.", r"50\%", "50%", RIGHT),
    ("The answer is 0.5.", "0.5", "50%", RIGHT),
    ("The answer is 0.5%.", "0.5%", "50%", WRONG),
    ("The answer is 50 percent.", "50 percent", "50", RIGHT),
    # currency and units
    ("The answer is $18.", "$18", "18", RIGHT),
    (r"The answer is \$18.", r"\$18", "18", RIGHT),
    ("The answer is €18.", "€18", "18", RIGHT),
    ("The answer is -$18.", "-$18", "-18", RIGHT),
    ("The answer is 9 apples.", "9 apples", "9 (apples)", RIGHT),
    ("The answer is 8 apples.", "8 apples", "9 (apples)", WRONG),
    (r"The answer is 5\text{ cm}^2.", r"5\text{ cm}^2", "5", RIGHT),
    ("The answer is 5 km/h.", "5 km/h", "5", RIGHT),
    ("The answer is 5km.", "5km", "5", RIGHT),
    ("The answer is 12 sq. ft. Next", "12 sq. ft", "12", RIGHT),
    ("The answer is $18 a day.", "$18 a day", "18", RIGHT),
    ("The answer is 3/4 of a pie.", "3/4 of a pie", "3/4", RIGHT),
    ("The answer is 16 GB.", "16 GB", "16", RIGHT),
    ("The answer is 25g.", "25g", "25 (g)", RIGHT),
    ("The answer is 5 m.", "5 m", "5", RIGHT),
    (r"The answer is $45^\circ$.", r"$45^\circ$", "45", RIGHT),
    ("The answer is 45°.", "45°", "45 degrees", RIGHT),
    ("The answer is 2 million.", "2 million", "2000000", RIGHT),
    ("The answer is 2 million.", "2 million", "2", WRONG),
    ("The answer is 2x.", "2x", "2", WRONG),
    ("The answer is 2 x.", "2 x", "2", WRONG),
    ("The answer is 5 or more.", "5 or more", "5", UNREADABLE),
    ("The answer is x = 5.", "x = 5", "5", RIGHT),
    # other mathematics
    (r"The answer is $2\sqrt{3}$.", r"$2\sqrt{3}$", r"\sqrt{12}", RIGHT),
    ("The answer is 2π.", "2π", r"2\pi", RIGHT),
    ("The answer is sqrt(2).", "sqrt(2)", r"\sqrt{2}", RIGHT),
    ("The answer is 1.41.", "1.41", r"\sqrt{2}", WRONG),
    ("The answer is 3*4+2.", "3*4+2", "14", RIGHT),
    ("The answer is (1, 2].", "(1, 2]", "(1,2]", RIGHT),
    ("The answer is [1, 2].", "[1, 2]", "(1,2]", WRONG),
    (r"\boxed{(-\infty, 1) \cup (3, \infty)}", r"(-\infty, 1) \cup (3, \infty)", r"(-\infty,1)\cup(3,\infty)", RIGHT),
    ("The answer is {1, 2}.", "{1, 2}", "1, 2", RIGHT),
    ("The answer is 1 or 2.", "1 or 2", "2,1", RIGHT),
    ("The answer is 3, 1, 2.", "3, 1, 2", "1,2,3", RIGHT),
    ("The answer is 1, 2.", "1, 2", "1,2,3", WRONG),
    ("The answer is x^2+2x+1.", "x^2+2x+1", "(x+1)^2", RIGHT),
    ("The answer is 3+4i.", "3+4i", "4i+3", RIGHT),
    (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
     r"\begin{pmatrix}1\\2\end{pmatrix}", RIGHT),
    (r"\boxed{\frac{1}{", "1", r"\frac{1}{2}", WRONG),
    # words
    ("The answer is Mrs. Hilt.", "Mrs. Hilt", "Mrs. Hilt", RIGHT),
    ("The answer is the purple one.", "the purple one", "Purple one", RIGHT),
    ("The answer is blue.", "blue", "Purple", WRONG),
    ("The answer is 3:30 p.m.", "3:30 p.m", "3:30 p.m.", RIGHT),
    ("The answer is 5/6.", "5/6", "5:6", WRONG),
    ("The answer is D.", "D", r"\text{(D)}", RIGHT),
    ("The answer is A. That is all.", "A", r"\text{(A)}", RIGHT),
    ("The answer is banana.", "banana", "5", UNREADABLE),
    ("The answer is 6th.", "6th", "6th", RIGHT),
    # too much
    ("The answer is " + "9" * 300 + ".", None, "9", UNREADABLE),
    ("x" * 10**6 + " 5", "5", "5", RIGHT),
]  # fmt: skip


@pytest.mark.parametrize(("text", "extracted", "gold", "verdict"), CASES)
def test_answers(text: str, extracted: str | None, gold: str, verdict: Comparison, verifier: Verifier) -> None:
    assert answers.extract(text) == extracted
    assert verifier.compare(answers.canonical(gold), extracted) == verdict


RUNNING_ON = [
    ("#### 18\nQuestion: how many?\n#### 20", "18", "20"),
    (r"\boxed{3} and then \boxed{4}", "3", "4"),
    ("The answer is 5.\n\nProblem: 1 + 1\nSolution: The answer is 2.", "5", "2"),
    (r"Answer: 7" + "\n\n" + r"Next one. \boxed{8}", "7", "8"),
    ("The answer is blue.\nThe answer is red.", "blue", "red"),
    ("no mark, 3 and then 4", "4", "4"),
    ("I think the answer is blue because it is so. Perhaps the answer is red because of that.", "red", "red"),
]


@pytest.mark.parametrize(("text", "first", "last"), RUNNING_ON)
def test_the_first_or_the_last_marked_answer_counts(text: str, first: str, last: str) -> None:
    assert (answers.extract(text), answers.extract(text, "first"), answers.extract(text, "last")) == (
        first,
        first,
        last,
    )


WORKING = [
    ("To find the answer, we note that the first number is 5. Then 5+7=12. The answer is 12.", "12"),
    ("To get the answer, we need to know how much each apple costs, which is 3 dollars. The answer is 12.", "12"),
    ("To find the answer we need to see what 3 + 4 is: 7. The answer is 12.", "12"),
    ("The answer follows if we note that x is 5. The answer is 12.", "12"),
    ("#### Step 1: Find x\n2x = 54\nThe answer is 27.", "27"),
    ("#### Step 1: Find x\n2x = 54\n\\boxed{27}", "27"),
    ("#### Step 1: Find x\n2x = 54\n#### 27\nQuestion: how many?\n#### 20", "27"),
    ("#### Step 1: Find x\nx = 10 + 2 = 12", "12"),
    ("#### Step 1: Find x\nWe get 10.\n#### Step 2: Add\nSo there are 12 apples.", "12"),
    ("#### Step 1\nx is 10\n#### Step 2\nx + 2 = 12", "12"),
    ("#### 1. Find x\n12", "12"),
    ("#### 2) Find x\n12", "12"),
    ("#### Now find x:\nx = 12", "12"),
    ("x = 10\n#### Step 2: 10 + 2 = 12", "12"),
    ("#### **Part (a):** find x\nx = 12", "12"),
    ("The answer is the sum of both numbers.\n5 + 7 = 12", "12"),
    ("We note that the answer is the sum of both numbers.\n5 + 7 = 12", "12"),
    ("The answer is the total number of apples. There are 12.", "12"),
    ("So the answer is the difference between them: we get\n20 - 8 = 12", "12"),
]


@pytest.mark.parametrize(("text", "answer"), WORKING)
def test_a_step_of_the_working_is_no_answer(text: str, answer: str) -> None:
    assert answers.extract(text) == answer


@pytest.mark.parametrize(("text", "answer"), [case for case in WORKING if "Question" not in case[0]])
def test_a_step_of_the_working_is_no_answer_where_the_last_one_counts(text: str, answer: str) -> None:
    assert answers.extract(text, "last") == answer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#### Finding the total\nx = 10 + 2 = 12", "Finding the total"),
        ("She says no answer is known here.\nSo there are 12 apples.", "known here"),
        ("The question asks what the answer is about.\n12 apples are left.", "about"),
    ],
)
def test_words_that_only_mention_the_answer_are_none_to_a_gold_answer_in_numbers(text: str, words: str) -> None:
    for which in ("first", "last"):
        assert answers.extract(text, which) == words
        for gold in ("12", r"\frac{1}{2}", "x+1"):
            assert answers.extract(text, which, gold=gold) == "12", gold
        for gold in ("the purple one", "B", "(b)", "yes", "No", "True"):
            assert answers.extract(text, which, gold=gold) == words, gold


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is blue.\nProblem: 2 + 4?\nThe answer is 6.", "blue"),
        ("#### banana", "banana"),
        ("So the answer is 5 or more, because 7 > 5", "5 or more"),
        ("I think the answer is (B) not enough because 5 is less", "(B) not enough"),
    ],
)
def test_an_answer_that_is_said_is_not_passed_over_for_a_number(text: str, answer: str) -> None:
    assert answers.extract(text, gold="B" if "(B)" in text else "6") == answer


@pytest.mark.parametrize("gold", ["the sum of both numbers", "Step 3", "Step 3: add", "Part A"])
def test_a_reference_may_say_what_looks_like_a_step(gold: str) -> None:
    for before in ("", "2 + 3 = 5\n"):
        assert answers.extract(before + answers.closing(gold)) == gold
    assert ":" in gold or answers.extract(f"#### {gold}") in (gold, gold.strip())


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer we get is 12. There are 5 more.", "12"),
        ("The answer that we are looking for is 12. There are 5 more.", "12"),
        ("The answer to the question is 12. There are 5 more.", "12"),
        ("So it is so.\n#### the purple one\n", "the purple one"),
        ("#### the purple one\nQuestion: who?", "the purple one"),
    ],
)
def test_an_answer_may_be_said_in_other_ways(text: str, answer: str) -> None:
    assert answers.extract(text) == answer


PIECES = [
    *" \t\n1.-$\\{}([|^_!'*`x%²√½中\u2009\ue000",
    "1 ", "1,", ",111", "\\\\", "**", r"\boxed", r"\boxed{", r"\boxed{}", "answer", "answer is ", "answer: ",
    "The answer is ", "The answer is (((", "The answer is 1 ((. ", "####", "\n#### ", r"\frac{1", r"\frac{1}{1",
    "1/", "1 1/1", "1e1", "0.", r"\text{", r"\text{a ", "ab ", " because", ". ", "? ", "$1", r"\sqrt", r"\sin ",
    "is ", "p.m. ", r".\overline{", "_{",
]  # fmt: skip


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of the quickest of three goes."""
    found = []
    for _ in range(3):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
        if found[-1] < 0.02:
            break
    return min(found)


def texts(length: int) -> list[str]:
    rng = random.Random(0)
    mixed = ["".join(rng.choices(PIECES, k=3)) for _ in range(60)]
    around = [("", ""), ("The answer is about", "q"), (r"\boxed{", "}"), ("\n####", "q")]
    repeated = [(before + piece * (length // len(piece)), after) for piece in PIECES for before, after in around]
    return [text[: length - 1] + after for text, after in repeated] + [
        piece * (length // len(piece)) for piece in mixed
    ]


def test_a_text_of_ten_thousand_characters_is_searched_at_once_whatever_it_holds() -> None:
    for text in texts(10_000):
        for which in ("first", "last"):
            assert seconds(lambda: answers.extract(text, which)) < 0.05, text[:60]  # noqa: B023
        assert seconds(lambda: answers.has_closing(text)) < 0.05, text[:60]  # noqa: B023


def test_time_grows_with_the_length_and_no_faster() -> None:
    for short, long in zip(texts(8_000), texts(32_000), strict=True):
        fourfold = seconds(lambda: answers.extract(long))  # noqa: B023
        assert fourfold < 0.02 or fourfold < 8 * seconds(lambda: answers.extract(short)), short[:60]  # noqa: B023


def test_an_answer_of_any_content_is_read_at_once_or_not_at_all() -> None:
    for text in itertools.chain(texts(199), texts(120)):
        assert seconds(lambda: (read.cache_clear(), read(text))) < 0.05, text  # noqa: B023


def test_a_huge_text_is_searched_to_its_end() -> None:
    assert answers.extract("x" * 10**6 + " #### no mark, 5") == "5"


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("9 (apples)", "9"),
        ("8.0", "8"),
        ("225.50", "225.50"),
        ("$\\frac{1}{2}$", "\\frac{1}{2}"),
        ("Rug  B", "Rug B"),
        ("(1, 2)", "(1, 2)"),
        ("f(x)", "f(x)"),
        ("5(a+b)", "5(a+b)"),
        (r"5(\sqrt{3}-1)", r"5(\sqrt{3}-1)"),
        ("36 (sq. inches)", "36"),
        ("350 (g)", "350"),
        ("4 (m)", "4"),
        ("1.50 ( L)", "1.50"),
        ("x (m)", "x (m)"),
        ("f (x)", "f (x)"),
        ("4(m)", "4(m)"),
        ("4 (2)", "4 (2)"),
    ],
)
def test_references_write_answers_in_one_form(given: str, written: str) -> None:
    answer = answers.canonical(given)
    assert answer == written
    sentence = answers.closing(answer)
    assert sentence == f"The answer is {written}." and answers.has_closing(f"2*3=6\n{sentence}")
    assert answers.closed(f"The answer is near.\n{sentence}") == written


def test_the_canonical_form_is_the_last_thing_in_a_text() -> None:
    assert not answers.has_closing("The answer is 5. Or is it?")
    assert not answers.has_closing("The answer is 5") and not answers.has_closing("The answer is .")
    assert answers.has_closing(" The answer is 5.\n")
    assert answers.closing("3:30 p.m.") == "The answer is 3:30 p.m."
