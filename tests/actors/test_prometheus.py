"""What operators see: the gauges and counters of a run, and the restarts of its processes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from actors.pool import last_words
from actors.prometheus import WatchedProgress, label
from jobs.terminal.display import restarts_line
from scpl_ray.records import Completion, Manifest, Metric
from scpl_ray.storage.manifests import restarts
from scpl_ray.storage.run_directory import Store
from tests.support import fakes
from tests.support.loops import Silent, loop, small


class Registry:
    """Gauges and counters as Ray's: values by name and labels, and every value that was ever set."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}
        self.history: dict[tuple[str, ...], list[float]] = {}
        self.labels: dict[str, tuple[str, ...]] = {}

    def metric(self, name: str, description: str, labels: tuple[str, ...]) -> "Registered":
        assert description.endswith(".") and labels[0] == "run"
        self.labels[name] = labels
        return Registered(self, name)


class Registered:
    def __init__(self, registry: Registry, name: str) -> None:
        self.registry, self.name = registry, name

    def _key(self, tags: Mapping[str, str]) -> tuple[str, ...]:
        assert set(tags) <= set(self.registry.labels[self.name]) and tags["run"] == "a run"
        return (self.name, *(value for label, value in tags.items() if label != "run"))

    def set(self, value: float, tags: Mapping[str, str]) -> None:
        self.registry.values[self._key(tags)] = value
        self.registry.history.setdefault(self._key(tags), []).append(value)

    def inc(self, value: float, tags: Mapping[str, str]) -> None:
        assert value > 0
        self.registry.values[self._key(tags)] = self.registry.values.get(self._key(tags), 0) + value


def watched(registry: Registry, queues: Mapping[str, int]) -> WatchedProgress:
    return WatchedProgress(Silent(), "a run", lambda: queues, gauge=registry.metric, counter=registry.metric)


def test_a_run_sets_every_gauge_and_counter(tmp_path: Path) -> None:
    experiment = small("selection.strategy=tpp", "selection.keep_fraction=0.25")
    registry = Registry()
    progress = watched(registry, {"engine": 3, "scorer": 0})
    store = Store.create(tmp_path / "run", experiment, {})
    rows = loop(store, experiment, fakes.make_base(tmp_path / "base", 2), progress=progress).run()
    store.close()
    seen = registry.values
    assert seen["scpl_round",] == 3 and registry.history["scpl_round",][0] == 0
    # 4 evaluations of 2 x 12 + 30 prompts, 3 rounds of 40 x 4; a fake completion is one token
    assert seen["scpl_completions",] == seen["scpl_tokens",] == 4 * 54 + 3 * 160
    assert registry.history["scpl_phase", "evaluation"] == [1, 0] * 4
    assert registry.history["scpl_phase", "reward_model"] == [1, 0] * 3
    speeds = registry.history["scpl_tokens_per_second",]
    assert max(speeds) > 0 and speeds.count(0) == 4 + 3 and speeds[-1] == 0
    assert (seen["scpl_queue_depth", "engine"], seen["scpl_queue_depth", "scorer"]) == (3, 0)
    assert seen["scpl_accepted_fraction",] == 0.25
    for name, metric, group in (
        ("scpl_share", "share", "south"),
        ("scpl_preference_log_odds", "preference_log_odds_balanced", None),
        ("scpl_disparate_gap", "disparate_gap", None),
    ):
        (last,) = [r.value for r in rows if (r.round, r.metric, r.group) == (3, metric, group)]
        assert seen[(name,) if group is None else (name, group)] == last
    assert {role: seen["scpl_restarts", role] for role in ("engine", "scorer", "training worker")} == {
        "engine": 0,
        "scorer": 0,
        "training worker": 0,
    }
    assert {name for name, *_ in seen} == registry.labels.keys()


