"""Gold answers that choose among options: the letter of one, or yes or no, after which an answer may explain itself."""

from __future__ import annotations

import re

from scpl_ray.tasks.maths.notation import TEXT_CLOSE, TEXT_OPEN

LETTER = re.compile(r"\(?([A-Ja-e])\)?")
"""A gold answer that is the letter of an option. Others are letters of formulas more often."""
OPTION = re.compile(
    r"(?:\(([A-Za-z])\)[.:]?|([A-Za-z])[).:])(?:(?:\*\*)? |(?=[0-9]))"
    r"(?!(?:and|or) |[-+] |[*/^=<>&,|(])(.{2,}|[^A-Za-z])"
)
"""A marked letter and what the option says, as in ``(B) 14``; but not ``(A) and (B)``, ``(a) + 2``, ``A: B``."""
SECOND = re.compile(r"(?<![A-Za-z])[A-Z]\)")
"""Another option's letter."""
WORD = re.compile(r"[AI] [a-z]")
"""A letter that is a word of a sentence: ``A man walks``."""
TRUTHS = ("yes", "no", "true", "false")
TRUTH = re.compile(rf"({'|'.join(TRUTHS)})(?:\*\*)? ?(?:[,;:.!?(\u2014]|- )", re.IGNORECASE)
"""Yes or no before punctuation."""


def told(gold: str, answer: str) -> bool | None:
    """Whether an answer chooses the gold option and explains it; ``None``: it is to be compared as any other answer.

    Args:
        gold: the gold answer, as :func:`scpl_ray.tasks.maths.reader.read` writes it.
        answer: the answer, likewise.
    """
    answer = answer.replace(TEXT_OPEN, "").replace(TEXT_CLOSE, "")
    if letter := LETTER.fullmatch(gold):
        if WORD.match(answer):
            return False
        option = OPTION.fullmatch(answer)
        return None if option is None or SECOND.search(option[3]) else letter[1] == (option[1] or option[2])
    if gold.casefold() in TRUTHS and (truth := TRUTH.match(answer)):
        return truth[1].casefold() == gold.casefold()
    return None
