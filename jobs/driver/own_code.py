"""Code of the user's own in a run: what is shipped to the workers, kept in the run, and called after a round."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from scpl_ray.config import Experiment, code
from scpl_ray.feedback.rules import RULES
from scpl_ray.own import references, sources
from scpl_ray.own.sources import Luggage
from scpl_ray.protocols import RoundDone
from scpl_ray.selection.strategies import STRATEGIES
from scpl_ray.storage import consent, manifests
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import Reader, Store
from scpl_ray.tasks import TASKS

OnRound = Callable[[RoundDone], object]
"""What is called after every round; what it returns is not used."""
ON_ROUND = "loop.on_round"
ONLY_TOLD = (ON_ROUND, "training.callback")
"""The keys of functions that are told of a run and change no record of it."""

SHOWN = 5
"""Most files that a message names."""


def named(experiment: Experiment) -> dict[str, str]:
    """The functions that a run calls and that are not this project's, by key; those of installed packages too."""
    of_packages = {
        "task.name": TASKS.offered().get(experiment.task.name),
        "feedback.rule": RULES.offered().get(experiment.feedback.rule),
        "selection.strategy": STRATEGIES.offered().get(experiment.selection.strategy),
    }
    return {key: name for key, name in {**of_packages, **code.references(experiment)}.items() if name is not None}


def find_again(identity: object, experiment: Experiment) -> None:
    """Make importable what was in the working directory when the user began a run, who may be elsewhere now."""
    began = consent.folder(identity, experiment)
    if began is not None and str(began) not in sys.path:
        sys.path.append(str(began))


def luggage(experiments: Sequence[Experiment]) -> Luggage:
    """What Ray's workers need of the user's code, for runs whose code was imported in this process.

    Raises:
        ValueError: the code cannot be imported, or two different files have one name.
    """
    found = {name: key for experiment in experiments for key, name in named(experiment).items()}
    for name, key in found.items():
        references.find(name, key)
    return sources.luggage(list(found))


def keep(store: Store, experiment: Experiment, say: Callable[[str], None]) -> None:
    """Keep the sources of the user's code in the run; say which of them have changed since they were kept last.

    Raises:
        StoreError: what was kept cannot be read, or nothing can be written.
    """
    functions = named(experiment)
    if not functions:
        return
    for key, name in functions.items():
        references.find(name, key)
    now, before = sources.kept(functions), store.code
    if before and not sources.changed(before[-1], now):
        return
    from_round = unfinished_round(store, experiment)
    if before:
        what = _listed(sources.changed(before[-1], now))
        say(
            f"changed since this run began: {what} (SHA-256 differs); from round {from_round} on the new source is "
            "used; code.json keeps both"
        )
    store.keep_code([*before, {"from_round": from_round, **now}])


def check_same(run: Reader, experiment: Experiment) -> None:
    """Check that the user's code is that with which a trial of a study has gone on so far.

    Functions of :data:`ONLY_TOLD` may be others.

    Raises:
        StoreError: a source file is another one.
        ValueError: the code cannot be imported.
    """
    functions = {key: name for key, name in named(experiment).items() if key not in ONLY_TOLD}
    if not functions or not (entries := run.code):
        return
    for key, name in functions.items():
        references.find(name, key)
    now = sources.kept(functions)
    # files that only the entry has belong to the other functions, or a file that imported them has changed
    before = {"files": {name: file for name, file in entries[-1]["files"].items() if name in now["files"]}}
    if other := sources.changed(before, now):
        raise StoreError(
            f"{run.name}: {_listed(other)}: not what this trial was made with (SHA-256 differs); trials of one study "
            "run the same code, so put the first one back (code.json there has its text, but for other files of an "
            "installed package than the module that is named), or begin a new study"
        )


def _listed(files: Sequence[str]) -> str:
    """The names of files; those of a package may be many."""
    more = len(files) - SHOWN
    return ", ".join(files[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def unfinished_round(store: Store, experiment: Experiment) -> int:
    """The first round, or measured checkpoint, that is not complete; the last one where all are."""
    last = len(store.checkpoints) - 1 if store.checkpoints else experiment.loop.rounds
    ends = {t: "feedback" if t and not store.checkpoints else "evaluation" for t in range(last + 1)}
    # read as they lie there: a store that shares phases is not asked for one before its turn
    return next((t for t, phase in ends.items() if manifests.read(store.root, t, phase) is None), last)


def on_round(experiment: Experiment) -> Iterator[OnRound]:
    """The function of ``loop.on_round``, if there is one.

    Raises:
        ValueError: it cannot be imported.
    """
    name = experiment.loop.on_round
    if name is not None:
        yield functools.partial(_call, name, references.load(name, ON_ROUND))


def _call(name: str, function: Callable[..., Any], done: RoundDone) -> None:
    references.called(name, ON_ROUND, function, done)
