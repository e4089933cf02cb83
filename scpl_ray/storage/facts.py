"""The facts in a phase's manifest that other parts of the program read, each with its form.

A manifest may come from others, or from a disk that lost a few bytes. Its facts are checked once, where it is read, so
that whoever uses one finds a number where a number is meant, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from scpl_ray.records import Manifest
from scpl_ray.storage.errors import StoreError

Count = Annotated[int, Strict(), Field(ge=0, le=2**53)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e15, le=1e15)]
Amount = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0.0, le=1e15)]
Share = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0.0, le=1.0 + 1e-6)]


class Process(BaseModel):
    """What is read of a process that took part."""

    model_config = ConfigDict(strict=True, extra="allow")
    role: str
    actor_id: str
    restarts: Count


_FORMS: dict[str, Any] = {
    "generation_seconds": Amount,
    "startup_seconds": Amount,
    "step_seconds": Amount,
    "steps": Amount,
    "tokens": Amount,
    "candidates": Annotated[int, Strict(), Field(ge=1, le=2**53)],
    "kept": Count,
    "duplicates": Count,
    "effective_sample_size": Number,
    "shares_before": list[Share],
    "shares_after": list[Share],
    "loss_shares": dict[str, dict[str, Share]],
    "processes": list[Process],
}
FORMS: Mapping[str, TypeAdapter[Any]] = {name: TypeAdapter(form) for name, form in _FORMS.items()}
"""Facts by name; a phase has some of them, and others that nothing reads."""
SHARES: TypeAdapter[dict[str, float]] = TypeAdapter(dict[str, Share])
NEEDED: Mapping[str, tuple[str, ...]] = {
    "selection": ("candidates", "kept", "duplicates", "effective_sample_size", "shares_before", "shares_after"),
}
"""By phase, the facts without which its numbers cannot be told."""


def fault(phase: str, facts: Mapping[str, Any]) -> str | None:
    """What is wrong with the facts of a phase, naming the first odd or missing one; ``None`` if nothing is."""
    for name in NEEDED.get(phase, ()):
        if name not in facts:
            return f"facts: {name} is missing"
    for name, form in FORMS.items():
        if name in facts:
            try:
                form.validate_python(facts[name])
            except ValidationError as error:
                first = error.errors()[0]
                inner = "".join(f"[{part!r}]" for part in first["loc"])
                return f"facts: {name}{inner} = {first['input']!r:.80}: {first['msg'][:200]}"
    return None


def by_group(
    manifest: Manifest, name: str, groups: Sequence[str], run: str, remedy: Callable[[], str]
) -> dict[str, float]:
    """A fact that has one number per group, in the order of the groups.

    Args:
        manifest: the phase's manifest.
        name: the fact.
        groups: names of the groups.
        run: the name of the run, for the message.
        remedy: says what to do where the manifest cannot be restored; see :func:`scpl_ray.storage.redoing.remedy`.

    Raises:
        StoreError: it has another number of them.
    """
    values = manifest.facts[name]
    if len(values) != len(groups):
        raise StoreError(
            f"{run}: the manifest of round {manifest.round} {manifest.phase} has {len(values)} {name}, its config "
            f"{len(groups)} groups ({', '.join(groups)}); restore it, or {remedy()}"
        )
    return dict(zip(groups, values, strict=True))


def shares(value: Any, groups: Sequence[str], where: str) -> dict[str, float]:
    """The shares with which groups ask, as the phase ``queries`` writes them.

    Raises:
        StoreError: this is no mapping from exactly these groups to shares.
    """
    try:
        found: dict[str, float] = SHARES.validate_python(value)
    except ValidationError:
        found = {}
    if set(found) != set(groups):
        raise StoreError(f"{where}: shares = {value!r:.200}; expected one share for each of {', '.join(groups)}")
    return {group: found[group] for group in groups}  # JSON keeps them in another order
