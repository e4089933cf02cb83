"""Hostile input for everything that reads a file: ``python -m tests.campaigns.fuzz --inputs 50000``.

Configs, overrides, studies, run directories, data files, chat templates and texts of models are made of random
structures and of good files with random edits. In run directories, links and special files take the place of files, and
Parquet metadata are edited. Nothing but the declared error types may come out, nothing outside of a run directory may
change, and a text of 10,000 characters takes less than 50 ms; anything else stops
the campaign with the smallest input that hypothesis finds.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.configs import CONFIGS
from jobs.driver import experiments
from jobs.driver.run import seconds_by_round
from scpl_ray.config import Experiment, Task, errors, loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.credentials import mask
from scpl_ray.models import template
from scpl_ray.records import SCHEMAS, Metric
from scpl_ray.storage import inside, manifests, tables
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import PHASES, Reader, Store
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


def edited(text: str | bytes) -> st.SearchStrategy[bytes]:
    """Valid content with random bytes inserted, removed or changed."""
    whole = text.encode() if isinstance(text, str) else text
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
        manifests.restarts(store.committed())
        seconds_by_round(store, Experiment())
    finally:
        store.close()


def reads_rows(folder: Path, what: tuple[str, bytes]) -> None:
    suffix, content = what
    path = folder / f"rows{suffix}"
    path.write_bytes(content)
    try:
        rows.load(Experiment(task=Task(data=str(path))), FIELDS)
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


PLACES = ("lock", "run.json", "config.yaml", "rounds", "rounds/000", "rounds/000/evaluation", "logs", "tensorboard")
PLACES += (
    "rounds/000/evaluation/manifest.json",
    "rounds/000/base/metrics.parquet",
    "summary.json",
    "rounds/²",
    ".a.tmp",
)


def beside(path: Path) -> Path:
    """The folder that holds the run directory ``run`` of a path and what it may not touch."""
    return next(above.parent for above in path.parents if above.name == "run")


STRANGERS: dict[str, Callable[[Path], None]] = {
    "a link to a file": lambda path: path.symlink_to(
        path.parents[len(path.parts) - 1 - path.parts.index("odd")] / "dear"
    ),
    "a link to a folder": lambda path: path.symlink_to(path.parents[len(path.parts) - 1 - path.parts.index("odd")]),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a FIFO": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
    "a file": lambda path: path.touch(),
}


def meets_strangers(folder: Path, placed: dict[str, str]) -> None:
    """A run directory in which other things stand in some places; what it may not touch stands beside it."""
    opens_run(folder, ("run.json", (folder / "good/run.json").read_bytes() if (folder / "good").exists() else b"{}"))
    odd = folder / "odd"
    shutil.rmtree(odd, ignore_errors=True)
    odd.mkdir()
    (odd / "dear").write_text("dear")
    shutil.copytree(folder / "good", odd / "run")
    for place, what in placed.items():
        try:
            inside.remove_below(odd / "run", place)
            with inside.parent_of(odd / "run", place):
                STRANGERS[what](odd / "run" / place)
        except OSError:
            continue  # it stands below another stranger
    try:
        store, _ = Store.open(odd / "run")
    except StoreError:
        store = None
    if store is not None:
        with contextlib.closing(store), contextlib.suppress(StoreError), store.phase(1, "queries") as work:
            work.write("metrics", [Metric(0, None, "gap", 0.5)], Metric)
    with contextlib.suppress(StoreError):
        Reader(odd / "run").read(0, "evaluation", "metrics", Metric)
    assert (odd / "dear").read_text() == "dear"
    assert sorted(path.name for path in odd.iterdir()) == ["dear", "run"], placed


def parquet_text() -> bytes:
    sink = io.BytesIO()
    rows_ = [{"round": i, "group": None, "metric": "gap", "value": 0.5} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows_, schema=SCHEMAS[Metric]), sink)
    return sink.getvalue()


def reads_table(folder: Path, content: bytes) -> None:
    (folder / "t.parquet").write_bytes(content)
    try:
        assert tables.read_below(folder, "t.parquet", SCHEMAS[Metric]).schema == SCHEMAS[Metric]
    except StoreError:
        return


class Tokenizer:
    """What is read of a tokenizer to render its template."""

    name_or_path = "fuzz"
    special_tokens_map = {"bos_token": "<s>", "eos_token": "</s>"}  # noqa: RUF012

    def __init__(self, chat_template: str) -> None:
        self.chat_template = chat_template

    def get_chat_template(self) -> str:
        return self.chat_template


def renders(folder: Path, text: str) -> None:
    try:
        template.template_of(Tokenizer(text))  # type: ignore[arg-type]
    except ValueError as error:
        assert "chat template" in str(error)


def masks(folder: Path, parts: list[tuple[str, int]]) -> None:
    text = "".join(part * times for part, times in parts)[:LOGGED_CHARACTERS]
    quickest = float("inf")
    for _ in range(3):
        began = time.process_time()
        hidden = mask(text)
        quickest = min(quickest, time.process_time() - began)
    assert quickest < LOGGED_SECONDS, f"{quickest:.3f} s"
    assert mask(hidden) == hidden


LOGGED_CHARACTERS, LOGGED_SECONDS = 10_000, 0.05
"""Longest time in which credentials are looked for in a text of this length, as a model may have written it."""
LOGGED_PARTS = (
    "hf_",
    "sk-",
    "://",
    "@",
    "token=",
    "password: ",
    "Bearer ",
    "basic ",
    "eyJ",
    "-----BEGIN PRIVATE KEY-----",
)
LOGGED_PARTS += ("--", "a", "A", "1", ".", "-", "_", "=", ":", "'", '"', "\\", "?", "&", " ", "\n", "é", "x=y ")
TEMPLATE_PARTS = (
    "{% for i in range(99999) %}",
    "{% endfor %}",
    "{{ messages[0]['content'] }}",
    "{{ 'x' * 10 ** 9 }}",
    "{{",
)
TEMPLATE_PARTS += (
    "{% if x %}",
    "{% endif %}",
    "{{ 1 // 0 }}",
    "{{ messages.__class__ }}",
    "}}",
    "{% generation %}",
    "text",
)


def manifest_text() -> str:
    facts = {"round": 0, "phase": "evaluation", "seconds": 0.1, "committed_at": 1.0, "facts": {}}
    return json.dumps({**facts, "files": {"metrics.parquet": {"bytes": 1, "sha256": "0" * 64}}})


def parquet() -> bytes:
    """A file with the columns that are read and one that must not be."""
    file = io.BytesIO()
    image = [{"bytes": None, "path": "http://127.0.0.1:9/x.png"}] * 2
    pq.write_table(pa.table({"query": ["q", "r"], "a": ["x", "z"], "b": ["y", None], "image": image}), file)
    return file.getvalue()


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
            st.tuples(st.just(".parquet"), edited(parquet())),
        ),
        reads_rows,
        0.1,
    ),
    "Parquet metadata": (st.one_of(edited(parquet_text()), st.binary(max_size=60)), reads_table, 0.1),
    "texts in logs": (
        st.lists(st.tuples(st.sampled_from(LOGGED_PARTS), st.integers(1, LOGGED_CHARACTERS)), min_size=1, max_size=6),
        masks,
        0.1,
    ),
    "texts of models": (
        st.tuples(st.lists(st.sampled_from(SIGNS), min_size=1, max_size=40), st.sampled_from([40, 200, 10_000])),
        finds_answers,
        0.1,
    ),
}
"""For each name, the inputs, the reader, and its share of all inputs."""
SLOW_TARGETS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Path, Any], None], float]] = {
    "links and special files": (
        st.dictionaries(st.sampled_from(PLACES), st.sampled_from(sorted(STRANGERS)), min_size=1, max_size=3),
        meets_strangers,
        0.02,
    ),
    "chat templates": (
        st.lists(st.one_of(st.sampled_from(TEMPLATE_PARTS), st.text(max_size=8)), max_size=6).map("".join),
        renders,
        0.002,
    ),
}
"""The same for readers that take a good part of a second for each input."""


def attack(name: str, inputs: int) -> float:
    """Feed this many inputs to a reader; returns the seconds that it took."""
    strategy, check, _ = (TARGETS | SLOW_TARGETS)[name]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:

        @settings(
            max_examples=inputs,
            deadline=None,
            database=None,
            derandomize=inputs < 1_000,
            suppress_health_check=list(HealthCheck),
        )
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
    for name, (_, _, part) in (TARGETS | SLOW_TARGETS).items():
        count = round(asked.inputs * part)
        print(f"{name}: {count} inputs, no crash, {attack(name, count):.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
