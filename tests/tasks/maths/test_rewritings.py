# ruff: noqa: RUF001
"""Every gold equals itself in other clothes, and no gold equals itself with one character changed."""

import random
import re
from collections.abc import Iterator
from fractions import Fraction

import pytest

from scpl_ray.tasks.maths import answers
from scpl_ray.tasks.maths.reader import read
from scpl_ray.tasks.maths.verifier import Verifier
from tests.support import real_data

BUILT_IN = [
    "18", "-7", "1,234", "2.5", ".75", "3/4", r"\frac{3}{4}", r"-\frac{11}{36}", r"2\frac{1}{2}", "50%", r"20\%",
    r"\$2.50", r"3\sqrt{2}", r"\frac{1 + \sqrt{5}}{2}", r"\sqrt[3]{4}", r"12\pi", r"\frac{3\pi}{4}", "1, 2, 3",
    "-1, 8", r"1 + i, 1 - i", "(3, -1)", r"(2, \frac{5 \pi}{3})", "[2, 5)", r"(-\infty, 1) \cup [3, \infty)",
    r"\{4,5,7\}", "x^2 + 7x + 10", "5n+10", r"\frac{x+5}{6}", "y = 2x - 13", "x + y - z + 1 = 0", r"45^\circ",
    "101_2", "2^{100} - 2", "10!", r"\sin^2 y", "f(4 - x)", r"\begin{pmatrix} 1 & -2 \\ 0 & 3 \end{pmatrix}",
    r"\begin{pmatrix} 7 \\ -13 \end{pmatrix}", r"\text{(D)}", r"5\text{ cm}", r"x \geq 5", "3:45", "9:03:36 a.m.",
    "5:6", "Mrs. Hilt", "They are equal", r"\text{Sunday}", r"\emptyset", r"0.\overline{36}",
]  # fmt: skip
FILES = ("math_hendrycks_train", "math_arith_word_problems", "math_gsm8k_test")
UNICODE = {r"\pi": "π", r"\infty": "∞", r"\cup": "∪", r"\theta": "θ", r"\emptyset": "∅", r"\geq": "≥", "-": "\u2212"}
PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?|-?\.\d+|-?\\frac\{\d+\}\{\d+\}")


SIGNS = re.compile("|".join(rf"{re.escape(sign)}(?![a-z])" for sign in UNICODE))


@pytest.fixture(scope="module")
def verifier() -> Verifier:
    return Verifier()


def real_golds() -> list[str]:
    given = [row["answer"] for name in FILES for row in real_data.rows(f"data/{name}.jsonl")]
    return sorted({answers.canonical(answer) for answer in given if answer})


def boxed(answer: str) -> str:
    return rf"\boxed{{{answer}}}"


def rewritings(gold: str) -> Iterator[str]:
    """Texts of a model that give the gold answer, at least ten of them."""
    node = read(gold).node
    yield rf"So it is \boxed{{{gold}}}."
    yield rf"So it is $\boxed{{ {gold} }}$"
    yield f"The answer is {gold}."
    yield f"The final answer is ${gold}$."
    yield rf"Hence the answer is \({gold}\)."
    yield f"3 + 4 = 7\n#### {gold}\n\nQuestion: and now?"
    yield rf"\boxed{{\text{{The answer is }}{gold}}}"
    yield f"Answer: **{gold}**"
    yield rf"\boxed{{\displaystyle {gold}}}"
    yield rf"\boxed{{{gold}.}}"
    yield rf"\fbox{{{gold.replace('frac', 'dfrac').replace('ddfrac', 'dfrac').replace('tdfrac', 'dfrac')}}}"
    if node is None:
        return
    yield boxed(re.sub(r"(?<=[0-9a-z)}]) ?([+=-]) ?(?=[0-9a-z(])", r" \1 ", gold))
    yield boxed(SIGNS.sub(lambda sign: UNICODE[sign[0]], gold))
    yield boxed(gold.replace("^2", "²").replace("^3", "³").replace(r"^\circ", "°"))
    if node[0] not in ("list", "chain", "colon", "with", "percent", "base"):
        yield rf"\boxed{{z = {gold}}}"
    if node[0] == "list" and re.fullmatch(r"[^(\[{;]*", gold) and "text" not in gold:
        before, _, last = gold.replace(r",\,", ",").rpartition(",")
        yield rf"\boxed{{{before} and {last}}}"
        yield rf"\boxed{{{before}, \text{{ and }}{last}}}"
        yield rf"\boxed{{\{{{gold}\}}}}"
    if PLAIN_NUMBER.fullmatch(gold):
        value = Fraction(node[1])
        yield rf"\boxed{{{gold}\text{{ apples}}}}"
        yield f"The answer is {gold} apples."
        yield rf"\boxed{{\mathbf{{{gold}}}}}"
        yield rf"\boxed{{\frac{{{value.numerator}}}{{{value.denominator}}}}}"
        yield rf"\boxed{{\${gold}}}"
        if set(f"{value.denominator:b}") == {"1", "0"} and value.denominator & (value.denominator - 1) == 0:
            yield rf"\boxed{{{float(value)}}}" if abs(value) < 10**6 else rf"\boxed{{{gold}}}"


