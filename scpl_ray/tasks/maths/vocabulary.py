"""The words and signs of answers, as :mod:`scpl_ray.tasks.maths.reader` knows them."""

from __future__ import annotations

import re

from scpl_ray.tasks.maths.notation import CURRENCIES, DEGREE, TEXT_CLOSE, TEXT_OPEN, THOUSANDS, WORD_NUMBERS
from scpl_ray.tasks.maths.units import NO_UNIT

FUNCTIONS = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc", "asin",
    "acos", "atan", "sinh", "cosh", "tanh", "coth", "exp", "ln", "lg", "log",
})  # fmt: skip
ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
GREEK = frozenset({
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota", "kappa",
    "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi", "omega", "Gamma",
    "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega", "ell",
})  # fmt: skip
CONSTANTS = {"pi": "pi", "infty": "inf", "infinity": "inf", "inf": "inf", "imath": "i"}
WORDS = FUNCTIONS | GREEK | {*CONSTANTS, "sqrt"}
DECORATIONS = frozenset({
    "overline", "bar", "vec", "hat", "tilde", "widehat", "overrightarrow", "mathbb", "mathcal", "mathfrak", "mathscr",
})  # fmt: skip
NO_NAMES = frozenset({"no", "up", "in", "on", "he", "it", "we", "ok", "me"})
"""Words of two letters; other pairs of letters are products, as in ``2xy``."""
MEASURES = {
    "|": ("|", "abs"), r"\lvert": (r"\rvert", "abs"), r"\vert": (r"\vert", "abs"), r"\lfloor": (r"\rfloor", "floor"),
    r"\lceil": (r"\rceil", "ceil"),
}  # fmt: skip
"""Signs around an expression: the closing one by the opening one, and the function."""
SETS = {r"\{": r"\}", r"\lbrace": r"\rbrace"}
MATRICES = {
    **dict.fromkeys(("pmatrix", "bmatrix", "matrix", "smallmatrix", "Bmatrix", "array"), "m"),
    "vmatrix": "det",
}
OPERANDS = frozenset({
    r"\frac", r"\binom", r"\dbinom", r"\tbinom", r"\emptyset", r"\varnothing", r"\begin", r"\lvert", r"\lfloor",
    r"\lceil", *(f"\\{word}" for word in WORDS | DECORATIONS),
})  # fmt: skip
"""Commands that are factors without a sign of multiplication before them."""
RELATIONS = {
    r"\le": "<=", r"\leq": "<=", r"\leqslant": "<=", r"\ge": ">=", r"\geq": ">=", r"\geqslant": ">=", r"\lt": "<",
    r"\gt": ">", r"\ne": "!=", r"\neq": "!=", r"\approx": "~", r"\in": "in",
}  # fmt: skip
SUMS = {"+": "add", "-": "sub"}

# signs
_RELATION = "|".join(re.escape(sign) for sign in RELATIONS)
RELATION = re.compile(rf"[<>]=?|=|(?:{_RELATION})(?![a-zA-Z])")
SUM = re.compile(r"[+-]|\\(?:pm|mp)(?![a-zA-Z])")
PRODUCT = re.compile(r"\*(?!\*)|/|\\(?:cdot|times|div)(?![a-zA-Z])")
TIMES_TEN = re.compile(r" ?x ?(?=10 ?\^)")
POWER = re.compile(r"\^|\*\*")
FACTORIAL = re.compile(r"!(?!!)")
DEGREES = re.compile(f" ?{DEGREE}")
CUP = re.compile(r"\\cup(?![a-zA-Z])")
LETTER_U = re.compile(r"U(?= ?[(\[{\\])")
COMMA, COMMA_OR_SEMICOLON, CLOSING = re.compile(","), re.compile("[,;]"), re.compile(r"[)\]]")
DOTS = re.compile(r"\.\.\.|\\(?:[lc]?dots|dots[cbmio])(?![a-zA-Z])")
BELOW = re.compile("_")
SUBSCRIPT = re.compile(r" ?(?:\{([^{}]*)\}|([0-9]+|[a-zA-Z]))")
PRIMES = re.compile("'+")
APPLIED = re.compile(r"('*)\(")
DECORATED = re.compile(r" ?(?:\{ ?([a-zA-Z]{1,3}) ?\}|([a-zA-Z])(?![a-zA-Z]))")
ENVIRONMENT = re.compile(r" ?\{ ?([a-zA-Z]+) ?\}(?:\{[lcr| ]*\})?")
END_OF_ENVIRONMENT = re.compile(r"\\end ?\{ ?([a-zA-Z]+) ?\}")

