"""A study = one YAML file: a base config, arms, axes and seeds, and the claims that it is to decide.

::

    name: remedy
    base: defaults                        # or a YAML file; keys of `set` apply to every arm
    set: {loop.rounds: 5}
    seeds: 10                             # seeds 0..9 of every arm: arms are compared seed by seed
    arms:
      static: {feedback.rule: static}
      performative: {}
    axes: {loop.kind: [retraining, incremental]}
    claims:
      - name: the performative loop raises preference bias
        metric: preference_log_odds_round0
        contrast: {performative: 1, static: -1}

Every arm is run at every point of the axes' grid with every seed: that is a trial, and its folder is a run directory.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import math
import os
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from scpl_ray.config import Experiment, Names, PositiveInt, Section, errors, loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.values import NAME_BYTES, NAME_RULE, PositiveFloat, names_folder
from scpl_ray.evaluation import catalogue
from scpl_ray.studies import extending, given

DEFAULTS = "defaults"
STUDY_FILE, FAILED_FILE, SEARCH_FILE = "study.yaml", "failed.json", "search.json"
"""In the folder of a study; the second holds reasons by trial folder, the third the best setting of a search."""
NO_SEEDS = "a search has no seeds: it runs every setting once; search.trials says how many, for a new study"
ONE_SEED = (
    "arms are compared seed by seed, at all points with the same; give `seed` once, in `set`, and how many as `seeds`"
)
SAMPLED = "runs/sampled"
"""There the run directories of a search."""
MAX_TRIALS = 100_000
FOLDER_BYTES = 255
SEEDS_END = 2**63
"""A file system takes folders of so many bytes, and a results table seeds below this."""


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _one_arm() -> dict[str, dict[str, Any]]:
    return {"only": {}}


class StudyClaim(Section):
    """Something that the study is to show: a linear contrast of arms, taken seed by seed, lies on one side of 0."""

    name: str
    """What is claimed, in words."""
    question: str = ""
    """Label of the question that it belongs to, e.g. ``a``."""
    metric: str
    """A metric of the results table."""
    group: str | None = None
    """Its group; ``null``: over all groups."""
    contrast: dict[str, float]
    """Weight per arm, summing to 0: ``{treatment: 1, control: -1}``, or a difference of differences."""
    direction: Literal["above 0", "below 0"] = "above 0"
    """The side that is claimed."""
    margin: PositiveFloat | None = None
    """A non-inferiority claim: ``above 0`` with 0.02 claims that the mean lies above -0.02, i.e. that no more
    is lost than you named beforehand. It has the unit of the test: of log-odds that is the share of the kind, and 0.02
    of a share or fraction are two percent points. ``null``: the side itself is claimed."""
    at: Literal["last", "mean"] = "last"
    """The last round, or the mean over rounds 1 to the last."""

    @property
    def span(self) -> float | None:
        """Largest size that the contrast of one seed can have where it is tested in shares or fractions; else ``None``.

        A share since round 0 lies between -1 and 1, so that two arms may differ by 2.
        """
        kind = catalogue.kind_of(self.metric)
        share = None if kind is None else kind.drift_neutral or kind.of_share
        if kind is None or (share is None and not kind.is_fraction):
            return None
        positive = sum(weight for weight in self.contrast.values() if weight > 0)
        return positive * (2.0 if share is not None and share.since_round_0 else 1.0)


class Range(Section):
    """An axis of ``mode: search`` that is sampled between two numbers."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Sampled evenly on the logarithm."""

    @model_validator(mode="after")
    def _check(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low = {self.low}, high = {self.high}: low < high, and low > 0 with log")
        return self


class Search(Section):
    """``mode: search``: one trial after the other looks for the best setting."""

    metric: str
    """Metric of the last round, over all groups, that is optimised."""
    direction: Literal["min", "max"] = "min"
    """Whether it is to be small or large."""
    trials: PositiveInt = 16
    """Settings that are tried."""
    scheduler: Literal["fifo", "asha"] = "asha"
    """``asha`` stops trials that lag behind after the same number of rounds; ``fifo`` runs all to the end."""
    sampler: Literal["random", "optuna"] = "random"
    """``optuna``: its tree-structured Parzen estimator."""

    @model_validator(mode="after")
    def _check(self) -> Search:
        kind = catalogue.kind_of(self.metric)
        if kind is None or not kind.searchable:
            allowed = catalogue.searchable()
            (near,) = difflib.get_close_matches(self.metric, allowed, n=1, cutoff=0.0)
            raise ValueError(
                f"metric = {self.metric!r}: no metric of a round over all groups; the nearest is {near}, of "
                f"{', '.join(allowed)}"
            )
        return self


class Size(Section):
    """The same study with other models."""

    base: str
    """Built-in config or YAML file that all arms start from."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys of all arms at this size, by dotted name; they win over the study's own ``set``."""


class Quick(Section):
    """``--quick``: a first look."""

    seeds: PositiveInt = 3
    """Seeds per arm."""
    arms: Names | None = None
    """Arms that are run; claims on others are left out. ``null``: all."""


class Study(Section):
    """One study."""

    name: str
    """Names its folder."""
    title: str = ""
    """Heading of the report."""
    mode: Literal["engines", "analytic", "search"] = "engines"
    """``engines``: real loops; ``analytic``: no language model; ``search``: real loops of one arm, sampled axes."""
    base: str | dict[str, Any] = DEFAULTS
    """Built-in config or YAML file that all arms start from, or its keys, as the folder of a study keeps them."""
    sizes: dict[str, Size] = Field(default_factory=dict)
    """The study with other models, by name: ``scpl sweep STUDY size=NAME`` takes one."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys of all arms, by dotted name."""
    seeds: PositiveInt = 10
    """Seeds per arm, from the base config's ``seed`` on. Fewer than 6 give intervals and no verdict."""
    interim: Annotated[tuple[int, ...], BeforeValidator(_tuple)] = ()
    """Numbers of seeds at which the study was finished before seeds were added (``scpl sweep --resume DIR seeds=20``).
    Every look has its own chance of a false verdict, and the report says how many there were."""
    vary: Literal["run", "base"] = "run"
    """What differs between seeds: ``run``: queries, answers and training, from one base model; ``base``: also the base
    model, which is trained anew for every seed (``model.base_seed``), so that verdicts hold for such models."""
    arms: dict[str, dict[str, Any]] = Field(default_factory=_one_arm)
    """Keys by arm. Later ones win: base, ``set``, axes, arm."""
    axes: dict[str, Range | Annotated[tuple[Any, ...], BeforeValidator(_tuple)]] = Field(default_factory=dict)
    """Values by key: a grid. In ``mode: search`` one is sampled, from the list or from ``{low: 0.1, high: 2}``."""
    claims: Annotated[tuple[StudyClaim, ...], BeforeValidator(_tuple)] = ()
    """One family: p-values are adjusted over all of them (Holm)."""
    quick: Quick = Quick()
    search: Search | None = None

    @model_validator(mode="after")
    def _check(self) -> Study:
        if not names_folder(self.name):
            raise ValueError(f"name = {self.name!r}: {NAME_RULE}; it names a folder")
        if bad := [arm for arm in self.arms if not names_folder(arm)]:
            raise ValueError(f"arms: {bad[0]!r}: {NAME_RULE}; arms name folders")
        if bad := [arm for arm in self.arms if not names_folder(run_name(self.name, arm))]:
            raise ValueError(f"arms: {bad[0]!r}: name and arm together are longer than {NAME_BYTES} bytes; shorten one")
        if not self.arms:
            raise ValueError("arms = {}: at least one arm is needed")
        for key, values in self.axes.items():
            if values == ():
                raise ValueError(f"axes.{key} = []: at least one value is needed")
            if isinstance(values, Range) and self.mode != "search":
                raise ValueError(f"axes.{key}: a range is sampled, with mode=search; a grid needs a list of values")
        if unknown := sorted(set(self.quick.arms or ()) - set(self.arms)):
            raise ValueError(f"quick.arms: {unknown[0]!r} is no arm; the arms are {', '.join(self.arms)}")
        if (self.mode == "search") != (self.search is not None):
            raise ValueError(f"mode = {self.mode!r}: a section `search` is given with mode=search, and only then")
        if self.mode == "search" and (len(self.arms) > 1 or not self.axes):
            raise ValueError(
                f"mode = 'search': {len(self.arms)} arms, {len(self.axes)} axes; a search needs one arm and at least "
                "one axis"
            )
        if self.mode == "search" and self.seeds != type(self).model_fields["seeds"].default:
            raise ValueError(f"seeds = {self.seeds}: {NO_SEEDS}")
        if self.vary == "base" and self.mode != "engines":
            raise ValueError(f"vary = 'base': mode = {self.mode!r} trains no base model; leave it out, or mode=engines")
        names = [claim.name for claim in self.claims]
        for claim in self.claims:
            if names.count(claim.name) > 1:
                raise ValueError(f"claims: the name {claim.name!r} is given twice")
            if unknown := sorted(set(claim.contrast) - set(self.arms)):
                raise ValueError(
                    f"claims: {claim.name!r} contrasts {unknown[0]!r}, which is no arm; the arms are "
                    f"{', '.join(self.arms)}"
                )
            kind = catalogue.kind_of(claim.metric)
            scale = None if kind is None or kind.drift_neutral is None else kind.drift_neutral.scale
            if claim.margin is not None and scale == "distance":
                raise ValueError(
                    f"claims: {claim.name!r} has margin = {claim.margin}, but {claim.metric} is tested as a distance "
                    "of mean shares; name a margin for preference_log_odds_round0, which is tested in shares"
                )
            if len(claim.contrast) < 2 or abs(sum(claim.contrast.values())) > 1e-9 or not all(claim.contrast.values()):
                raise ValueError(
                    f"claims: {claim.name!r} has weights {claim.contrast}; two or more arms whose weights are not 0 "
                    "and sum to 0, e.g. {treatment: 1, control: -1}"
                )
            if claim.margin is not None and claim.span is not None and claim.margin >= claim.span:
                tested = "difference in the share of the kind" if scale == "share" else "difference of fractions"
                raise ValueError(
                    f"claims: {claim.name!r} has margin = {claim.margin}, but {claim.metric} is tested as a {tested}, "
                    f"which is never further from 0 than {claim.span:g}: it would be true whatever comes out; name a "
                    "smaller margin, e.g. 0.02 for two percent points"
                )
        return self


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a study."""

    arm: str
    cell: tuple[tuple[str, Any], ...]
    """The point on the axes: key and value."""
    seed: int
    experiment: Experiment

    @property
    def label(self) -> str:
        """Arm and point, e.g. ``static loop.kind=retraining``."""
        return arm_label(self.arm, self.cell)

    @property
    def folder(self) -> str:
        """Run directory below the study's folder."""
        return f"{arm_folder(self.label)}/seed-{self.seed:03d}"


def run_name(study: str, arm: str) -> str:
    """The key ``name`` of an arm's runs."""
    return f"{study}-{arm}"


def arm_label(arm: str, cell: Sequence[tuple[str, Any]]) -> str:
    """Name of an arm at a point of the axes."""
    return " ".join([arm, *(f"{key}={value}" for key, value in cell)])


def arm_folder(label: str) -> str:
    """Folder of an arm's run directories below the study's folder."""
    return f"runs/{label.replace(' ', ',').replace('/', '_')}"


def points(study: Study) -> list[tuple[tuple[str, Any], ...]]:
    """The points of the axes' grid, each as keys and values; one empty point without axes, and for a search."""
    if study.mode == "search":
        return [()]
    grid = {key: values for key, values in study.axes.items() if not isinstance(values, Range)}
    return list(itertools.product(*([(key, value) for value in values] for key, values in grid.items())))


def kind(values: Mapping[str, Any]) -> type[Section] | None:
    """Whether a file holds a study or one experiment; ``None`` where its keys do not tell."""
    if "extends" in values:
        return Study
    for schema, other in (Study, Experiment), (Experiment, Study):
        own = [key for key in values if key in schema.model_fields and key not in other.model_fields]
        if not own or any(key in other.model_fields and key not in schema.model_fields for key in values):
            continue
        if not all(errors.near(key, other.model_fields) for key in own):
            return schema
    return None


def load(
    path: Path, configs: Mapping[str, Path], *, quick: bool = False, keys: Mapping[str, Any] | None = None
) -> Study:
    """A study from a file.

    Args:
        path: the YAML file. With ``extends: FILE`` it only holds what is different from the study in FILE, a path from
            its own folder: mappings are merged key by key, ``null`` takes an arm away, and claims about arms that are
            gone go with them.
        configs: built-in configs by name; a base that is no name is a path from the study's folder.
        quick: with the seeds and arms of its section ``quick``, which a search has none of.
        keys: what is different this time: ``name``, ``size`` (a name in ``sizes``), ``seeds``, ``arms`` (a list: the
            others are left out, with the claims about them), and keys by dotted name, for the arms that do not set
            them themselves.

    Raises:
        ConfigError: where and what to do; also of a key that an axis or every arm sets itself.
    """
    values = extending.read(path, {DEFAULTS, *configs})
    if kind(values) is Experiment:
        raise ConfigError(f"{path} is the config of one run; run it with: scpl run {shlex.quote(str(path))}")
    study = _validated(values, str(path))
    if quick and study.search is not None:
        raise ConfigError(f"--quick: {NO_SEEDS}")
    if quick:
        study = _only(study, study.quick.arms or tuple(study.arms)).model_copy(update={"seeds": study.quick.seeds})
    return _changed(study, dict(keys or {}))


def _validated(values: Mapping[str, Any], source: str) -> Study:
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise ConfigError(loading.problems(source, errors.explain(error, Study, values))) from error


def _only(study: Study, arms: Sequence[str]) -> Study:
    """A study with these of its arms, and the claims about them."""
    return study.model_copy(
        update={
            "arms": {arm: keys for arm, keys in study.arms.items() if arm in arms},
            "claims": tuple(claim for claim in study.claims if set(claim.contrast) <= set(arms)),
            "quick": study.quick.model_copy(
                update={"arms": tuple(a for a in study.quick.arms or study.arms if a in arms)}
            ),
        }
    )


def _changed(study: Study, keys: dict[str, Any]) -> Study:
    """A study with what is different this time; see :func:`load`."""
    size = keys.pop("size", None)
    if size is not None:
        if size not in study.sizes:
            has = f"it has {', '.join(study.sizes)}" if study.sizes else "it has one size only"
            raise ConfigError(f"size = {size!r}: no size of study {study.name}; {has}")
        chosen = study.sizes[size]
        study = study.model_copy(
            update={"base": chosen.base, "set": dict(loading.dotted([*study.set.items(), *chosen.set.items()]))}
        )
    arms = keys.pop("arms", None)
    if arms is not None:
        # YAML reads a name of digits as a number
        names = list(map(str, arms)) if isinstance(arms, list) else []
        if not names or set(names) - set(study.arms):
            raise ConfigError(f"arms = {arms}: give a list of arms of study {study.name}: {', '.join(study.arms)}")
        study = _only(study, names)
    own = {key: keys.pop(key) for key in ("name", "seeds") if key in keys}
    if "seeds" in own and study.search is not None:
        raise ConfigError(f"seeds = {own['seeds']}: {NO_SEEDS}")
    if wrong := [key for key in keys if "." not in key and key not in Experiment.model_fields]:
        raise ConfigError(
            f"{wrong[0]}: no key of a study that can be given here; give name, size, seeds, arms, or keys of "
            "runs such as loop.rounds=3"
        )
    together = dict(loading.dotted([*study.set.items(), *keys.items()]))
    ends = {key: (one.low, one.high) if isinstance(one, Range) else one for key, one in study.axes.items()}
    given.check(study.name, keys, together, study.arms, ends)
    values = study.model_dump(mode="json") | own | {"set": together, "sizes": {}}
    return _validated(values, f"study {study.name}")


def trials(
    study: Study, configs: Mapping[str, Path], build: Callable[[Mapping[str, Any], str], Experiment] = loading.build
) -> list[Trial]:
    """Every trial, seed by seed: a study that is stopped early has whole pairs. With ``mode: search``, the base of all.

    Args:
        study: the study.
        configs: built-in configs by name.
        build: makes a checked experiment of keys and of what they are called in messages. Who starts trials gives one
            that knows the engines too.

    Raises:
        ConfigError: an arm's config, or an end or value of an axis, cannot run; the message names it.
    """
    n_points = math.prod(len(values) for values in study.axes.values() if not isinstance(values, Range))
    if study.mode != "search" and n_points * len(study.arms) * study.seeds > MAX_TRIALS:
        raise ConfigError(
            f"{study.name}: {len(study.arms)} arms x {n_points} points x {study.seeds} seeds are more than "
            f"{MAX_TRIALS:,} trials; narrow the axes, or take fewer seeds"
        )
    grid = points(study)
    folders = Counter(arm_folder(arm_label(arm, cell)) for cell in grid for arm in study.arms)
    if twice := [folder for folder, times in folders.items() if times > 1]:
        raise ConfigError(
            f"study {study.name}: two arms or points of the axes have the folder {twice[0]}; give every value once, "
            "and none that differ by / and _ alone"
        )
    longest = max((folder.removeprefix("runs/") for folder in folders), key=lambda name: len(os.fsencode(name)))
    if (length := len(os.fsencode(longest))) > FOLDER_BYTES:
        raise ConfigError(
            f"study {study.name}: {longest[:60]}... would have a folder of {length} bytes; a file system takes "
            f"{FOLDER_BYTES}; shorten the values of the axes, or give them as keys of arms"
        )
    values_of_base = base_values(study, configs)
    built = [
        (arm, cell, build(merged, f"study {study.name}, arm {arm_label(arm, cell)}"))
        for cell in grid
        for arm, keys in study.arms.items()
        for merged in [functools.reduce(loading.overlay, (study.set, dict(cell), keys), values_of_base)]
    ]
    firsts = {experiment.seed: arm_label(arm, cell) for arm, cell, experiment in reversed(built)}
    if len(firsts) > 1:
        told = "; ".join(f"{label} has seed = {seed}" for seed, label in sorted(firsts.items())[:2])
        raise ConfigError(f"study {study.name}: {told}: {ONE_SEED}")
    if study.mode == "search":
        for key, values in study.axes.items():
            for value in (values.low, values.high) if isinstance(values, Range) else values:
                for keys in study.arms.values():
                    tried = functools.reduce(loading.overlay, (study.set, {key: value}, keys), values_of_base)
                    build(tried, f"study {study.name}, axis {key}")
    return [
        Trial(arm, cell, experiment.seed + offset, _of_seed(study, arm, experiment, offset))
        for offset in range(study.seeds)
        for arm, cell, experiment in built
    ]


def _of_seed(study: Study, arm: str, experiment: Experiment, offset: int) -> Experiment:
    """The experiment of one trial.

    Raises:
        ConfigError: the seed is too large; the study varies the base model, and this one is not trained here.
    """
    if experiment.seed + offset >= SEEDS_END:
        raise ConfigError(
            f"study {study.name}: {study.seeds} seeds from seed = {experiment.seed} on: its last seed would be "
            f"{experiment.seed + study.seeds - 1}, and seeds are below 2^63; set a smaller seed"
        )
    own: dict[str, Any] = {"seed": experiment.seed + offset, "name": run_name(study.name, arm)}
    if study.vary == "base":
        model = experiment.model
        if not model.built_here:
            raise ConfigError(
                f"study {study.name}, arm {arm}: vary = 'base' trains a base model per seed, but model.name = "
                f"{model.name!r} is given; set model.name=tiny, or leave vary out"
            )
        own["model"] = model.model_copy(update={"base_seed": model.base_seed + offset})
    return experiment.model_copy(update=own)


def base_values(study: Study, configs: Mapping[str, Path]) -> dict[str, Any]:
    """The base config's own keys."""
    if isinstance(study.base, dict):
        return study.base
    if study.base == DEFAULTS:
        return {}
    return loading.read(configs.get(study.base, Path(study.base)))


def dump(study: Study) -> str:
    """The whole study as YAML; loading it gives an equal study."""
    return loading.dump(study)
