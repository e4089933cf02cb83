"""The model card of one policy of a run: what it is, how it was made, what was measured, and what it is not for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from scpl_ray.evaluation.catalogue import CATALOGUE
from scpl_ray.records import Metric
from scpl_ray.report import data, export, text, words
from scpl_ray.report.data import Part
from scpl_ray.storage.run_facts import COMMIT, is_summed_up

FILE = "README.md"
JUDGE = "card.json"
CAVEAT = (
    "It was trained on what a model of its own line had written, to study what that does to the groups that use it. "
    "Biases and errors were let grow on purpose, nothing was done to make it safe or useful, and one seed without a "
    "control supports no claim: do not put it before users."
)


def card(part: Part, round_: int, *, base: str | None, adapter: bool) -> str:
    """A card in Markdown, with the front matter that the Hub reads.

    Args:
        part: the run, as :func:`scpl_ray.report.data.load` reads it.
        round_: the round that trained the policy.
        base: Hub id of the base model; ``None``: it is on no Hub.
        adapter: whether the folder holds a PEFT adapter of it; else a whole model.

    Raises:
        StoreError: the run cannot be read.
    """
    (run,) = part.runs
    e = run.experiment
    front: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["scpl_ray", "self-consuming-loop", e.loop.kind],
    }
    if base is not None:
        front |= {"base_model": base, "base_model_relation": "adapter" if adapter else "finetune"}
    first, now = (run.reader.read(t, "evaluation", "metrics", Metric) for t in (0, round_))
    made = "a PEFT adapter" if adapter else "a whole model"
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        f"# {_plain(e.name)}, round {round_} of {e.loop.rounds}",
        "",
        f"The policy that round {round_} of a self-consuming performative loop (Wang et al., 2026) trained, {made}"
        f"{f' of {_plain(base)}' if base is not None else ''}."
        + ("" if is_summed_up(run.reader.root, e.loop.rounds) else " The run was not finished when this was written."),
        "",
        f"**What it is not for.** {CAVEAT}",
        "",
        "## What was measured",
        "",
        "On held-out prompts, the same in every round; `base model` is round 0.",
        "",
        "| | base model | this policy |",
        "|---|---:|---:|",
        *(f"| {_plain(name)} | {before} | {after} |" for name, before, after in _numbers(first, now)),
        "",
        *_judged(run.reader.text(JUDGE)),
        _plain(words.condition(part)),
        "",
        "## How it was made",
        "",
        _plain(export.stated(part)),
        "",
        "Config keys that differ from the defaults:",
        "",
        "```yaml",
        yaml.safe_dump(_public(e.model_dump(mode="json", exclude_defaults=True)), allow_unicode=True).strip(),
        "```",
        "",
        "Versions: " + ", ".join(f"{_plain(name)} {_plain(version)}" for name, version in sorted(run.versions.items()))
        + (f"; commit {_plain(run.began[COMMIT])}" if COMMIT in run.began else "") + ".",
        "",
        *_weights(run, round_),
        "## References",
        "",
        "```bibtex",
        export.references(part).strip(),
        "```",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _numbers(first: Sequence[Metric], now: Sequence[Metric]) -> Iterator[tuple[str, str, str]]:
    """Name, value of the base model, value of the policy: what reports describe, then shares and quality by group."""
    before = {(row.metric, row.group): row.value for row in first}
    after = {(row.metric, row.group): row.value for row in now}
    shown: list[tuple[str, str | None]] = [(kind.name, None) for kind in CATALOGUE if kind.change]
    shown += [(name, group) for name in ("share", "quality") for metric, group in after if metric == name]
    shown += [key for key in after if key[0].startswith("lm_eval_")]
    for key in shown:
        if key in after:
            yield (
                text.metric_name(*key),
                text.number(before.get(key, math.nan)),
                text.number(after[key]),
            )


def _judged(judge: str | None) -> list[str]:
    if judge is None:
        return []
    return ["Kinds of text were counted by a judge that errs; its card lies in the run beside this policy.", ""]


def _weights(run: data.Run, round_: int) -> list[str]:
    """The checksums by which the files can be told to be those of the run."""
    manifest = run.reader.manifest(round_, "weights")
    found = {name: facts["sha256"] for name, facts in (manifest.files if manifest else {}).items()}
    found = {name: digest for name, digest in found.items() if name.endswith(".safetensors") and "master" not in name}
    if not found:
        return []
    listed = "\n".join(f"- `{name}` {digest}" for name, digest in sorted(found.items()))
    return ["SHA-256 of the weights as the run trained them:", "", listed, ""]


def _public(value: Any) -> Any:
    """Values of a config without the folders of the machine that the run was done on."""
    if isinstance(value, Mapping):
        return {str(key): _public(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_public(inner) for inner in value]
    if isinstance(value, str):
        return text.base_name(value)
    return value


def _plain(said: str) -> str:
    """Text of others on one line, without what Markdown or HTML would act on."""
    shown = " ".join(text.visible(said).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in shown)
