r"""One notation for an answer: Unicode signs, markup and spacing are rewritten in the LaTeX that the reader knows.

Only clothes are taken off. Whatever may have a meaning (a leading point, a prime, a factorial, a subscript, the case of
a letter) is kept, and :mod:`scpl_ray.tasks.maths.reader` refuses what it does not know.
"""

from __future__ import annotations

import re
import unicodedata

# the table of signs is there because they look like others
# ruff: noqa: RUF001

TEXT_OPEN, TEXT_CLOSE = "\ue000", "\ue001"
"""Private characters around the words of a ``\\text{}`` inside a formula."""
THOUSANDS = "\ue002"
"""Private character for a comma that can only separate thousands: ``{,}`` or ``,\\!``."""
DEGREE = "°"
CURRENCIES = "$€£¥₹₽₩₪₫₱฿₺₴"
_NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty
"""
WORD_NUMBERS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS.split())}
"""Numbers as words, also as the base of a numeral: ``101_{\\text{two}}``."""

_FRACTIONS = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5), "⅘": (4, 5),
    "⅙": (1, 6), "⅚": (5, 6), "⅐": (1, 7), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8), "⅑": (1, 9),
    "⅒": (1, 10),
}  # fmt: skip
_SIGNS = {
    "\u2212": "-", "\u2013": "-", "\u2010": "-", "\u2011": "-", "\u2044": "/", "\u2215": "/",
    "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": "/",
    "√": r"\sqrt ", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "∞": r"\infty ", "∪": r"\cup ", "∅": r"\emptyset ",
    "∈": r"\in ",
    "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≅": r"\approx ",
    "±": r"\pm ", "∓": r"\mp ", "º": DEGREE, "˚": DEGREE, "′": "'", "’": "'", "ʹ": "'", "‘": "'", "″": "''", "…": "...",
    "π": r"\pi ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "θ": r"\theta ", "λ": r"\lambda ",
    "μ": r"\mu ", "ρ": r"\rho ", "σ": r"\sigma ", "τ": r"\tau ", "φ": r"\phi ", "ϕ": r"\phi ", "ω": r"\omega ",
    "Δ": r"\Delta ", "Ω": r"\Omega ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}",
    "ℂ": r"\mathbb{C}", "⟨": r"\langle ", "⟩": r"\rangle ", "∣": "|", "％": "%",
}  # fmt: skip
_TABLE = str.maketrans(
    _SIGNS
    | {sign: rf"\frac{{{a}}}{{{b}}}" for sign, (a, b) in _FRACTIONS.items()}
    | dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000", " ")
    | dict.fromkeys("\u200b\u2060\ufeff", "")
)
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n", strict=True))
_RAISED_RUN, _LOWERED_RUN = re.compile(f"[{''.join(_RAISED)}]+"), re.compile(f"[{''.join(_LOWERED)}]+")

_LINE = r"(\\\\)|"
"""A line break of a matrix, which the patterns below keep, so that its second backslash starts no other command."""
_DELIMITED = re.compile(_LINE + r"\\\((.*?)\\\)|\\\[(.*?)\\\]")
_THOUSANDS = re.compile(r"(?<=[0-9]) ?(?:\{ ?, ?\}|, ?\\!) ?(?=[0-9]{3})")
_NO_SPACE = re.compile(
    _LINE + r"\\!|\\(?:left|right|middle|displaystyle|textstyle|limits|bf|rm|it|tt|sf)(?![a-zA-Z])"
    r"|\\[bB]igg?[lrm]?(?![a-zA-Z])|\\h?phantom ?(?:\{[^{}]*\}|[^\\{}])"
)
_SPACE = re.compile(_LINE + r"\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|\\(?:hspace|vspace)\*?\{[^{}]*\}")
_DEGREES = re.compile(
    r"\^ ?(?:\{ ?\\(?:circ|degree) ?\}|\\(?:circ|degree)(?![a-zA-Z]))|\\(?:degree|textdegree)(?![a-zA-Z])"
)
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")
_PRIMES = re.compile(r"\^ ?(?:\{ ?((?:\\prime ?)+)\}|(\\prime)(?![a-zA-Z]))")
_FONT = re.compile(
    r"\\(?:text(?:normal|rm|bf|it|sf|tt|up)?|mbox|hbox|math(?:rm|bf|it|sf|tt|normal)|boldsymbol|bm|pmb|operatorname\*?"
    r"|emph|ensuremath)(?![a-zA-Z]) ?\{([^{}]*)\}"
)
_SEPARATOR_WORDS = re.compile(r",? ?(?:and|or|and/or)", re.IGNORECASE)
_PLAIN_CONTENT = re.compile(r"(?:[^a-zA-Z]|[a-zA-Z](?![a-zA-Z]))*")
_SPACES = re.compile(r"\s+")


def one_notation(answer: str) -> str:
    r"""The answer in one notation, with single spaces.

    Words of ``\text{}`` and its like are put between :data:`TEXT_OPEN` and :data:`TEXT_CLOSE` unless they are the whole
    answer, a separator ("and", "or"), or no words at all (``\mathbf{2340}``, ``\mathrm{e}``).
    """
    text = _RAISED_RUN.sub(lambda run: "^{" + "".join(_RAISED[sign] for sign in run[0]) + "}", answer)
    text = _LOWERED_RUN.sub(lambda run: "_{" + "".join(_LOWERED[sign] for sign in run[0]) + "}", text)
    text = unicodedata.normalize("NFKC", text.translate(_TABLE))
    text = _SPACES.sub(" ", text).strip()
    text = _unwrapped(text)
    text = _dollars(_DELIMITED.sub(lambda match: match[1] or match[2] or match[3] or "", text))
    text = _THOUSANDS.sub(THOUSANDS, text)
    text = _DEGREES.sub(DEGREE, text)
    text = _PRIMES.sub(lambda match: "'" * (match[1] or match[2]).count("prime"), text)
    text = _FRACTION.sub(r"\\frac", text)
    text = _NO_SPACE.sub(lambda match: match[1] or "", text)
    text = _SPACE.sub(lambda match: match[1] or " ", text)
    text = _fonts(text)
    return _SPACES.sub(" ", text).strip()


def _unwrapped(text: str) -> str:
    """The text without emphasis, boxes and fonts around the whole of it."""
    for _ in range(8):
        bare = text.strip()
        for mark in ("**", "__", "`"):
            if len(bare) > 2 * len(mark) and bare.startswith(mark) and bare.endswith(mark):
                bare = bare[len(mark) : -len(mark)].strip()
        whole = re.fullmatch(r"\\(?:boxed|fbox|text[a-z]*|mbox|math(?:rm|bf|it)|boldsymbol|bm) ?\{(.*)\}", bare)
        if whole and _balanced(whole[1]):
            bare = whole[1].strip()
        if len(bare) > 1 and bare[0] == bare[-1] == "$" and bare[-2] != "\\" and "$" not in bare.strip("$"):
            bare = bare.strip("$").strip()
        if bare == text:
            return text
        text = bare
    return text


def _balanced(text: str) -> bool:
    depth = 0
    for char in re.findall(r"\\.|[{}]", text):
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return False
    return depth == 0


def _dollars(text: str) -> str:
    """The text without dollar signs that delimit formulas; ``\\$``, and a lone one at a number, are a currency."""
    kept = text.replace("\\$", "\ue003")
    if kept.count("$") % 2 == 1:
        kept = re.sub(r"\$(?= ?-?[0-9.])", "\ue003", kept, count=1)
    return kept.replace("$", "").replace("\ue003", "$")


def _fonts(text: str) -> str:
    for _ in range(6):
        changed = _FONT.sub(_content, text)
        if changed == text:
            break
        text = changed
    return text


def _content(match: re.Match[str]) -> str:
    words = match[1].strip()
    bare = words.strip(" ,")
    if bare and _SEPARATOR_WORDS.fullmatch(bare):
        return f" {bare.lower().partition('/')[0]} "
    if _PLAIN_CONTENT.fullmatch(words):
        return f" {words} " if words != match[1] else words
    if bare.lower() in WORD_NUMBERS:
        return WORD_NUMBERS[bare.lower()]
    return f" {TEXT_OPEN}{words}{TEXT_CLOSE}"
