# ruff: noqa: RUF001
"""Telling whether two answers are equal: every pair both ways, and the process in which formulas are compared."""

import csv
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from scpl_ray.tasks.maths import answers, verifier_process
from scpl_ray.tasks.maths.reader import read
from scpl_ray.tasks.maths.verifier import Comparison, Verifier
from tests.support import real_data

RIGHT, WRONG, UNREADABLE = Comparison(True, True), Comparison(True, False), Comparison(False, False)


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    return Verifier()


EQUAL = [
    ("7 p.m.", "7:00 PM"), ("7 p.m.", "7pm"), (r"\emptyset", "the empty set"),
    (".5", "0.5"), (".5", r"\frac12"), ("5.", "5"), ("(5)", "5"), ("5e3", "5000"), (r"5\times10^3", "5000"),
    ("5*10^3", "5000"), ("5 x 10^3", "5000"), (r"5^\circ", "5"), (r"5^{\circ}", "5 degrees"), ("5°", "5"),
    ("101_2", "101_{2}"), (r"101_{\text{two}}", "101_2"), (r"\pi^2", "π²"), (r"\pi^2", r"\pi\cdot\pi"),
    (r"\mathrm{e}", "e"), ("e^{-1}", r"\frac{1}{e}"), (r"1-\frac{1}{\mathrm{e}}", "1-e^{-1}"), ("x²", "x^2"),
    ("x^2", "x**2"), ("x^2", "x^{2}"), ("2√3", r"2\sqrt{3}"), ("2√3", r"\sqrt{12}"), ("√12", r"2\sqrt3"),
    ("∞", r"\infty"), (r"-\infty", "−∞"), ("−5", "-5"), ("2×3", "6"), ("½", "0.5"), ("1½", "3/2"), ("f′(x)", "f'(x)"),
    ("f'(x)", r"f^{\prime}(x)"), ("f'(x)", r"f^\prime(x)"), (r"\varnothing", r"\emptyset"), (r"\varnothing", r"\{\}"),
    ("∅", "{}"), (r"\emptyset", r"\text{∅}"), ("$5", "5"), ("€5", "5"), ("£5", "5"), ("5 dollars", "$5"),
    ("5 USD", "$5"), (r"\$5", "5 dollars"), ("5 dollars", "5"), ("50 cents", r"\$0.50"), (r"50\text{ cents}", "50"),
    ("5%", "5"), (r"5\%", "0.05"), ("50 percent", "50%"), ("3:30 p.m.", "3:30 PM"), ("3:30 p.m.", "3:30pm"),
    ("3:30", "03:30"), (r"0.\overline{3}", "1/3"), (r"0.1\overline{6}", "1/6"), ("1,234", "1234"), ("1 234", "1234"),
    (r"1\,234", "1234"), ("1{,}234", "1234"), (r"1,\!234", "1234"), (r"1\ 234\ 567", "1,234,567"),
    (r"\boldsymbol{x}", "x"), (r"\mathbf{5}", "5"), (r"\textbf{5}", "5"), (r"\text{5}", "5"), (r"\boldsymbol{5}", "5"),
    (r"\text{The answer is 460}", "460"), ("The answer is 460", "460"), ("5 cm", "5"), (r"5\text{ cm}", "5 cm"),
    ("5cm", "5 centimeters"), ("100 cm", "1 m"), ("1 hour", "60 minutes"), (r"2\frac{1}{2}", "2.5"),
    (r"2\frac12", "5/2"), (r"-2\frac12", "-2.5"), ("2 1/2", "2.5"), ("x = 5", "5"), ("5", "x = 5"), ("x=5", "5 = x"),
    ("1, 2 and 3", "3, 2, 1"), ("1, 2, and 3", r"\{1,2,3\}"), (r"1\text{ and }2", "1,2"), ("1 or 2", "1,2"),
    ("1; 2", "1, 2"), ("x=1 or x=2", "1, 2"), ("x = 1, 2", "x=2, x=1"), (r"\pm 2", "2, -2"),
    (r"\pm 2", r"2\text{ and }-2"), (r"1\pm\sqrt2", r"1+\sqrt2, 1-\sqrt2"), ("(1,2)", r"\left(1, 2\right)"),
    ("(1,2)", "$(1, 2)$"), ("[1,2)", r"\left[1,2\right)"), ("x>5", r"(5,\infty)"), (r"x \ge 5", r"[5,\infty)"),
    (r"1<x\leq 2", "(1,2]"), (r"x \in [1,2]", "[1,2]"), ("x<5", "5>x"),
    (r"(-\infty,1)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,1)"), (r"(-\infty,1)\cup(3,\infty)", "(-∞,1)U(3,∞)"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}"), (r"\frac{3}{4}", "0.75"),
    (r"\frac{3}{4}", r"\dfrac{3}{4}"), (r"\frac{3}{4}", r"\tfrac34"), (r"\frac{3}{4}", "3/4"),
    (r"-\frac{3}{4}", r"\frac{-3}{4}"), (r"\frac{a}{b}", "a/b"), (r"\frac{\pi}{6}", "π/6"), ("x+y+z=0", "z+x+y=0"),
    ("y=2x+1", "2x-y+1=0"), ("y=2x+1", "2x+1"), ("|x|", r"\lvert x \rvert"), (r"\sqrt[3]{8}", "2"),
    (r"\binom{5}{2}", "10"), ("5!", "120"), (r"\log_2 8", "3"), (r"\ln e", "1"), (r"\sin^2 x+\cos^2 x", "1"),
    (r"\sin 2x", r"2\sin x\cos x"), (r"\tan 45^\circ", "1"), (r"\sin\frac{\pi}{6}", "1/2"), ("(x+1)(x+2)", "x^2+3x+2"),
    ("x(x+1)", "x^2+x"), (r"\frac{x^2-1}{x-1}", "x+1"), ("3+4i", "4i+3"), (r"i\sqrt{3}", r"\sqrt{3}i"),
    ("2^{10}", "1024"), ("2^10", "1024"), ("10!", "3628800"), (r"\frac{1}{2^{99}}", "2^{-99}"), ("A", "(A)"),
    (r"\text{(A)}", "A"), (r"\text{A}", "(A)"), ("B)", "B"), (r"\text{B,C}", "B, C"), (r"\text{B,C}", "C and B"),
    ("Yes", "yes"), ("No", "no"), ("blue", "Blue."), ("the 60th caller", "60th caller"), ("6th", "6th"),
    ("3:4", "3 : 4"), ("0.333333333333", "1/3"), ("1.4142135624", r"\sqrt{2}"), (r"3.14 \approx \pi", "3.14"),
    (r"\$\dfrac23 \approx \$0.67", "0.67"), (r"0.56 = 56\%", r"56\%"), (r"12\sqrt{13}\text{ feet}", r"12\sqrt{13}"),
    ("36 cm²", r"36\text{ cm}^2"), ("36 square feet", "36 ft^2"), (r"20\%", r"\frac{1}{5}"), (r"\mbox{four}", "4"),
    (r"30^\circ.", "30"), ("a_1", "a_{1}"), (r"\alpha", "α"), ("-(1/3)", "-1/3"), ("1,000,000", "10^6"),
    (r"\boxed{5}", "5"), (r"8\!:\!34 \text{ p.m.}", "8:34 pm"), ("approximately 5", "5"),
    (r"\approx 8.24 \text{ mph}", "8.24"), (r"\left\{1,2\right\}", r"\{2,1\}"),
    (r"\dfrac{2469}{20,\!000}", "2469/20000"), ("e^{x}", r"\exp(x)"), ("10^{-3}", "0.001"), ("(-3)^2", "9"),
    (r"\sqrt{x^2}", r"\left|x\right|"), ("81, 256", "81,256"), ("81, 256", "81 and 256"), ("x^2-x-1", "-1 - x + x^2"),
    ("5x^2y", "5yx^2"), (r"60^\circ, 120^\circ", "120, 60"), (r"(6,235^\circ)", r"(6, 235^{\circ})"), ("2.50", "2.5"),
    (r"\$2.50", "2.5"), ("007", "7"), ("1.0", "1"), (r"\sqrt{300x^7}", r"10x^3\sqrt{3x}"),
]  # fmt: skip

