"""Pydantic's validation errors, reworded in terms of YAML: what was given, where, and what is allowed."""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Iterable, Iterator, Mapping
from types import NoneType
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from scpl_ray.config.values import Section


class ConfigError(ValueError):
    """A config that cannot run. The message lists every conflict: what was given, where, and what to do."""


def all_keys(section: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section], str]]:
    """Every key of a schema: dotted name, the section class that declares it, and its field name."""
    for name, field in section.model_fields.items():
        inner = list(_sections(field.annotation))
        if inner != [field.annotation]:
            yield f"{prefix}{name}", section, name
        for each in inner:
            yield from all_keys(each, f"{prefix}{name}.")


def is_section(key: str, schema: type[Section]) -> bool:
    """Whether a dotted name is that of a section of a schema."""
    _, field = _declared(tuple(key.split(".")), schema)
    return field is not None and any(_sections(field.annotation))


def near(key: str, keys: Iterable[str]) -> str | None:
    """The key that is most likely meant; ``None``: no key is similar."""
    return next(iter(difflib.get_close_matches(key, keys, n=1, cutoff=0.6)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: ``; the nearest is ...``, or nothing where none is like it.

    >>> nearest("nws_tiny", ["news_tiny", "maths_tiny"])
    '; the nearest is news_tiny'
    """
    found = near(name, known)
    return f"; the nearest is {found}" if found is not None else ""


def explain(error: ValidationError, schema: type[Section], given: Mapping[str, Any]) -> list[str]:
    """Pydantic's validation errors for a mapping, one per key, each as ``key = value: rule``."""
    found: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for item in error.errors():
        found.setdefault(_path(item, given), []).append(item)
    # for a value of a union type, keep only the errors inside the member type that it looks like
    outer = {path[:depth] for path in found for depth in range(1, len(path))}
    return [_line(path, items, schema) for path, items in found.items() if path not in outer]


def shown(value: Any) -> str:
    """A value as messages show it: as Python writes it, but with YAML's words for constants."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _path(item: ErrorDetails, given: Any) -> tuple[str, ...]:
    """The path of keys to the wrong value, without the names of union branches that pydantic puts into it."""
    path: list[str] = []
    for part in item["loc"]:
        inside = part in given if isinstance(given, Mapping) else isinstance(given, list) and isinstance(part, int)
        if inside:
            given = given[part]
        elif item["type"] != "missing" or part != item["loc"][-1]:
            continue
        path.append(str(part))
    return tuple(path)


def _line(path: tuple[str, ...], items: list[ErrorDetails], schema: type[Section]) -> str:
    key = ".".join(path)
    section, field = _declared(path, schema)
    for item in items:
        if item["type"] == "missing":
            return f"{key}: missing; give it"
        if item["type"] == "extra_forbidden":
            dotted = "." in path[-1]  # only in a file: on a command line a dot leads into a section
            meant = _written(key, item["input"], schema) if dotted else _meant(path, section, schema)
            return f"{key}: unknown key; {meant}"
        if item["type"] == "value_error":
            message = str(item["ctx"]["error"])
            return f"{key}.{message}" if key else message
    if {item["type"] for item in items} == {"tuple_type", "model_type"} and (one := items[0]["input"]) is not None:
        inside = ", ".join(section.model_fields)
        return f"{key} = {shown(one)}: input should be a list such as {_flow([one])}, or a mapping with {inside}"
    rules = [_rule(key, item, section, field) for item in items]
    rule = ", or ".join([rules[0], *(other.removeprefix("input should be ") for other in rules[1:])])
    value = items[0]["input"]
    if value is None:
        return f"{key}: no value given; {rule.removeprefix('is a section; ')}"
    return f"{key} = {shown(value)}: {rule}"


def _meant(path: tuple[str, ...], section: type[Section], schema: type[Section]) -> str:
    *parents, last = path
    everywhere = [key for key, _, _ in all_keys(schema)]
    tails = {key.rsplit(".", 1)[-1]: key for key in sorted(everywhere, reverse=True)}
    if last in tails:
        return f"the nearest is {tails[last]}"
    if sibling := near(last, section.model_fields):
        return f"the nearest is {'.'.join([*parents, sibling])}"
    if other := near(last, tails):
        return f"the nearest is {tails[other]}"
    return f"none is like it; there are {', '.join(section.model_fields)}"


def _written(key: str, value: Any, schema: type[Section]) -> str:
    """How a file says a dotted key, with the sections that its dots stand for."""
    meant = key
    if not _leads_to_a_value(key, schema):
        found = near(key, (name for name, _, _ in all_keys(schema)))
        if found is None:
            return "a file holds sections, not dots; no key is like it"
        meant = found
    nested = value
    for part in reversed(meant.split(".")):
        nested = {part: nested}
    nearest_is = f"the nearest is {meant}; " if meant != key else ""
    return f"{nearest_is}a file holds sections, not dots; write {_flow(nested)[1:-1]}"


def _leads_to_a_value(key: str, schema: type[Section]) -> bool:
    """Whether a dotted name is that of a key, or of a place in a free mapping."""
    names = {name for name, _, _ in all_keys(schema)}
    above = key.rpartition(".")[0]
    _, field = _declared(tuple(above.split(".")), schema)
    mapping = field is not None and any(get_origin(part) is dict for part in _parts(field.annotation))
    return key in names or (above in names and mapping)


def _rule(key: str, item: ErrorDetails, section: type[Section], field: FieldInfo | None) -> str:
    """The rule that is broken, in words; ``section`` and ``field`` are what the schema declares there."""
    annotation = None if field is None else field.annotation
    default = None if field is None or field.is_required() else field.get_default(call_default_factory=True)
    if item["type"] == "tuple_type":
        if isinstance(default, tuple) and default:
            return f"input should be a list such as {_flow(list(default))}"
        if annotation is not None and any(_sections(annotation)):
            return f"input should be a list of sections with {', '.join(section.model_fields)}"
        return f"input should be a list such as {'[0.5, 0.5]' if float in _parts(annotation) else '[a, b]'}"
    if item["type"] == "dict_type":
        example = default if isinstance(default, dict) and default else {"key": "value"}
        return f"input should be a mapping such as {_flow(example)}"
    if item["type"] == "model_type":
        null = ", or null" if NoneType in _parts(annotation) else ""
        if null and isinstance(default, Section):
            return f"input should be a mapping such as {_flow(default.model_dump())}{null}"
        return f"is a section; set {', '.join(f'{key}.{name}' for name in section.model_fields)}{null}"
    said = f"{item['msg'][0].lower()}{item['msg'][1:]}"
    return said + (_quoted(key, item["input"]) if item["type"] == "string_type" else "")


def _quoted(key: str, value: Any) -> str:
    """What to do where YAML read a word as something else than text; what was written is not known any more."""
    if not isinstance(value, bool | int | float | datetime.date):
        return ""
    why = "YAML reads yes, no, on, off, true and false as truth values: " if isinstance(value, bool) else ""
    above, _, place = key.rpartition(".")
    override = f'{above}=["...", ...]' if place.isdigit() else f'{key}="..."'
    # the shell takes the outer quotes
    return f"; {why}quote it as it was written: \"...\", and on a command line '{override}'"


def _declared(path: tuple[str, ...], schema: type[Section]) -> tuple[type[Section], FieldInfo | None]:
    """The innermost section down to a key, and the key's field; ``None`` for a place in a list or a free mapping."""
    section, field = schema, None
    for part in path:
        field = section.model_fields.get(part)
        section = next(_sections(field.annotation), section) if field is not None else section
    return section, field


def _parts(annotation: Any) -> Iterator[Any]:
    """A type and all types of which it is composed."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _sections(annotation: Any) -> Iterator[type[Section]]:
    return (part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, Section))


def _flow(value: Any) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1 << 20)).strip()
