"""Hostile input for everything that reads a file: ``python -m tests.campaigns.fuzz --inputs 50000``.

Configs, overrides, studies, run directories, data files and texts of models are made of random
structures and of good files with random edits. Nothing but the declared error types may come out; anything else stops
the campaign with the smallest input that hypothesis finds.
"""

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.configs import CONFIGS
from jobs.driver import experiments
from scpl_ray.config import Experiment, errors, loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.records import Metric
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import PHASES, Store
from scpl_ray.studies import study
from scpl_ray.tasks import rows
from scpl_ray.tasks.maths import answers
from scpl_ray.tasks.maths.reader import LONGEST
from scpl_ray.tasks.maths.verifier import Verifier
from scpl_ray.tasks.rows import DataError

KEYS = [key for key, _, _ in errors.all_keys(Experiment)]
STUDY = (
    "name: s\nset: {loop.rounds: 2}\narms:\n  a: {}\n  b: {feedback.rule: static}\naxes: {loop.kind: [retraining]}\n"
)
STUDY += "claims:\n  - {name: c, metric: m, contrast: {a: 1, b: -1}}\n"
ROWS = '{"query": "q", "a": "x", "b": "y"}\n{"query": "r", "a": "z", "b": ""}\n'
FIELDS = rows.Fields(required=("query", "a"), optional=("b",))

SIGNS = [
    *" \t\n0123456789.,;:-+=<>$\\{}()[]|^_!'*`%°²√½∞πx中\u2009",
    *(r"\boxed{", r"\frac", r"\sqrt", r"\text{", r"\pi", r"\sin ", r"\left(", "answer is ", "The answer is "),
    *("\n#### ", "1,111", "e9"),
]  # fmt: skip
"""What texts of models are made of."""
LONGEST_SECONDS = 0.05
"""Longest time in which a text of 10,000 characters may be searched for an answer."""
VERIFIER = Verifier()

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just(10**400), st.just("\x00")
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=12,
)
trees = st.dictionaries(st.one_of(st.sampled_from(KEYS), st.sampled_from(list(Experiment.model_fields))), values)


def edited(text: str) -> st.SearchStrategy[bytes]:
    """Valid text with random bytes inserted, removed or changed."""
    whole = text.encode()
    edits = st.lists(
        st.tuples(st.integers(0, len(whole)), st.integers(0, 12), st.binary(max_size=12)), min_size=1, max_size=4
    )

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        result = whole
        for at, gone, put in changes:
            result = result[:at] + put + result[at + gone :]
        return result

    return edits.map(apply)


def reads_config(folder: Path, content: bytes) -> None:
    path = folder / "c.yaml"
    path.write_bytes(content)
    try:
        experiments.load(path)
    except ConfigError:
        return


def builds_config(folder: Path, tree: dict[str, Any]) -> None:
    try:
        experiments.build(loading.overlay({}, tree), "fuzz")
    except ConfigError:
        return


def takes_overrides(folder: Path, given_: list[str]) -> None:
    try:
        experiments.load(None, given_)
    except ConfigError:
        return


def reads_study(folder: Path, content: bytes) -> None:
    path = folder / "s.yaml"
    path.write_bytes(content)
    try:
        study.trials(study.load(path, CONFIGS), CONFIGS, experiments.build)
    except ConfigError:
        return


def opens_run(folder: Path, what: tuple[str, bytes]) -> None:
    name, content = what
    run = folder / "run"
    if not run.exists():
        store = Store.create(run, Experiment(), {})
        for phase in ("base", "evaluation"):
            with store.phase(0, phase) as work:
                work.write("metrics", [Metric(0, None, "gap", 0.5)], Metric)
        store.close()
        shutil.copytree(run, folder / "good")
    else:
        for path in sorted((folder / "good").rglob("*")):
            if path.is_file():
                shutil.copyfile(path, run / path.relative_to(folder / "good"))
    (run / name).write_bytes(content)
    try:
        store, _ = Store.open(run)
    except StoreError:
        return
    try:
        for manifest in store.committed():
            assert manifest.phase in PHASES
    finally:
        store.close()


def reads_rows(folder: Path, what: tuple[str, bytes]) -> None:
    suffix, content = what
    path = folder / f"rows{suffix}"
    path.write_bytes(content)
    try:
        rows.load(str(path), {}, FIELDS)
    except DataError:
        return


def finds_answers(folder: Path, what: tuple[list[str], int]) -> None:
    signs, length = what
    text = ("".join(signs) * length)[:length]
    quickest = float("inf")
    for _ in range(3):
        began = time.process_time()
        found = answers.extract(text)
        quickest = min(quickest, time.process_time() - began)
    assert quickest < LONGEST_SECONDS, f"{quickest:.3f} s"
    for answer in (found, text[:LONGEST]):
        if not VERIFIER.compare(r"x^2 + \sqrt{3}", answer).equal and answer:
            VERIFIER.compare(answer, answer)


def manifest_text() -> str:
    facts = {"round": 0, "phase": "evaluation", "seconds": 0.1, "committed_at": 1.0, "facts": {}}
    return json.dumps({**facts, "files": {"metrics.parquet": {"bytes": 1, "sha256": "0" * 64}}})


DEFAULT = yaml.safe_dump(Experiment().model_dump(mode="json"), sort_keys=False)
MANIFEST = "rounds/000/evaluation/manifest.json"
jsons = values.map(lambda value: json.dumps(value, default=str).encode())
TARGETS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Path, Any], None], float]] = {
    "config files": (st.one_of(st.binary(max_size=200), edited(DEFAULT)), reads_config, 0.2),
    "config values": (trees, builds_config, 0.2),
    "overrides": (
        st.lists(
            st.one_of(
                st.text(max_size=30), st.tuples(st.sampled_from(KEYS), values).map(lambda kv: f"{kv[0]}={kv[1]}")
            ),
            max_size=4,
        ),
        takes_overrides,
        0.2,
    ),
    "studies": (st.one_of(st.binary(max_size=200), edited(STUDY)), reads_study, 0.1),
    "run directories": (
        st.one_of(
            st.tuples(st.just(MANIFEST), st.one_of(st.binary(max_size=80), jsons, edited(manifest_text()))),
            st.tuples(st.just("run.json"), st.one_of(st.binary(max_size=80), jsons)),
            st.tuples(st.just("config.yaml"), edited(DEFAULT)),
        ),
        opens_run,
        0.1,
    ),
    "data files": (
        st.one_of(
            st.tuples(st.just(".jsonl"), st.one_of(st.binary(max_size=200), edited(ROWS), jsons)),
            st.tuples(st.just(".csv"), st.one_of(st.binary(max_size=60), edited("query,a,b\nq,x,y\nr,z,\n"))),
        ),
        reads_rows,
        0.1,
    ),
    "texts of models": (
        st.tuples(st.lists(st.sampled_from(SIGNS), min_size=1, max_size=40), st.sampled_from([40, 200, 10_000])),
        finds_answers,
        0.1,
    ),
}
"""For each name, the inputs, the reader, and its share of all inputs."""


def attack(name: str, inputs: int) -> float:
    """Feed this many inputs to a reader; returns the seconds that it took."""
    strategy, check, _ = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:

        @settings(max_examples=inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(strategy)
        def run(value: Any) -> None:
            check(Path(folder), value)

        began = time.monotonic()
        run()
        return time.monotonic() - began


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=50_000)
    asked = parser.parse_args()
    logging.disable()
    for name, (_, _, part) in TARGETS.items():
        count = round(asked.inputs * part)
        print(f"{name}: {count} inputs, no crash, {attack(name, count):.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
