"""``scpl sample``: what the policies of a run write, side by side; by transformers in this process, without Ray."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scpl_ray.config import Experiment, code, loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.records import Completion, Judgement, Query, Weights
from scpl_ray.report.text import cut, short_names, visible
from scpl_ray.storage import consent, retention
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import Reader

if TYPE_CHECKING:  # transformers takes seconds to import
    from actors.engines.base import Engine

KEYS = ("generation.temperature", "generation.top_p", "generation.max_new_tokens", consent.TRUST)
"""Keys that may be changed for a sample."""
ADAPTERS = {"generation.refresh": "adapter"}
"""How policies that are adapters are served: adapters of all rounds stay, merged weights do not (``store.keep``)."""
_WHOLE = 2**20
"""More tokens than any prompt has."""


def sample(
    run_dir: Path,
    rounds: Sequence[int],
    prompts: Iterable[str] | None,
    overrides: Sequence[str],
    console: Console,
    *,
    number: int,
    seed: int,
    raw: bool,
) -> None:
    """Print what policies write.

    Args:
        run_dir: the run; its lock is not taken, and nothing that its config names is imported.
        rounds: the rounds whose policies are asked; empty: the last one, and without prompts also the first.
        prompts: what they are asked; ``None``: their recorded answers to the held-out prompts are shown instead.
        overrides: ``key=value`` of :data:`KEYS`.
        console: where it is printed.
        number: answers per prompt; of recorded ones, prompts per group.
        seed: of the answers; one seed gives the same answers again.
        raw: whether prompts are sent as they are, without the chat template that a model may have.

    Raises:
        StoreError: the folder is no run, a round has no policy or its weights are gone, or code that came with its
            model is not agreed to.
        ConfigError: a key cannot be changed.
        ValueError: a prompt is empty, or a model cannot be read.
    """
    reader, experiment = Reader.open(run_dir)
    evaluated = [t for t in range(experiment.loop.rounds + 1) if reader.manifest(t, "evaluation") is not None]
    if not evaluated:
        raise StoreError(f"{run_dir}: no round was evaluated yet; let the run go on")
    if missing := [t for t in rounds if t not in evaluated]:
        raise StoreError(f"{run_dir}: round {missing[0]} is not there; the run has rounds 0 to {evaluated[-1]}")
    if reader.checkpoints and prompts is not None:
        raise StoreError(f"{run_dir}: holds answers of measured checkpoints, not the models; leave --prompt out")
    if prompts is None:
        _recorded(reader, experiment, list(rounds) or sorted({0, evaluated[-1]}), number, console)
        return
    keys = dict(map(loading.parse_override, overrides))
    if wrong := [key for key in keys if key not in KEYS]:
        raise ConfigError(f"{wrong[0]}: cannot be changed for a sample, only {', '.join(KEYS)}")
    if experiment.model.trust_remote_code:
        stated = {**code.references(experiment), **keys}
        how = f"say so: scpl sample {shlex.quote(str(run_dir))} ... {consent.PLACE}"
        consent.require(reader.facts.get("id"), [experiment], stated, str(run_dir), how)
    served = ADAPTERS if experiment.model.lora is not None else {}
    experiment = loading.build(loading.overlay(experiment.model_dump(mode="json"), {**keys, **served}), str(run_dir))
    _talk(reader, experiment, list(rounds) or [evaluated[-1]], prompts, console, number=number, seed=seed, raw=raw)


def _recorded(reader: Reader, experiment: Experiment, rounds: Sequence[int], number: int, console: Console) -> None:
    """The answers of the evaluation to the first prompts of each group, and to the first neutral ones."""
    prompts = reader.read(rounds[0], "evaluation", "prompts", Query)
    shown: list[Query] = []
    for group in (*experiment.groups.names, None):
        shown += [query for query in prompts if query.group == group][:number]
    columns: dict[str, Mapping[str, str]] = {}
    called = short_names(reader.checkpoints)
    for t in rounds:
        judged = {j.completion_id: j for j in reader.read(t, "evaluation", "judgements", Judgement)}
        answers = reader.read(t, "evaluation", "completions", Completion)
        first = [answer for answer in answers if answer.sample_index == 0]
        name = called[t] if called else _name(t)
        columns[name] = {a.query_id: _with_kind(a.text, judged[a.completion_id].kind) for a in first}
    table = _table("recorded answers to held-out prompts, with the kind that the judge tells", list(columns))
    for query in shown:
        asked = f"{query.group or 'neutral'}: {query.prompt}"
        table.add_row(_safe(asked), *(_safe(answers.get(query.query_id, "")) for answers in columns.values()))
    console.print(table)


def _talk(
    reader: Reader,
    experiment: Experiment,
    rounds: Sequence[int],
    prompts: Iterable[str],
    console: Console,
    *,
    number: int,
    seed: int,
    raw: bool,
) -> None:
    import torch
    import transformers

    from actors.engines.base import EngineSettings, Request
    from actors.engines.transformers import TransformersEngine
    from actors.placement.memory import with_format
    from jobs.driver import inputs
    from scpl_ray.models import precision
    from scpl_ray.models.template import template_of
    from scpl_ray.models.tokens import decode, encode_prompt, load_tokenizer
    from scpl_ray.seeds import derive_seed

    transformers.utils.logging.disable_progress_bar()
    base = reader.base()
    policies = {t: retention.policy_left(reader, experiment, base, t) for t in rounds}
    tokenizer = load_tokenizer(base, trust_remote_code=experiment.model.trust_remote_code)
    template = template_of(tokenizer)
    gpus = float(torch.cuda.is_available())
    experiment = inputs.in_its_format(reader, experiment)
    if gpus:
        dtype, _ = precision.explained_on_gpus([torch.cuda.get_device_capability()])
        experiment = precision.in_format(experiment, dtype)
    settings = EngineSettings.of(with_format(experiment, None, on_gpu=gpus > 0), gpus)
    engine: Engine = TransformersEngine(settings)
    for prompt in prompts:
        if not prompt.strip():
            raise ConfigError("--prompt: empty; a model continues a text")
        sent = template.apply(prompt) if template.is_chat and not raw else prompt
        whole = encode_prompt(tokenizer, sent, _WHOLE)
        ids = whole[: settings.max_prompt_tokens]
        if len(whole) > len(ids):
            said = f"the next prompt has {len(whole)} tokens: its end was cut to task.max_prompt_tokens = {len(ids)}"
            console.print(f"{said}, as in the run", markup=False, highlight=False)
        answers: list[list[str]] = []
        for t in rounds:
            _load(engine, policies[t])
            # the same seeds for every policy: what differs is the policy
            requests = [Request(ids, derive_seed(seed, "sample", prompt, i)) for i in range(number)]
            answers.append([decode(tokenizer, one.token_ids) for one in engine.generate(requests)])
        table = _table(prompt, [_name(t) for t in rounds], asked=False)
        for row in zip(*answers, strict=True):
            table.add_row(*map(_safe, row))
        console.print(table)


def _load(engine: Engine, weights: Weights) -> None:
    if engine.weights != weights:
        engine.check(weights)
        engine.load(weights)


def _table(title: str, rounds: Sequence[str], *, asked: bool = True) -> Table:
    table = Table(title=_safe(title), title_justify="left", show_lines=True)
    for column in (*(["prompt"] if asked else []), *rounds):
        table.add_column(_safe(column), overflow="fold")
    return table


def _name(round_: int) -> str:
    return "round 0 (base model)" if round_ == 0 else f"round {round_}"


def _with_kind(text: str, kind: str | None) -> str:
    return f"{text.strip()}  [{kind or 'no kind'}]"


def _safe(text: Any) -> str:
    """A text that others wrote, without what a terminal or this table would act on."""
    return escape(visible(cut(str(text).strip())).replace("↵\n", "↵ "))