def test_speed_and_what_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    progress = watched(registry, {})
    now = 100.0
    monkeypatch.setattr("actors.prometheus.time.monotonic", lambda: now)
    progress.start(1, "completions", 2)
    completion = Completion("q-s0", "q", 0, 0, 1, (9,), (1, 2, 3), "text", "stop")
    now = 102.0
    progress.generated("completions", [completion] * 4)
    assert registry.values["scpl_tokens_per_second",] == 6.0
    progress.generated("completions", [])
    assert registry.values["scpl_completions",] == 4
    progress.done(Manifest(1, "completions", 2.5, 0.0, {}, {}))
    assert registry.values["scpl_tokens_per_second",] == 0
    assert registry.values["scpl_phase_seconds", "completions"] == 2.5
    progress.measured(1, [Metric(1, None, "disparate_gap", float("nan"))])
    assert ("scpl_disparate_gap",) not in registry.values


class AsciiOnly:
    """A gauge or counter that takes labels as Ray does."""

    def __init__(self, seen: list[dict[str, str]]) -> None:
        self.seen = seen

    def set(self, value: float, tags: Mapping[str, str]) -> None:
        for text in tags.values():
            text.encode("ascii")
        self.seen.append(dict(tags))

    inc = set


@pytest.mark.parametrize("run", ["runs/étude", "runs/é 1", "studies/左派", "runs/50%", "runs/\udce9"])
@pytest.mark.parametrize("group", ["süd", "左派", "जनता", "left (US)", 'a"b\\c', "العربية"])
def test_names_in_any_script_become_labels_that_ray_takes(run: str, group: str) -> None:
    seen: list[dict[str, str]] = []
    progress = WatchedProgress(
        Silent(), run, lambda: {}, gauge=lambda *_: AsciiOnly(seen), counter=lambda *_: AsciiOnly(seen)
    )
    progress.measured(1, [Metric(1, group, "share", 0.5)])
    (tags,) = [tags for tags in seen if "group" in tags]
    assert urllib.parse.unquote(tags["run"], errors="surrogatepass") == run
    assert urllib.parse.unquote(tags["group"]) == group
    assert label("north") == "north" and label("new york (US)") == "new york (US)" and label("süd") == "s%C3%BCd"


def test_whatever_an_exporter_raises_is_logged_once_and_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def set(self, *_: object) -> None:
            raise RuntimeError("no agent")

        inc = set

    def broken(*_: object) -> Broken:
        raise TypeError("no such metric")

    for make in (broken, lambda *_: Broken()):
        caplog.clear()
        shown = Silent()
        progress = WatchedProgress(shown, "a run", lambda: {"engine": 1}, gauge=make, counter=make)
        for round_ in (1, 2):
            progress.start(round_, "queries", 0)
            progress.generated("queries", [Completion("q-s0", "q", 0, 0, 1, (9,), (1,), "text", "stop")])
            progress.done(Manifest(round_, "queries", 1.0, 0.0, {}, {}))
        assert shown.phases == [(1, "queries"), (2, "queries")]
        assert caplog.text.count("metrics are not exported to Prometheus from now on: no ") == 1


def committed(role: str, actor: str, count: int) -> Manifest:
    return Manifest(1, "weights", 1.0, 0.0, {}, {"processes": [{"role": role, "actor_id": actor, "restarts": count}]})


def test_restarts_add_up_over_rounds_resumed_sessions_and_replaced_workers() -> None:
    manifests = [
        Manifest(1, "queries", 1.0, 0.0, {}, {}),
        committed("engine", "a", 0),
        committed("engine", "a", 2),
        committed("engine", "b", 0),
        committed("engine", "a", 2),
        committed("engine", "of the resumed run", 1),
        committed("scorer", "c", 0),
        committed("training worker", "d", 1),
        committed("training worker", "e", 0),
    ]
    assert restarts(manifests) == {"engine": 3, "scorer": 0, "training worker": 1}
    assert restarts_line(restarts(manifests)) == "restarts: engine 3, training worker 1; why is in logs/driver.log"
    assert restarts_line(restarts(manifests[-3:-2])) == restarts_line({}) == "restarts: none"


