"""Reading, overriding, explaining and writing experiment files."""

from __future__ import annotations

import contextlib
import copy
import errno
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from scpl_ray.config import regular
from scpl_ray.config.errors import ConfigError, explain, is_section, shown
from scpl_ray.config.presets import PRESETS, preset_overrides
from scpl_ray.config.schema import FUNCTION_TERM, Experiment
from scpl_ray.config.values import Section

logger = logging.getLogger(__name__)

RETIRED = {
    "generation.prompts_per_chunk": "engines are given sequences as others finish, so generation is not cut by prompts",
}
"""Keys of older versions that no longer say anything, and why: files that still have them are read without them."""
REPLACED = {
    "feedback.function": "feedback.rule",
    "selection.function": "selection.strategy",
    "reward.function": "reward.terms",
}
"""Keys that name a function of the user's own, and the key that says what is used where there is none."""
CONDITION = "task.where"
"""The key whose value has quotes, colons and brackets of its own, which are none of YAML on a command line."""
MAX_BYTES = 1 << 20
MAX_DEPTH = 8


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error and aliases (billion laughs) are refused."""

    def compose_node(self, parent: yaml.nodes.Node | None, index: int) -> yaml.nodes.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases (*name) are not allowed", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.nodes.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not text: quote it", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class Dumper(yaml.SafeDumper):
    """Safe YAML that :class:`_Loader` reads as it was: no aliases, and text that it would take for a number quoted."""

    def ignore_aliases(self, data: object) -> bool:
        """Always: an object that is used twice is written twice."""
        return True


# YAML 1.1 reads 1e-3 as text, but people expect a number
for _side in _Loader, Dumper:
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
    )

_MISREAD = {
    re.compile(r"[-+]?0[0-9_]+$"): "base 8 to YAML 1.1: leave leading zeros out",
    re.compile(r"[^:]+:"): "base 60 to YAML 1.1: write the number meant",
}
"""Numbers that YAML 1.1 reads otherwise than people do: 010 as 8, and 1:30 as 90."""


def _number(loader: _Loader, node: yaml.nodes.ScalarNode) -> Any:
    for form, why in _MISREAD.items():
        if form.match(node.value):
            said = f'''{node.value} is a number in {why}, or quote it: "{node.value}"'''
            also = f""", and on a command line '"{node.value}"'"""
            raise yaml.constructor.ConstructorError(None, None, said + also, node.start_mark)
    if node.tag.endswith(":float"):
        return loader.construct_yaml_float(node)
    value = loader.construct_yaml_int(node)
    if abs(value) >= 1 << 63:
        said = f"a number that begins with {node.value[:9]} has {len(node.value)} digits, more than any key takes"
        raise yaml.constructor.ConstructorError(None, None, f"{said}, or quote it, if it is text", node.start_mark)
    return value


for _kind in "int", "float":
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2024-13-45 is the latter
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply; sections are at most 3 levels deep") from error


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def read(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        ConfigError: the file does not exist, or is no regular file, not text, too large, not YAML, or not a mapping.
    """
    try:
        data = regular.read(os.open(path, os.O_RDONLY | regular.SAFE), path, MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: {_unreadable(path, error)}") from error
    return decode(data, str(path))


def _unreadable(path: Path, error: OSError) -> str:
    if error.errno == errno.EFBIG:
        return f"{path.stat().st_size:,} bytes; a config is at most {MAX_BYTES:,}"
    return f"{error.strerror}; give a YAML file (`scpl init` writes one)"


def decode(data: bytes, where: str) -> dict[str, Any]:
    """The mapping in the content of a YAML file, which is called ``where`` in messages.

    Raises:
        ConfigError: the content is not text, not YAML, or not a mapping.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from error
    value = _parse(text, where)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: holds a {type(value).__name__}; a config is a mapping of sections")
    if _depth(value) > MAX_DEPTH:
        raise ConfigError(f"{where}: nested {_depth(value)} deep; at most {MAX_DEPTH}")
    return value


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``section.key=value`` into the key and its YAML value.

    Raises:
        ConfigError: there is no ``=`` or no key.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"{text!r}: expected key=value, e.g. loop.rounds=3")
    for begin, end, example in ("[", "]", "[a, b]"), ("{", "}", "{a: 1.0}"):
        if value.lstrip().startswith(begin) and value.count(begin) > value.count(end):
            raise ConfigError(f"{key}={value}: the value ends early; quote values with spaces: '{key}={example}'")
    return key, _condition(value) if key == CONDITION else _parse(value, f"{key}={value}")


def _condition(text: str) -> str | None:
    """A condition as it stands, unless the whole of it is one quoted text, or nothing."""
    text = text.strip()
    try:
        read = _parse(text, CONDITION)
    except ConfigError:
        return text
    return read if read is None or (isinstance(read, str) and text[0] in "\"'") else text


def override(key: str, value: Any) -> str:
    """The inverse of :func:`parse_override`."""
    if isinstance(value, str):
        text = f"{key}={value}"
        with contextlib.suppress(ConfigError):
            if parse_override(text) == (key, value):
                return text
    for style in None, '"':
        written = yaml.dump(
            value, Dumper=Dumper, default_style=style, default_flow_style=True, allow_unicode=True, width=1 << 20
        )
        if "'" not in written:  # in a shell a quote inside quotes takes five characters
            break
    return f"{key}={written.removesuffix(chr(10)).removesuffix('...').strip()}"


def _preset_keys(preset: Any) -> Mapping[str, Any]:
    """The keys that a preset sets; none for an unknown preset, which :func:`build` refuses."""
    return PRESETS.get(preset, {}) if isinstance(preset, str) else {}


def dotted(keys: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Keys by dotted name; a section that is given whole stands as the keys that it holds."""
    for key, value in keys:
        if isinstance(value, Mapping) and value and is_section(key, Experiment):
            yield from dotted((f"{key}.{name}", inner) for name, inner in value.items())
        else:
            yield key, value


def _lay(tree: dict[str, Any], keys: Iterable[tuple[str, Any]]) -> None:
    """Set keys by dotted name, in order; those of a preset among them override the tree, but not the given keys.

    A function among them is used instead of what the tree names in its place, unless the keys or the tree say how.
    """
    keys = list(dotted(keys))
    given = dict(keys)
    for replaced in _displaced(tree, given):
        section, name = replaced.split(".")
        del tree[section][name]
    for key, value in [*_preset_keys(given.get("preset")).items(), *keys]:
        _set(tree, key, value)


def _displaced(tree: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a tree names in the place of functions among given keys, by key.

    It stays where a given key sets it or a part of it, and where it is a mapping that names the function itself.
    """
    found = {}
    for key, replaced in REPLACED.items():
        section, name = replaced.split(".")
        inside = tree.get(section)
        if given.get(key) is None or not isinstance(inside, Mapping) or name not in inside:
            continue
        set_too = any(f"{other}.".startswith(f"{replaced}.") for other in given)
        if not set_too and not (isinstance(inside[name], Mapping) and FUNCTION_TERM in inside[name]):
            found[replaced] = inside[name]
    return found


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        child = tree.setdefault(part, {})
        if child is None:
            child = tree[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{key}: {'.'.join(parents[: depth + 1])} is {child!r}, not a section")
        tree = child
    # a section without keys changes none
    if value != {} or not isinstance(tree.get(last), dict) or not is_section(key, Experiment):
        tree[last] = value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with another one on top; mappings in both are merged key by key."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def problems(source: str, lines: Sequence[str]) -> str:
    """Join all errors found in a file into one message."""
    head = f"{source}: {len(lines)} problem{'s' if len(lines) > 1 else ''}"
    return head + "".join(f"\n  {line}" for line in lines)


def _contradictions(tree: Mapping[str, Any]) -> Iterator[str]:
    preset = tree.get("preset")
    for dotted, value in _preset_keys(preset).items():
        name, key = dotted.split(".")
        section = tree.get(name)
        if isinstance(section, Mapping) and section.get(key, value) != value:
            yield (
                f"preset = {preset!r}: {dotted} = {shown(section[key])} is given too; leave one of them out "
                "(the preset by preset=null)"
            )


Conflicts = Callable[[Experiment], Sequence[str]]
"""Returns the conflicts between an experiment's keys, one line each: :func:`scpl_ray.checks.conflicts`."""


def no_conflicts(experiment: Experiment) -> Sequence[str]:
    """Check nothing; for configs that were checked when they were written, such as a run directory's."""
    return ()


def _without_retired(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The mapping without retired keys, each of which is warned of."""
    tree = dict(values)
    for dotted, reason in RETIRED.items():
        name, key = dotted.split(".")
        section = tree.get(name)
        if isinstance(section, Mapping) and key in section:
            logger.warning("%s: %s does nothing any more: %s; leave it out", source, dotted, reason)
            tree[name] = {other: value for other, value in section.items() if other != key}
    return tree


def build(values: Mapping[str, Any], source: str, conflicts: Conflicts = no_conflicts) -> Experiment:
    """Validate a mapping; its preset sets the keys that were not given.

    Raises:
        ConfigError: every conflict, one per line.
    """
    tree = _without_retired(values, source)
    preset = tree.get("preset")
    found = list(_contradictions(tree))
    if isinstance(preset, str):
        below: dict[str, Any] = {}
        try:
            _lay(below, preset_overrides(preset).items())
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from error
        tree = merge(below, tree)
    try:
        experiment = Experiment.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(problems(source, [*found, *explain(error, Experiment, tree)])) from error
    if found := [*found, *conflicts(experiment)]:
        raise ConfigError(problems(source, found))
    return experiment


def overlay(values: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with some keys, by dotted name, set on top; a preset among them also sets its own keys.

    Raises:
        ConfigError: a key lies below something that is not a section.
    """
    tree = copy.deepcopy(dict(values))
    _lay(tree, keys.items())
    return tree


def moved(values: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """A mapping in which files lie elsewhere, by dotted name; unlike in :func:`overlay`, nothing else changes."""
    tree = copy.deepcopy(dict(values))
    for key, place in places.items():
        _set(tree, key, place)
    return tree


def load(
    path: Path | None,
    overrides: Sequence[str] = (),
    conflicts: Conflicts = no_conflicts,
    source: str | None = None,
) -> Experiment:
    """An experiment from a file (``None``: all defaults) and ``key=value`` overrides.

    Args:
        path: a YAML file.
        overrides: keys and values that are laid on top.
        conflicts: further checks.
        source: what a message calls the file, instead of its path.

    Raises:
        ConfigError: a file, an override or a value is wrong; the message says where and what to do.
    """
    values: dict[str, Any] = {}
    source = source or str(path or "the defaults")
    if path is not None:
        values = read(path)
    keys = list(dotted(map(parse_override, overrides)))
    for key, value in _displaced(values, dict(keys)).items():
        if isinstance(value, Mapping):
            logger.warning(
                "%s: %s = %s is not used: %s.function is given and used alone; give %s.%s=WEIGHT too to add it to them",
                *(source, key, value, key.split(".")[0], key, FUNCTION_TERM),
            )
    _lay(values, keys)
    return build(values, f"{source} with {' '.join(overrides)}" if overrides else source, conflicts)


def loads(
    text: str, source: str, keys: Mapping[str, Any] | None = None, conflicts: Conflicts = no_conflicts
) -> Experiment:
    """The inverse of :func:`dump`, with some keys, by dotted name, set on top.

    Raises:
        ConfigError: as :func:`load`.
    """
    return build(overlay(_parse(text, source), keys or {}), source, conflicts)


def dump(section: Section) -> str:
    """The whole config as YAML, in the order of the schema; loading it gives an equal config."""
    return str(yaml.dump(section.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True))


def commented(experiment: Experiment, choices: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """The whole config as YAML, with the meaning of each key above it.

    Args:
        experiment: the values.
        choices: by dotted key, the names that it may be set to and what each means; they are written above the key.
    """
    return "\n".join(_comment(type(experiment), experiment.model_dump(mode="json"), choices or {})) + "\n"


def _comment(
    section: type[Section], values: Mapping[str, Any], choices: Mapping[str, Mapping[str, str]], prefix: str = ""
) -> Iterator[str]:
    pad = "  " * prefix.count(".")
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield f"\n{pad}# {(annotation.__doc__ or '').strip().splitlines()[0]}"
            yield f"{pad}{name}:"
            yield from _comment(annotation, values[name], choices, f"{prefix}{name}.")
            continue
        for line in (field.description or "").split("\n"):
            yield f"{pad}# {line.replace('``', '`')}"
        for choice, meaning in choices.get(prefix + name, {}).items():
            yield f"{pad}#   {choice}: {meaning}"
        text = yaml.dump(values[name], Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=1 << 20)
        yield f"{pad}{name}: {text.removesuffix('...' + chr(10)).rstrip()}"
