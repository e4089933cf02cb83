"""Do one round both ways and measure it: a real run of the loop first, then the chain of scripts on its last round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ray import cloudpickle
from rich.table import Table

from actors.engines.base import EngineSettings
from actors.placement.cluster import local_cluster
from actors.placement.layout import layout
from actors.placement.memory import with_format
from jobs.benchmark.peers.comparison import COLUMNS, Comparison, Script, round_seconds
from jobs.benchmark.peers.orders import Order, Setting, orders
from jobs.driver import run
from jobs.driver.machine import kind
from jobs.pages import on_page
from jobs.terminal.display import chatter_to, wide_console
from scpl_ray.config import Experiment
from scpl_ray.config.schema import MODEL_TERM
from scpl_ray.models import precision
from scpl_ray.models.sources import resolve_reward_model
from scpl_ray.protocols import Task
from scpl_ray.storage.files import write_atomically
from scpl_ray.storage.run_directory import Store
from scpl_ray.tasks.bases import base_model

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
LAST_LINES = 5
"""Lines of a script's output that are shown when it failed."""


def peers(experiment: Experiment, size: str, output: Path, page: Path | None) -> None:
    """Run the experiment and the chain, print the table, and write ``peers-SIZE.json`` and ``peers-SIZE.md``.

    Args:
        experiment: what is run; its last round is compared.
        size: name of the table.
        output: folder for the files.
        page: a Markdown page whose part ``peers SIZE`` becomes the table.

    Raises:
        ValueError: the page has no such part, or the experiment cannot be run here.
        RuntimeError: a script of the chain failed.
    """
    output.mkdir(parents=True, exist_ok=True)
    if page is not None:
        on_page(page.read_text(), f"peers {size}", "")
    with tempfile.TemporaryDirectory() as folder, chatter_to(Path(folder) / "output.log") as screen:
        console = wide_console(screen)
        task, _ = run.plan(experiment)
        store = Store.create(Path(folder) / "run", experiment, run.versions())
        console.print(f"{experiment.name}: {experiment.loop.rounds} rounds of the loop; the last one is compared")
        run.run(store, experiment, task)
        setting = _setting(Path(folder), store, experiment, task)
        scripts = []
        for number, order in enumerate(orders(store, experiment, setting)):
            scripts.append(_done(order, Path(folder) / f"script{number}", output))
            console.print(f"{order.what}: {scripts[-1].seconds:.1f} s", markup=False)
        ours, whole = round_seconds(store.committed(), experiment.loop.rounds)
        found = Comparison(
            size=size,
            machine=kind(),
            model=experiment.model.name,
            dtype=setting.dtype,
            round=experiment.loop.rounds,
            scripts=tuple(scripts),
            ours=ours,
            whole=whole,
        )
        store.close()
        console.print(_table(found))
        for sentence in found.sentences():
            console.print(f"the chain takes, {sentence}", markup=False)
        write_atomically(output / f"peers-{size}.json", (json.dumps(found.facts(), indent=1) + "\n").encode())
        write_atomically(output / f"peers-{size}.md", found.markdown().encode())
        console.print(f"{output / f'peers-{size}.json'} and {output / f'peers-{size}.md'} written", markup=False)
        if page is not None:
            write_atomically(page, on_page(page.read_text(), f"peers {size}", found.markdown()).encode())


def _setting(folder: Path, store: Store, experiment: Experiment, task: Task) -> Setting:
    machine = local_cluster()
    placed = layout(experiment, machine)
    experiment = precision.suited(experiment, machine.without_bfloat16)
    experiment = with_format(experiment, task, on_gpu=placed.mode != "cpu")
    (folder / "task.pickle").write_bytes(cloudpickle.dumps(task))
    reward_model = None
    if experiment.reward.terms.get(MODEL_TERM):
        own = store.folder(experiment.loop.rounds, "reward_model")
        reward_model = resolve_reward_model(experiment) if experiment.reward.model is not None else own
    return Setting(
        base=base_model(experiment, task),
        reward_model=reward_model,
        task=folder / "task.pickle",
        tuned=folder / "tuned",
        dtype=EngineSettings.of(experiment, placed.engine.gpus).dtype,
        on_gpu=placed.engine.gpus > 0,
    )


def _done(order: Order, folder: Path, output: Path) -> Script:
    """Run one script of the chain in its own process, with all cores and whatever threads its libraries choose.

    Raises:
        RuntimeError: it failed; all that it said is kept in ``failed.log`` of the output folder.
    """
    folder.mkdir()
    (folder / "order.json").write_text(json.dumps(order.order))
    environment = {name: value for name, value in os.environ.items() if name not in (*run.QUIET, "OMP_NUM_THREADS")}
    module = f"jobs.benchmark.peers.{order.script}"
    began = time.time()
    with (folder / "output.log").open("wb") as log:
        ended = subprocess.run(
            [sys.executable, "-m", module, folder / "order.json", folder / "result.json", str(began)],
            env=environment | OFFLINE,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
    seconds = time.time() - began
    if ended.returncode:
        said = (folder / "output.log").read_text(errors="replace")
        write_atomically(output / "failed.log", said.encode())
        last = "\n".join(said.splitlines()[-LAST_LINES:])
        raise RuntimeError(
            f"{order.what}: {module} ended with exit code {ended.returncode}; its output is in {output / 'failed.log'} "
            f"and ends with:\n{last}"
        )
    parts = json.loads((folder / "result.json").read_text())["seconds"]
    return Script(order.phase, order.script, order.what, order.tokens, seconds, parts)


def _table(found: Comparison) -> Table:
    table = Table(title=found.title(), title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "step" else "right")
    for row in found.rows():
        table.add_row(*row)
    return table