def unmatched(golds: list[str], verifier: Verifier) -> list[tuple[str, str]]:
    return [
        (gold, text)
        for gold in golds
        for text in rewritings(gold)
        if not verifier.compare(gold, answers.extract(text)).equal
    ]


def mutations(golds: list[str], count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Golds with a digit, a sign, a bracket or a letter changed, or a digit or a sign put in."""
    rng = random.Random(seed)
    for _ in range(count):
        gold = rng.choice(golds)
        at = rng.randrange(len(gold))
        char = gold[at]
        for kind in ("0123456789", "()[]", "+-", "abcdfghkmnpqrstuvwxyzABCDXYZ"):
            if char in kind:
                yield gold, gold[:at] + rng.choice([other for other in kind if other != char]) + gold[at + 1 :]
                break
        else:
            yield gold, gold[:at] + rng.choice("123456789-!'") + gold[at:]


def excepted(gold: str, changed: str) -> bool:
    """Changes that leave the value, or that no checker could tell from other clothes."""
    at = next(i for i, (a, b) in enumerate(zip(gold, f"{changed} ", strict=False)) if a != b)
    return (
        # a letter of a unit: a word that is no measure is not compared
        bool(re.search(r"\\(?:text|mbox|textnormal)\{[^{}]*$", gold[:at]))
        # \dfrac, \tfrac and \cfrac
        or re.sub(r"\\[dtc]frac", "", changed) == re.sub(r"\\[dtc]frac", "", gold)
        # 0 apples, 0x, -0
        or bool(re.search(r"(?<![\d.])0(?![\d.])", gold))
        # a leading plus
        or changed.replace("+", "", 1) == gold
        # a factor of one: -1\frac{1}{\sqrt{2}}, \sin1 x
        or (changed[at] == "1" and gold == changed[:at] + changed[at + 1 :] and not gold[at - 1 : at + 1].isdigit())
        # 1! is 1 and 2! is 2; \! is a space
        or (changed.replace("!", "", 1) == gold and gold[at - 1] in "12\\")
    )


def equal_in_spite(golds: list[str], count: int, verifier: Verifier) -> list[tuple[str, str]]:
    return [
        (gold, changed)
        for gold, changed in mutations(golds, count, seed=1)
        if verifier.compare(gold, answers.extract(rf"\boxed{{{changed}}}")).equal and not excepted(gold, changed)
    ]


def test_golds_of_every_kind_equal_themselves_in_other_clothes(verifier: Verifier) -> None:
    assert all(len(list(rewritings(gold))) >= 10 for gold in BUILT_IN)
    assert unmatched(BUILT_IN, verifier) == []


def test_golds_of_every_kind_do_not_equal_their_mutations(verifier: Verifier) -> None:
    assert equal_in_spite([gold for gold in BUILT_IN if read(gold).node], 1_000, verifier) == []


def test_real_golds_equal_themselves_in_other_clothes(verifier: Verifier) -> None:
    golds = real_golds()
    plain = {gold for gold in golds if gold.lstrip("-").isdigit()}
    # some whole numbers, which are most, and every gold of another kind
    assert unmatched(random.Random(0).sample(sorted(plain), 50) + sorted(set(golds) - plain), verifier) == []


def test_real_golds_do_not_equal_their_mutations(verifier: Verifier) -> None:
    assert equal_in_spite([gold for gold in real_golds() if read(gold).node], 1_000, verifier) == []
