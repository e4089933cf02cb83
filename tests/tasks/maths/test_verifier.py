# ruff: noqa: RUF001
"""Telling whether two answers are equal: every pair both ways, and the process in which formulas are compared."""

import csv
import itertools
import pickle
import string
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
    ("18", "$18 a day"), ("$18", "18 an hour"), ("10", "10 a week"), ("5", "5 of them"), ("3/4", "3/4 of a pie"),
    ("2/3", r"\frac{2}{3} of the class"), ("5", "5 so far"), ("2", "2 on average"), ("5", "5 at a time"),
    ("12", "12 sq ft"), ("12 sq ft", "12 square feet"), ("12 sq. ft.", "12 ft^2"), ("12 sq m", "12"),
    ("12 cu ft", "12 cubic feet"), ("8", "8 fl oz"), ("20", "20°C"), ("20", r"20^\circ C"), ("20", "20 °C"),
    (r"20^\circ\text{F}", "20"), ("-5", "-5 °F"), ("20°C", "20 degrees Celsius"), ("20", "20 °"),
    ("20° F", "20 degrees F"), (r"20^{\circ}\mathrm{C}", "20°C"), (r"\sin 30 °", "1/2"),
    (r"\sqrt{xy}", r"\sqrt{x}\sqrt{y}"), (r"\log xy", r"\log x+\log y"), (r"\sqrt{x-20}", r"\sqrt{2x-40}/\sqrt2"),
    ("x=20^y", "20^y=x"), (r"z^2=\sqrt{xy}", r"z^2=\sqrt{x}\sqrt{y}"), ("5", "5 at once"),
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
    ("2", "2 a"), ("2", "2 a b"), ("2", "2 a sin x"), ("2", "2 a plus b"), ("2", "2 a units"), ("1/2", "1/2 of x"),
    ("1/2", "1/2 of 20"), ("1/2", r"1/2 of \pi"), ("1/2", "1/2 of four"), ("5", "5 at most"), ("5", "5 at least"),
    ("5", "5 at a minimum"),
    ("20°C", "20°F"), ("20 °C", "20 degrees Fahrenheit"), ("12 sq ft", "12 ft"), ("12 sq ft", "12 cubic feet"),
    ("|x-10|", "10-x"), ("|x+10|", "x+10"), ("|x-300|", "300-x"), (r"\sqrt{(x-5)^2}", "5-x"), ("x+|y|", "x+y"),
    (r"\sqrt{x^2y^2}", "xy"), ("|abc|", "abc"), ("|abcd|", "abcd"), (r"\lfloor x/20 \rfloor", "0"),
    (r"\lceil x \rceil", r"\lfloor x \rfloor + 1 + \lfloor x/90 \rfloor"), (r"\arcsin(\sin x)", "x"),
]  # fmt: skip


MEASURED = [
    ("16", "16 GB"), ("60", "60 W"), ("60", "60 kW"), ("25", "25g"), ("5", "5m"), ("10", "10L"), ("24", "24hrs"),
    ("5", "5min"), ("3", "3 pt"), ("3", "3 yrs"), ("5", "5 (g)"), ("5", "5 (cm)"), ("3/4", r"\frac{3}{4}m"),
    ("1.5", "1.5L"), ("40", "40 TV sets"), ("3", "3 CD cases"), ("-5", "-5m"), ("25", r"25\text{g}"), ("9", "9m^2"),
    ("180 minutes", "3h"), ("5 km", "5000m"), ("25 g", "25g"),
    ("30", "30minutes"), ("25", "25grams"),
]  # fmt: skip
LETTERS = "abcdefijknopqrtuvwxyzBCDEFGHIKMOPQRSTUXYZ"


@pytest.mark.parametrize(("gold", "answer"), MEASURED)
def test_an_abbreviated_unit_is_left_out_where_the_gold_answer_is_a_number(
    gold: str, answer: str, verifier: Verifier
) -> None:
    assert verifier.compare(gold, answer) == RIGHT
    assert not verifier.compare(answer.replace("5", "6").replace("0", "7").replace("3", "8"), gold).equal


def test_letters_after_a_number_are_factors_where_they_are_no_unit_or_the_gold_answer_has_letters(
    verifier: Verifier,
) -> None:
    for letter in LETTERS:
        for answer in (f"2{letter}", f"2 {letter}", f"2{letter}x", f"2 ({letter})", f"2{letter}^2"):
            assert not verifier.compare("2", answer).equal, answer
    for gold, answer in [
        ("5m", "5"), ("25g", "25"), ("16 GB", "16"), ("16 GB", "16 MB"), ("5mg", "5gn"), ("5m", "5g"), ("5mx", "5"),
        ("5 kg", "5 W"), ("5 kg", "5m"), ("5", "$5m"), ("5", "50m"), ("2", "2 xy units"), ("2", "2 AB units"),
        ("5", "5K"), ("5", "5M"), ("5", "5m+1"), ("5", "3+2m"), ("50%", "50 W"),
    ]:  # fmt: skip
        assert not verifier.compare(gold, answer).equal, (gold, answer)
    for gold, answer in [("5m", "5m"), ("5m", "m*5"), ("5m", "2m+3m"), ("5gh", "5hg"), ("2AB", "2BA")]:
        assert verifier.compare(gold, answer) == RIGHT, (gold, answer)


def test_no_letter_equals_its_absolute_value(verifier: Verifier) -> None:
    letters = [letter for letter in string.ascii_letters if letter not in "ei"]
    for form in ("|{0}|", r"\sqrt{{{0}^2}}", r"\frac{{{0}^2}}{{|{0}|}}"):
        assert [letter for letter in letters if verifier.compare(form.format(letter), letter).equal] == []
    pairs = [f"{a}{b}" for a, b in itertools.pairwise(letters)]
    assert [pair for pair in pairs if verifier.compare(f"|{pair}|", pair).equal] == []


LIMITED = [
    (r"\log x^3", r"3\log x"), (r"\ln(xy)+\ln z", r"\ln(x y z)"), (r"\sqrt{x}\sqrt{x}", "x"),
    (r"\sqrt{4x}", r"2\sqrt{x}"), (r"\ln(1-x)", r"-\ln\frac{1}{1-x}"),
    (r"\arcsin x+\arccos x", r"\frac{\pi}{2}"), (r"\sqrt{1-x^2}", r"\cos(\arcsin x)"),
    (r"\log(x-100)", r"-\log\frac{1}{x-100}"), (r"\sqrt{x-y}\sqrt{2}", r"\sqrt{2x-2y}"),
    (r"y=\ln(1-x)+\sqrt{x}", r"2y=2\ln(1-x)+2\sqrt{x}"), (r"y=\arcsin x", r"2y=2\arcsin x"),
    (r"\cosh^2 50x-\sinh^2 50x", "1"), (r"(x+1)^{200}(x+1)", "(x+1)^{201}"), ("x^{2004}/x^{2003}", "x"),
    (r"\sin 400x", r"2\sin 200x\cos 200x"), (r"\frac{n!}{(n-1)!}", "n"), (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), LIMITED)
def test_functions_that_have_no_value_everywhere_are_equal_where_they_have_one(
    one: str, other: str, verifier: Verifier
) -> None:
    assert verifier.compare(one, other) == verifier.compare(other, one) == RIGHT


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