# numbers
DIGIT, DIGITS = re.compile("[0-9]"), re.compile("[0-9]+")
_DECIMAL = r"(?:\.[0-9]+|\.(?= ?(?:[,;)\]}&=]|\\\\|$)))?"
_SEPARATED = rf"[0-9]{{1,3}}(?:[{THOUSANDS}%s][0-9]{{3}})+(?![0-9]){_DECIMAL}"
_UNSEPARATED = rf"[0-9]{{1,3}}(?: [0-9]{{3}})+(?![0-9]){_DECIMAL}|[0-9]+{_DECIMAL}|\.[0-9]+"
NUMBER = {c: re.compile(rf"{_SEPARATED % (',' if c else '')}|{_UNSEPARATED}") for c in (False, True)}
"""A number, by whether commas separate its thousands; ``{,}`` and blanks always do."""
REPEATING = re.compile(r"([0-9]*)\.([0-9]*) ?\\(?:overline|bar|dot) ?(?:\{ ?([0-9]+) ?\}|([0-9]))")
POWER_OF_TEN = re.compile(r"[eE]([+-]?[0-9]{1,3})(?![0-9a-zA-Z])")
PART = re.compile(r" ([0-9]+) ?/ ?([0-9]+)(?![0-9])")
FRAC = re.compile(r"\\frac(?![a-zA-Z])")
POINT_OF_DOTS = re.compile(r"\.(?=\.\.\.)")
AMBIGUOUS = re.compile(r"(?<![0-9,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_HALF_DAY = r"([aApP])\.? ?[mM](?![a-zA-Z])\.?"
CLOCK = re.compile(rf"([0-9]{{1,2}}) ?: ?([0-9]{{2}})(?: ?: ?([0-9]{{2}}))? ?(?:{_HALF_DAY})?")
HOUR = re.compile(rf"([0-9]{{1,2}}) ?{_HALF_DAY}")

# words and units
RUN = re.compile(r"[a-zA-Z]+")
CURRENCY, CURRENCY_AFTER = re.compile(rf"([+-]?) ?([{CURRENCIES}]) ?"), re.compile(f"[{CURRENCIES}]")
PERCENT = re.compile(r"\\?%|per ?cent(?![a-zA-Z])")
CELSIUS_OR_FAHRENHEIT = re.compile(r"[CF](?![a-zA-Z])")
TEXT = re.compile(rf"{TEXT_OPEN}([^{TEXT_CLOSE}]*){TEXT_CLOSE}((?: ?\^ ?(?:[23]|\{{ ?[23] ?\}}))?)")
UNIT_WORDS = re.compile(r"[a-zA-Z][a-zA-Z.'/ -]*(?: ?\^ ?(?:[23](?![0-9])|\{ ?[23] ?\}))?")
_NO_NOUN = "|".join(sorted(WORDS | NO_UNIT | {*WORD_NUMBERS, "minimum", "maximum"}))
_NOUN = rf"(?!(?:{_NO_NOUN})(?![a-zA-Z]))[a-zA-Z][a-z]{{2,}}(?![a-zA-Z])"
PROSE = re.compile(
    rf"(?:(?:so|as|on|of|of an?|at an?) {_NOUN}|an? {_NOUN}(?<![a-rt-z]s)|(?:of (?:it|us|my)|at once)(?![a-zA-Z])"
    r"|(?:sq|cu|fl)(?:\. ?| )(?:[a-zA-Z]{2}|[mL](?![a-zA-Z])))"
)
"""Short words after a number that are no factors: ``5 of them``, ``18 a day``, ``12 sq ft``; but not ``2 a plus b``."""
AFTER_UNIT = re.compile(r" ?(?:$|[,;/^)\]])")
REMARK = re.compile(r" \( ?([a-zA-Z][a-zA-Z. '-]*)\)")
END = re.compile(rf"$|[,;=)\]&:}}]|\\[\\}}]|(?:\\end|{_RELATION})(?![a-zA-Z])")
"""What may follow a unit."""
INTRODUCTION = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:(?:the |my )?(?:final |correct )?answer(?: is|:| =| equals)[: ]*"
    r"|(?:either|about|approximately|exactly|only|roughly) )",
    re.IGNORECASE,
)
FIRST_WORDS = re.compile(f"{TEXT_OPEN}([^{TEXT_CLOSE}]*){TEXT_CLOSE}")
OPTION = re.compile(r"\(?([A-Z])\)")
"""The letter of an option, as in ``(A)`` and ``A)``."""
AND = re.compile(r" ?,? (?:and|or) ", re.IGNORECASE)
