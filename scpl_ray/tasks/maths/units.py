"""Units of measurement: what they measure, and their size, so that one hour equals sixty minutes and no five metres."""

from __future__ import annotations

import re
from fractions import Fraction

_LENGTHS = {
    "mm": ("1/1000", "millimeter millimetre"), "cm": ("1/100", "centimeter centimetre"),
    "m": ("1", "meter metre"), "km": ("1000", "kilometer kilometre"),
    "in": ("0.0254", "inch inches"), "ft": ("0.3048", "foot feet"), "yd": ("0.9144", "yard"),
    "mi": ("1609.344", "mile"),
}  # fmt: skip
_OTHERS = {
    "mass": {"mg": ("1/1000", "milligram"), "g": ("1", "gram"), "kg": ("1000", "kilogram"),
             "oz": ("28.349523125", "ounce"), "lb": ("453.59237", "lbs pound")},
    "volume": {"ml": ("1/1000", "milliliter millilitre mL"), "l": ("1", "liter litre L"),
               "gal": ("3.785411784", "gallon")},
    "time": {"s": ("1", "sec second"), "min": ("60", "mins minute"), "h": ("3600", "hr hrs hour"),
             "day": ("86400", ""), "week": ("604800", "")},
    "US money": {"USD": ("1", "usd dollar buck $"), "cent": ("1/100", "¢")},
    "euros": {"EUR": ("1", "eur euro €")},
    "speed": {"mph": ("1.609344", ""), "kph": ("1", "kmh km/h")},
    "angle": {"degree": ("1", "deg °")}, "temperature in °C": {"°C": ("1", "")}, "temperature in °F": {"°F": ("1", "")},
}  # fmt: skip

Size = tuple[str, Fraction]
"""What a unit measures, and its size in the first unit of that kind."""


def _sizes() -> dict[str, Size]:
    found: dict[str, Size] = {}
    for measures, units in {"length": _LENGTHS, **_OTHERS}.items():
        for short, (size, names) in units.items():
            for name in (short, *names.split()):
                found[name] = found[f"{name}s"] = (measures, Fraction(size))
    for scale, name in (("C", "celsius"), ("F", "fahrenheit")):
        spellings = (name, *(f"{degree} {end}" for degree in ("degree", "degrees") for end in (name, scale.lower())))
        found.update(dict.fromkeys(spellings, found[f"°{scale}"]))
    del found["ins"], found["ss"], found["ms"], found["ls"]
    return found


UNITS = _sizes()
"""The units, by every name that they have; other words after a number are no measure and are not compared."""
ATTACHED = frozenset({
    "mm", "cm", "km", "kg", "mg", "ml", "mL", "ft", "lb", "lbs", "oz", "mph", "kph", "USD", "usd",
})  # fmt: skip
"""Units that may follow a number without a space; other letters there, as in ``2x``, are factors."""
LONE = frozenset("mgslhLA")
"""Single letters that are units after a number and a space; others, as in ``2 x``, are factors."""
_UNSIZED = {
    "A", "W", "N", "J", "V", "KB", "kB", "MB", "GB", "TB", "kW", "MW", "kN", "kJ", "kV", "mV", "mA", "Hz", "kHz", "MHz",
    "GHz", "Pa", "kPa", "nm", "dm", "ha", "pt", "qt", "yr", "yrs", "wk", "wks", "mo", "mos", "pc", "pcs",
}  # fmt: skip
"""Abbreviated units of no known size. None may be a factor of ten: K, M, B."""
_UNIT = "|".join(sorted(_UNSIZED | {name for name in UNITS if re.fullmatch("[a-zA-Z]+", name)} - {"gs", "hs", "Ls"}))
ABBREVIATED = re.compile(
    rf"(.*[0-9}}]) ?(?:\( ?)?((?:{_UNIT})(?: ?\^ ?(?:[23]|\{{ ?[23] ?\}}))?|[A-Z]{{2}} (?!units?$)[a-z]{{3,}})(?: ?\))?"
)
"""A number and its unit, or the letters that are its factors: ``25g``, ``16 GB``, ``5 (m)``; also ``40 TV sets``."""
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
NO_UNIT = frozenset({
    "or", "and", "to", "plus", "minus", "times", "over", "divided", "by", "more", "less", "than", "is", "are", "if",
    "for", "when", "where",
})  # fmt: skip
"""Words that can follow a number without being its unit."""
_POWER = re.compile(r" ?\^ ?\{? ?([23]) ?\}?$")
_AREA = re.compile(r"^(?:square|sq\.?) ?(?=[a-z])")
_VOLUME = re.compile(r"^(?:cubic|cu\.?) ?(?=[a-z])")


def size_of(words: str) -> Size | None:
    """What the words of a unit measure, e.g. ``cm^2``, ``square feet``; ``None`` if they name no measure."""
    name, power = words.strip(" ."), 1
    if match := _POWER.search(name):
        name, power = name[: match.start()], int(match[1])
    elif match := _AREA.search(name):
        name, power = name[match.end() :], 2
    elif match := _VOLUME.search(name):
        name, power = name[match.end() :], 3
    name = name.strip(" .")
    found = UNITS.get(name) or UNITS.get(name.lower())
    if found is None or (power > 1 and found[0] != "length"):
        return None
    measures, size = found
    return (measures if power == 1 else f"{measures}^{power}"), size**power
