"""``scpl measure --checkpoints``: models that were trained anywhere, measured as a run measures its policies.

The folder that it writes is one of a run whose rounds are the checkpoints: what reads runs reads it too.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from actors import harness
from actors.engines import registry
from actors.fleet import Fleet
from actors.placement.cluster import local_cluster
from actors.placement.layout import layout
from actors.placement.memory import known_sizes
from jobs.driver import experiments, inputs, own_code, preflight, provenance
from jobs.driver import run as loop
from jobs.driver.ray_session import ADDRESS, check_address
from jobs.terminal.display import closing_table, unheard
from scpl_ray import tasks
from scpl_ray.config import Experiment, Lora, loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.schema import FUNCTION_TERM, MODEL_TERM
from scpl_ray.evaluation import measure
from scpl_ray.held_out import PHASE, HeldOut
from scpl_ray.models import checkpoints as models
from scpl_ray.models.adapters import merge_adapter
from scpl_ray.models.checkpoints import OPTION, Checkpoint
from scpl_ray.protocols import Progress, Task
from scpl_ray.records import Metric, Weights
from scpl_ray.report.text import short_names
from scpl_ray.storage import inside
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import BASE, Store
from scpl_ray.storage.run_facts import CHECKPOINTS, RUN
from scpl_ray.tasks.survey import stated_groups, with_groups, without_groups

CHECKING = "checking the checkpoints, the data and the settings"
MODEL = "model.name"
MERGED = "merged-"
"""How folders of adapters that are merged to be measured begin."""


def measure_checkpoints(
    names: Sequence[str], config: Path | None, overrides: Sequence[str], output: Path | None, *, task_given: bool
) -> int:
    """Measure checkpoints on the held-out prompts of a task, and print what was found.

    Args:
        names: folders of models or of PEFT adapters, or Hub ids; the others are held against the first.
        config: a config, such as a run's own; ``None``: the defaults.
        overrides: ``key=value`` on top of it; ``model.name`` says where the adapters' base model lies.
        output: a new folder, or that of the same measurement, which is continued; ``None``: ``measured/NAME-TIME``.
        task_given: whether ``overrides`` name the task.

    Returns:
        The exit code: 0, 1 or 130.

    Raises:
        ConfigError: no task is given, or a key is wrong.
        ValueError: a checkpoint is missing or unlike the others, or the data cannot be used.
        StoreError: the folder cannot be used.
    """
    if config is None and not task_given:
        raise ConfigError(
            f"{OPTION}: models are measured on the prompts of a task and by its judge: give --task NAME with --data "
            "FILE, or a config (that of a run is RUN_DIR/config.yaml)"
        )
    with unheard(CHECKING):
        given = _experiment(config, overrides)
        keys = dict(map(loading.parse_override, overrides))
        base_given, trust = keys.get(MODEL), given.model.trust_remote_code
        found = models.found(names, given.model.revision, trust_remote_code=trust)
        base = models.base_of(found, base_given, given.model.revision, trust=trust)
        models.check_vocabulary(found, base, trust_remote_code=trust)
        experiment = measured(given, base, found)
        task = _checked(experiment)
        digests = {one.name: one.digests for one in found}
        for one in found:
            same = next(other for other in found if digests[other.name] == digests[one.name])
            if same is not one:
                raise ConfigError(f"{OPTION}: {one.name} holds the same weights as {same.name}; give each model once")
        store = _opened(
            output or Path(f"measured/{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"), experiment, names
        )
        if store.manifest(0, "base") is not None and store.read_json(0, "base", "base") != digests:
            store.close()
            raise StoreError(f"{store.name}: began with other weights in these folders; give another --output")
    return loop.watched(
        store,
        lambda: _run(store, experiment, task, found, base),
        lambda _: f"the same command with --output {shlex.quote(str(store.root))}",
    )


def _experiment(config: Path | None, overrides: Sequence[str]) -> Experiment:
    """The settings; where nothing says what the groups are called, they are all labels of the data."""
    keys = dict(map(loading.parse_override, overrides))
    stated = stated_groups(keys) if config is None else None
    if stated is not None:
        # shares that are given are those of labels that are not known yet
        source = f"the defaults with {' '.join(overrides)}"
        experiment = loading.build(loading.overlay({}, without_groups(keys)), source)
        if kind := _reader(experiment):
            return with_groups(experiment, tuple(kind.survey(experiment, named=False).groups), stated)
    experiment = loading.load(config, overrides)
    _reader(experiment)
    return experiment


def _reader(experiment: Experiment) -> tasks.TaskKind | None:
    """The kind of a task that reads data; ``None``: it reads none.

    Raises:
        ConfigError: it reads data, and none are given.
    """
    kind: tasks.TaskKind | None = tasks.TASKS.get(experiment.task.name)
    if kind is None or kind.surveyor is None:
        return None
    if experiment.task.data is None:
        raise ConfigError(
            f"{OPTION} with task.name = {experiment.task.name!r}: its prompts and its judge come from data; give "
            "--data FILE"
        )
    return kind


def measured(experiment: Experiment, base: Path, checkpoints: Sequence[Checkpoint]) -> Experiment:
    """The experiment by which checkpoints are measured: without what only a loop needs.

    Args:
        experiment: the settings that were given.
        base: the model whose tokenizer and template the prompts are written for.
        checkpoints: what is measured.

    Raises:
        ConfigError: adapters are to be served, and a checkpoint is neither their base model nor one of them, or would
            leave something of itself in that model.
    """
    ranks = [one.rank for one in checkpoints if one.rank]
    if experiment.generation.refresh == "adapter":
        for one in checkpoints:
            if one.base is None and one.folder != base:
                raise ConfigError(
                    f"generation.refresh = 'adapter': serves adapters of one base model, and {one.name} is a whole "
                    "model; leave it at reload, by which adapters are merged first"
                )
            if one.bias != "none":
                raise ConfigError(
                    f"generation.refresh = 'adapter': {one.name} has biases (bias = {one.bias!r}), which take the "
                    "place of the base model's and would stay there when the next checkpoint is measured; leave it at "
                    "reload, by which adapters are merged first"
                )
    terms = {name: weight for name, weight in experiment.reward.terms.items() if name != FUNCTION_TERM}
    keys: dict[str, object] = {
        "preset": None,
        MODEL: str(base),
        "model.revision": None,
        "model.lora": (Lora(rank=max(ranks)) if ranks else Lora()).model_dump(),
        "loop.rounds": len(checkpoints) - 1,
        "loop.on_round": None,
        "training.callback": None,
        "reward.model": None,
        "reward.function": None,
        "reward.terms": terms or {MODEL_TERM: 1.0},
        "tracking.to": None,
        "placement.cluster": None,
    }
    values = experiment.model_dump(mode="json")
    for section in ("feedback", "selection"):
        if values[section]["function"] is not None:
            del values[section]
    return inputs.anchored(experiments.build(loading.overlay(values, keys), experiment.name))


def _checked(experiment: Experiment) -> Task:
    """The task, after everything that can be known before a process starts.

    Raises:
        ValueError: a package is missing, or the data or the machine do not suffice.
    """
    check_address()
    registry.check_installed(experiment)
    harness.check(experiment)
    preflight.check_measured(experiment, on_gpu=loop.gpus_possible())
    task = tasks.TASKS[experiment.task.name].build(experiment)
    preflight.check_sent(task)
    preflight.check_own_prompts(experiment, task)
    task.group_prompts(experiment.evaluation.prompts_per_group)
    task.neutral_prompts(experiment.evaluation.neutral_prompts)
    if not os.environ.get(ADDRESS):
        layout(experiment, local_cluster(), known_sizes(experiment, task))
    return task


def _opened(folder: Path, experiment: Experiment, names: Sequence[str]) -> Store:
    """The folder of this measurement, which is made or continued.

    Raises:
        StoreError: it holds something else.
    """
    began = {**provenance.began(), CHECKPOINTS: [str(name) for name in names]}
    if not (folder / RUN).is_file():
        return Store.create(folder, experiment, loop.versions(), began)
    store, before = Store.open(folder)
    if before != experiment or store.checkpoints != tuple(names):
        store.close()
        raise StoreError(f"{folder}: holds a run, or a measurement of something else; give another --output")
    return store


def _run(store: Store, experiment: Experiment, task: Task, checkpoints: Sequence[Checkpoint], base: Path) -> None:
    names = short_names(store.checkpoints)
    with loop.displayed(store, experiment, task) as display:
        own_code.keep(store, experiment, display.note)
        provenance.keep_versions(store, experiment, loop.versions(), display.note)
        with (
            loop.connected(store.root / "logs/ray", display.note, own_code.luggage([experiment])) as cluster,
            Fleet(store.root, cluster) as fleet,
        ):
            rows = list(rounds(store, experiment, task, checkpoints, base, fleet, display))
        if task.judge_card is not None:
            task.judge_card.save(store.root)
        seconds = loop.seconds_by_round(store, experiment)
        store.finish(
            [row for one in rows for row in one],
            {
                "name": experiment.name,
                "seed": experiment.seed,
                "checkpoints": list(store.checkpoints),
                "seconds": sum(seconds.values()),
                "metrics": [{r.metric: r.value for r in one if r.group is None} for one in rows],
                "versions": loop.versions(),
            },
        )
        table = [(t, one, seconds[t]) for t, one in enumerate(rows)]
        display.console.print(closing_table(table, experiment.groups.names, names))
        if task.judge_card is not None:
            display.note(task.judge_card.summary())
        display.note(
            f"`since round 0` means: since {names[0]}. One model each supports no claim about how it was trained.\n"
            f"the page: scpl report {shlex.quote(str(store.root))}"
        )


def rounds(
    store: Store,
    experiment: Experiment,
    task: Task,
    checkpoints: Sequence[Checkpoint],
    base: Path,
    fleet: Fleet,
    progress: Progress,
) -> Iterator[list[Metric]]:
    """Measure the checkpoints that are not measured yet; yields the metrics of each."""
    generator, scorer, decided = fleet.measuring(inputs.in_its_format(store, experiment), task)
    if store.manifest(0, "base") is None:
        with store.phase(0, "base") as phase:
            phase.write_json("base", {one.name: one.digests for one in checkpoints})
            phase.write_json(inputs.FILE, inputs.digests(experiment))
            phase.write_json(inputs.FORMAT, {inputs.DTYPE: decided.model.dtype})
            phase.facts[BASE] = str(base)
    held_out = HeldOut(experiment, task, generator, scorer, generator.sampling_bound, progress.generated)
    for left in store.root.glob(f"{MERGED}*"):  # by a process that was killed
        inside.remove_below(store.root, left.name)
    with tempfile.TemporaryDirectory(dir=store.root, prefix=MERGED) as scratch:
        first: Weights | None = None
        for t, checkpoint in enumerate(checkpoints):
            if store.manifest(t, PHASE) is None:
                first = first or weights(0, checkpoints[0], base, decided, Path(scratch))
                policy = first if t == 0 else weights(t, checkpoint, base, decided, Path(scratch))
                progress.start(t, PHASE, held_out.answers)
                generator.refresh(policy)
                with store.phase(t, PHASE) as phase:
                    asked = measure.asked(store, t, experiment)
                    before = store.read(0, PHASE, "metrics", Metric) if t else []
                    held_out.measure(phase, first, policy, asked, before)
                manifest = store.manifest(t, PHASE)
                assert manifest is not None
                progress.done(manifest)
                if t:
                    shutil.rmtree(Path(scratch) / str(t), ignore_errors=True)
            rows = store.read(t, PHASE, "metrics", Metric)
            progress.measured(t, rows)
            yield rows


def weights(version: int, checkpoint: Checkpoint, base: Path, experiment: Experiment, scratch: Path) -> Weights:
    """What engines load of a checkpoint; an adapter that is not served as one is merged into its base model first.

    Args:
        version: the number of the checkpoint.
        checkpoint: the model.
        base: the base model of adapters.
        experiment: the config, with ``model.dtype`` decided.
        scratch: existing folder for the merged model.
    """
    if checkpoint.base is None:
        return Weights(version, checkpoint.folder)
    if experiment.generation.refresh == "adapter":
        return Weights(version, base, checkpoint.folder)
    merged, dtype = scratch / str(version), getattr(torch, experiment.model.dtype)
    trust = experiment.model.trust_remote_code
    merge_adapter(base, checkpoint.folder, merged, dtype, trust_remote_code=trust)
    return Weights(version, merged, checkpoint.folder)
