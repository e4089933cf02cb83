"""Finding an answer in a text and telling whether it is right."""

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from scpl_ray.tasks.maths import answers, verifier_process
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
    (r"first \boxed{3}, no, \boxed{4}", "4", "4", RIGHT),
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
    ("The answer is 5. No, the answer is 6.", "6", "6", RIGHT),
    ("answer: 5. answer: 6.", "6", "6", RIGHT),
    ("The answer is 5, because 2 + 3 = 5.", "5", "5", RIGHT),
    ("#### 72", "72", "72", RIGHT),
    ("2*36=72\n#### 72\n", "72", "72", RIGHT),
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


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 20_000, "answer " * 50_000, "answer is " * 50_000, "1," * 50_000, "-" * 10**6]
)
def test_huge_texts_take_no_time(text: str) -> None:
    started = time.process_time()
    answers.extract(text)
    answers.number(text)
    assert time.process_time() - started < 5.0


@pytest.mark.parametrize("expression", ["9^9^9^9", "9^{9^{9^{9}}}", "10000000!", r"\frac{1}{9^{9^9}}", "2^{100000}!"])
def test_an_expression_that_would_take_for_ever_is_wrong(expression: str, verifier: Verifier) -> None:
    assert not verifier.compare(r"2\sqrt{3}", expression).equal
    # and the next one is told as always, by a new process where the last one was ended
    assert verifier.compare(r"2\sqrt{3}", r"\sqrt{12} ") == RIGHT


def test_other_threads_compare_too(verifier: Verifier) -> None:
    """math-verify's own timeouts only work in a main thread."""
    assert threading.current_thread() is threading.main_thread()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: verifier.compare(rf"{n}\sqrt{{2}}", rf"\sqrt{{{2 * n * n}}}"), range(2, 10)))
    assert found == [RIGHT] * 8


def test_a_verifier_travels_without_its_process_which_ends_with_it() -> None:
    before = set(psutil.Process().children())
    here = Verifier()
    assert here.compare("5", "5.0") == RIGHT
    assert set(psutil.Process().children()) == before, "numbers need no process"
    assert here.compare(r"\pi", "π") == RIGHT
    (started,) = set(psutil.Process().children()) - before
    there: Verifier = pickle.loads(pickle.dumps(here))
    assert there.compare("1/3", "2/6") == RIGHT
    del here
    assert not started.is_running()


def test_a_process_that_does_not_start_is_no_wrong_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(3)")
    monkeypatch.setattr(verifier_process, "__file__", str(broken))
    with pytest.raises(RuntimeError, match=r"did not start \(exit code 3\)"):
        Verifier().compare(r"\pi", "π")


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