UNEQUAL = [
    ("7 p.m.", "7 a.m."), ("7 p.m.", "7"), ("9 am", "9"), 
    (".5", "5"), ("5!", "5"), ("5'", "5"), ("5''", "5'"), ("-5", "5"), ("5e", "5"), ("101_2", "101"), ("101_2", "5"),
    ("42_7", "42_9"), ("0x1F", "0"), ("0x1F", "1"), ("0x1F", "31"), ("1/2^99", "1/2^98"),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"), ("f'(x)", "f(x)"), ("f''(x)", "f'(x)"), ("X", "x"), ("x_1", "x_2"),
    ("x_1", "x"), ("x'", "x"), (r"\mathrm{e}", "1"), (r"1-\frac{1}{\mathrm{e}}", "1"), (r"\pi^2", r"\pi"),
    ("π", "3.14"), (r"\sqrt{3}", "1.73"), ("5%", "6%"), ("0.5%", "50%"), ("1,2,3", "1,2"), (r"1,2,\ldots", "1,2"),
    ("1, 2, 3, ...", "1"), ("1, 2, 3, ...", "1,2,3"), ("[1,2]", "(1,2)"), ("[1,2)", "(1,2]"), ("(1,2)", "(2,1)"),
    ("(1,2)", r"\{1,2\}"), ("1,2", "(1,2)"), ("x=5", "y=5"), ("x>5", "x<5"), ("x>5", r"x\ge5"),
    (r"x\ge5", r"(5,\infty)"), (r"\{1,2\}", r"\{1,3\}"), (r"\emptyset", "0"), (r"\emptyset", r"\{0\}"),
    ("3:30 p.m.", "3:30 a.m."), ("3:30", "3:31"), ("3:4", "3/4"), ("3:4", "4:3"), ("$5", "€5"), ("50 cents", "$50"),
    ("5 cm", "5 m"), ("36 cm^2", "36 cm^3"), ("5 hours", "5 minutes"), (r"0.\overline{3}", "0.3"),
    (r"0.\overline{3}", "0.33"), ("1,234", "1.234"), ("1 234", "1"), (r"2\frac12", "1"),
    (r"2\frac{1}{2}", r"2\cdot\frac12"), (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"), (r"2+\mathbf{v}", "2"),
    (r"2\vec{v}", "2"), (r"\overline{AB}", "AB"), ("2x", "2"), ("2x", "2X"), ("x^2", "x^3"), ("x^2", "2x"),
    ("x^{10}", "x^10y"), (r"\pm 2", "2"), (r"\pm 2", "-2"), ("|x|", "x"), (r"\sqrt{x^2}", "x"), ("3+4i", "3-4i"),
    ("n!", "n"), ("(n+1)!", "n+1"), (r"\frac{1}{2004!}", r"\frac{1}{2006!}"), ("10^{100}", "10^{100}+1"),
    (r"\sqrt{10^{200}+1}", "10^{100}"), (r"2^{1000}\pi", r"2^{1001}\pi"), ("e^{-1000}", "e^{-2000}"),
    ("1000001", "1000000"), ("10000000000", "10000000000.5"), ("0.123456789012", "0.123456789013"), ("A", "B"),
    ("A", "a"), ("Yes", "No"), ("blue", "red"), ("5 or 6", "5"), ("5 to 6", "5"), ("5-6", "5"),
    (r"20^\circ C", r"20^\circ F"), (r"\log 100", "2"), (r"\ln 2", r"\log 2"), (r"\sin x", r"\cos x"),
    (r"\sin x", r"\sin y"), ("f(x)", "g(x)"), ("f(2)", "f(3)"), ("f(x)", "fx^2"), (r"\int_0^1 x", "1"),
    (r"\sum_{i=1}^n i", "n"), (r"5\%", "5.1"), ("1/0", "2/0"), ("0^0", "1"), (r"\infty", r"-\infty"),
    (r"\frac{12}{3}4", "16"), ("1.2.3", "1.2"), ("5..", "5.5"), ("--5", "5"), ("5-", "5"), ("+", "1"), ("5)", "5"),
    ("((5)", "5"), ("x^{2", "x^2"), ("2 3", "23"), ("2 3", "6"), (r"23\text{ and}", "23"), ("5 more", "5"),
    ("7 times", "7"), ("1331 and 1728", "1331"), (r"0.56 = 56\%", r"0.56 = 66\%"), ("2=3", "3"), ("2=3", "2"),
    (r"\pi \approx 5", "5"), ("x=5=6", "6"), (r"\lfloor 2.5 \rfloor", "2.5"), ("12:5", "12.5"),
    (r"\frac{1}{3}", "0.33"), ("1000000.1", "1000000.2"),
]  # fmt: skip


OPTIONS = [
    # gold, answer, verdict
    ("B", "(B) 14", RIGHT), ("B", "B) 14", RIGHT), ("B", "B: 14", RIGHT), ("B", "B. 14", RIGHT), ("b", "(b) 14", RIGHT),
    (r"\text{(B)}", r"\textbf{(B)}\ 14", RIGHT), ("B", r"\textbf{(B)}14", RIGHT), ("B", r"\text{(B) fourteen}", RIGHT),
    ("(B)", r"$\text{(B) } \frac{1}{2}$", RIGHT), ("B", "(B) x^2", RIGHT), ("B", "(B) -3", RIGHT),
    ("B", "(B): 14", RIGHT), ("B", "(B)** 14", RIGHT), ("B", "(B)**2", WRONG), ("A", "(A), (B)", WRONG),
    ("A", "(A) A man walks", RIGHT), ("B", "(B) not enough is known", RIGHT),
    ("B", "(C) 14", WRONG), ("B", "C: 14", WRONG), ("B", "(b) 14", WRONG), ("A", "A man walks", WRONG),
    ("I", "I think so", WRONG), ("B", "(B) + 2", WRONG), ("A", "A: B", WRONG), ("a", "(a) b", WRONG),
    ("A", "(A)^2", WRONG), ("x", "(y) x", WRONG), ("a", "a cm", RIGHT),
    *((gold, answer, UNREADABLE) for gold in "AB" for answer in ("(A) 14 and (B) 15", "A) 14, B) 15")),
    ("yes", "Yes, because 2 > 1", RIGHT), ("Yes", "yes; it is", RIGHT), ("no", "No: 3 is odd", RIGHT),
    ("no", r"\text{No}, 3 is odd", RIGHT), ("no", "No - it is odd", RIGHT), ("True", "true (by 3)", RIGHT),
    ("yes", "No, because 1 < 2", WRONG), ("no", "No one", WRONG), ("yes", "yes or no", WRONG),
    ("no", "none, no", WRONG), ("yes", "Yes**, it is", RIGHT),
    ("blue", "blue, because it is", WRONG),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer", "verdict"), OPTIONS)
def test_the_letter_of_an_option_and_yes_or_no_stand_before_what_explains_them(
    gold: str, answer: str, verdict: Comparison, verifier: Verifier
) -> None:
    assert verifier.compare(gold, answer) == verdict


def test_several_options_are_not_one_of_them(verifier: Verifier) -> None:
    for answer in ("(A) and (B)", "(A), (B)", "(A) or (B)", "(A) (B)", "(B) and C"):
        for gold in ("A", "B"):
            assert not verifier.compare(gold, answer).equal, answer


def test_a_half_of_the_day_may_be_missing_in_the_gold_only(verifier: Verifier) -> None:
    assert verifier.compare("3:30", "3:30 p.m.") == RIGHT
    assert verifier.compare("3:30 p.m.", "3:30") == WRONG


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_no_right_answer_is_refused_for_its_clothes(one: str, other: str, verifier: Verifier) -> None:
    assert verifier.compare(one, other) == verifier.compare(other, one) == RIGHT


@pytest.mark.parametrize(("one", "other"), UNEQUAL)
def test_no_wrong_answer_is_equal(one: str, other: str, verifier: Verifier) -> None:
    assert not verifier.compare(one, other).equal and not verifier.compare(other, one).equal


@pytest.mark.parametrize("expression", ["9^9^9^9", "9^{9^{9^{9}}}", "10000000!", r"\frac{1}{9^{9^9}}", "2^{100000}!"])
def test_an_expression_that_would_take_for_ever_is_wrong(expression: str, verifier: Verifier) -> None:
    assert not verifier.compare(r"2\sqrt{3}", expression).equal
    # and the next one is told as always, by a new process where the last one was ended
    assert verifier.compare(r"2\sqrt{3}", r"\sqrt{12} ") == RIGHT


def test_other_threads_compare_too(verifier: Verifier) -> None:
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


def test_the_shared_cases(verifier: Verifier) -> None:
    with real_data.path("cases/answers.tsv").open(encoding="utf-8", newline="") as file:
        cases = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    wrong = [
        case
        for case in cases
        if str(verifier.compare(answers.canonical(case["gold"]), answers.extract(f"\\boxed{{{case['boxed']}}}")).equal)
        != case["should_be_equal"]
    ]
    assert len(cases) > 20 and wrong == []


@pytest.mark.parametrize(
    "text",
    [
    "101_", "0x1F", "5'", "x2", "2 3", "5-", "f(x", "x^2^3", "5!!", r"\int x", r"\frac{1}", r"\foo 5", "5)", r"\)5",
    "1.2.3", "5 more", "(1,2]]", r"\approxcm 2", r"\frac(1,2)3",
    ],
)  # fmt: skip
def test_a_formula_is_read_whole_or_not_at_all(text: str) -> None:
    assert read(text).node is None
