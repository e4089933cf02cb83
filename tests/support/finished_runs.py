"""Runs that were done with fakes, as `scpl run` leaves them."""

from pathlib import Path

from jobs.driver import inputs, run
from scpl_ray.config import Experiment
from scpl_ray.storage.run_directory import Store
from tests.support import fakes
from tests.support.loops import loop


def begun(root: Path, experiment: Experiment) -> Store:
    """A locked run whose base model is committed, with the checksums of its data and models."""
    store = Store.create(root, inputs.anchored(experiment), {})
    with store.phase(0, "base") as phase:
        phase.write_json("base", {})
        phase.write_json(inputs.FILE, inputs.digests(experiment))
    return store


def finished(root: Path, experiment: Experiment) -> Path:
    """A run that has reached its last round."""
    store = begun(root, experiment)
    base = fakes.make_base(root.parent / f"base of {root.name}", len(experiment.groups.names))
    rows = loop(store, experiment, base).run()
    store.finish(rows, run.summary(store, experiment, rows))
    store.close()
    return root
