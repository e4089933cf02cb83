"""Splitting text of any script into words."""

from __future__ import annotations

import unicodedata

UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility
    (0x20000, 0x3FFFF),  # Han, further extensions
)
"""Code points of scripts written without spaces between words."""


def unicode_words(text: str) -> list[str]:
    """Words of a text, case-folded and in normal form NFKC.

    A word is a run of letters, marks and numbers of any script. In scripts written without spaces every letter,
    together with its marks, is a separate word.
    """
    words: list[str] = []
    previous = ""
    for char in unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()):
        category = unicodedata.category(char)[0]
        if category not in "LMN":
            previous = ""
            continue
        alone = category != "M" and any(first <= ord(char) <= last for first, last in UNSPACED)
        if previous and (category == "M" or (previous == "word" and not alone)):
            words[-1] += char
        else:
            words.append(char)
            previous = "alone" if alone else "word"
    return words