def test_last_words_are_those_of_the_process_that_died() -> None:
    def stamped(text: str) -> str:
        return f"2026-01-01 00:00:00,000 {text}"

    first = [stamped("INFO actors.pool: process 1 started"), stamped("ERROR x: of the first")]
    second = [
        stamped("INFO actors.pool: process 2 started"),
        stamped("WARNING x: slow"),
        stamped("CRITICAL actors.pool: the engine failed; process 2 ends"),
        "Traceback (most recent call last):",
        "RuntimeError: out of blocks",
    ]
    third = [stamped("INFO actors.pool: process 3 started"), stamped("ERROR x: of the living")]
    assert last_words([*first, *second, *third]).splitlines() == second[2:]
    assert last_words([*first, *third]).splitlines() == first[1:]
    assert last_words([second[0], second[1], *third]) == ""
    assert last_words([]) == ""


HEAD = """
import sys
from ray.scripts.scripts import main
from actors.local_ray import on_loopback
sys.argv = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=1", "--disable-usage-stats",
    "--include-dashboard=false", "--object-store-memory=80000000", *sys.argv[1:]]
with on_loopback():
    main()
"""
DRIVER = """
import sys
import ray
from actors.prometheus import WatchedProgress
from actors.local_ray import on_loopback
from scpl_ray.records import Completion, Metric
from tests.support.loops import Silent
with on_loopback():
    ray.init(address=sys.argv[1], log_to_driver=False)
for name in ("runs/one", "runs/two"):
    progress = WatchedProgress(Silent(), name, lambda: {"engine": 2})
    progress.start(3, "completions", 2)
    progress.generated("completions", [Completion("q-s0", "q", 0, 0, 1, (9,), (1, 2, 3), "text", "stop")] * 2)
    progress.measured(3, [Metric(3, "north", "share", 0.75)])
sys.stdin.read()
"""


@pytest.fixture
def environment() -> dict[str, str]:
    """Of a cluster with a token of its own and all that connect to it."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(16).hex()}
    return os.environ | token | {"RAY_metrics_report_interval_ms": "500"}


@pytest.fixture
def cluster(environment: dict[str, str]) -> Iterator[tuple[str, int]]:
    """A cluster of its own: its address, and the port of its metrics."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, metrics_port = one.getsockname()[1], two.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the paths of Ray's sockets must be short
    command = [sys.executable, "-c", HEAD, f"--port={port}", f"--metrics-export-port={metrics_port}"]
    with (Path(folder) / "output.log").open("w") as log:
        head = subprocess.Popen(
            [*command, f"--temp-dir={folder}"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield f"127.0.0.1:{port}", metrics_port
    finally:
        head.terminate()
        head.wait(120)
        for survivor in psutil_children(folder):
            os.kill(survivor, signal.SIGKILL)
        shutil.rmtree(folder)


def psutil_children(folder: str) -> list[int]:
    """Processes of the cluster in this folder."""
    import psutil

    return [p.pid for p in psutil.process_iter(["cmdline"]) if any(folder in part for part in p.info["cmdline"] or ())]


def scraped(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def lines(text: str, run: str) -> dict[str, Any]:
    """Values of a run by metric; only those of this project."""
    found = {}
    for line in text.splitlines():
        if line.startswith("ray_scpl") and f'run="{run}"' in line:
            name, value = line.split("{")[0], float(line.rsplit(" ", 1)[1])
            found[name] = value
    return found


@pytest.mark.engines
def test_the_prometheus_endpoint_of_a_cluster_shows_a_run(
    cluster: tuple[str, int], environment: dict[str, str]
) -> None:
    address, port = cluster
    deadline = time.monotonic() + 300
    while not scraped(port):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, address], stdin=subprocess.PIPE, env=environment)
    try:
        while "ray_scpl_share" not in (text := scraped(port)) or 'run="runs/two"' not in text:
            assert driver.poll() is None and time.monotonic() < deadline, text[-2000:]
            time.sleep(0.2)
    finally:
        driver.kill()
        driver.communicate()
    for run in ("runs/one", "runs/two"):
        found = lines(text, run)
        assert found.pop("ray_scpl_tokens_per_second") > 0
        assert found == {
            "ray_scpl_round": 3,
            "ray_scpl_phase": 1,
            "ray_scpl_queue_depth": 2,
            "ray_scpl_share": 0.75,
            "ray_scpl_completions_total": 2,
            "ray_scpl_tokens_total": 6,
        }
    assert 'group="north"' in text and 'phase="completions"' in text and 'pool="engine"' in text
