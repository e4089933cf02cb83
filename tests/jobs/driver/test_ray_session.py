"""What stands between a run and Ray: an address that nobody answers, and a folder too long for its sockets."""

import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import pytest
from ray._private.utils import validate_socket_filepath
from typer.testing import CliRunner

from jobs.cli import app
from jobs.driver import ray_session
from jobs.driver.ray_session import IN_SESSION, LONGEST_SOCKET, check_address, temporary_folder


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("command", [["run"], ["sweep", "s.yaml"]])
def test_one_message_says_that_nobody_answers_and_what_to_do(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text("name: s\nseeds: 1\narms: {a: {}, b: {}}\n")
    address = nobody()
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    result = CliRunner().invoke(app, command)
    assert time.monotonic() - began < 15
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1
    for text in (f"RAY_ADDRESS = '{address}': no Ray answers there", "Connection refused", "unset RAY_ADDRESS"):
        assert text in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.yaml"]


def test_a_server_that_speaks_as_ray_does_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    grpc = pytest.importorskip("grpc")
    server = grpc.server(futures.ThreadPoolExecutor(1))
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    check_address()
    server.stop(0)


def test_what_answers_without_a_word_is_no_ray(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "ANSWER_S", 0.3)
    monkeypatch.setenv("RAY_ADDRESS", silent)
    with pytest.raises(ValueError, match=r"no Ray answers there \((timed out|no answer within).*unset RAY_ADDRESS"):
        check_address()


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001", "somewhere", "host:port", ":"])
def test_an_address_of_another_form_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=r"not the address of a node, HOST:PORT; .*unset RAY_ADDRESS"):
        check_address()


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_words_of_ray_are_left_to_ray(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    check_address()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_when_it_is_told_to(number: int, silent: str) -> None:
    code = "from jobs.driver.ray_session import check_address; print('asking', flush=True); check_address()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "RAY_ADDRESS": silent},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    # it did not wait for its own end of waiting, of which it would have said so
    assert process.returncode != 0 and "no answer within" not in said
    assert number == signal.SIGTERM or "KeyboardInterrupt" in said


class Mute(socketserver.BaseRequestHandler):
    """Begins to speak as Ray does, and falls silent."""

    def handle(self) -> None:
        self.request.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        while self.request.recv(4096):
            pass


JOINS = """
import signal, sys
from jobs.driver import ray_session
ray_session.JOIN_S = float(sys.argv[1])
ray_session.check_address()
print("joining", flush=True)
try:
    ray_session.join(logging_level="ERROR")
except RuntimeError as error:
    sys.exit(f"said: {error}")
"""


def test_a_ray_that_answers_and_lets_nobody_in_is_not_waited_for(tmp_path: Path) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mute) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(Path(__file__).parents[3])}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", JOINS, seconds],
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for seconds in ("0.5", "300")
        ]
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "joining\n"
        began = time.monotonic()
        processes[1].send_signal(signal.SIGINT)
        said = [process.communicate(timeout=60)[1] for process in processes]
        assert time.monotonic() - began < 30
        server.shutdown()
    assert processes[0].returncode == 1 and processes[1].returncode != 0
    for text in (f"said: RAY_ADDRESS = '{address}': something answers", "ray stop", "unset RAY_ADDRESS"):
        assert text in said[0]
    assert "KeyboardInterrupt" in said[1]


TOLD = """
import os, signal, sys, time
from pathlib import Path
from jobs.driver.run import connected
from jobs.terminal.interrupts import Interrupts
try:
    with Interrupts().handled(), connected(Path(sys.argv[1])):
        print("connected", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
except KeyboardInterrupt:
    time.sleep(4)  # the C++ part of Ray aborts a process 3 seconds after a signal that came to it
    print("ended in order", flush=True)
"""


@pytest.mark.engines
@pytest.mark.parametrize("joins", [False, True], ids=["own Ray", "joined"])
def test_told_to_end_while_connected_it_ends_in_order(joins: bool, ray_local: None, tmp_path: Path) -> None:
    import ray

    address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address} if joins else {}
    done = subprocess.run(
        [sys.executable, "-c", TOLD, str(tmp_path)],
        env={**os.environ, **address, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "connected\nended in order\n"
    assert "stopping; again: end at once" in done.stderr and done.returncode == 0


@pytest.mark.parametrize("error", [ConnectionError("refused"), RuntimeError("version mismatch"), ValueError("odd")])
def test_what_ray_says_is_one_message(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise error

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(ray_session.ray, "init", init)
    with pytest.raises(RuntimeError, match=rf"'10.0.0.1:6379': {error}; start that Ray, or leave it out"):
        ray_session.join()


def test_a_short_folder_stands_for_one_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    said: list[str] = []
    for length, short in ((LONGEST_SOCKET - IN_SESSION - len("/ray"), False), (60, True), (200, True)):
        monkeypatch.setenv("TMPDIR", "/" + "t" * (length - 1))
        with temporary_folder(said.append) as arguments:
            assert bool(arguments) == short
            if short:
                folder = arguments["_temp_dir"]
                session = "/session_2026-01-01_00-00-00_000000_4194304/sockets/"
                validate_socket_filepath(f"{folder}{session}plasma_store.1")
                assert Path(folder).is_dir()
                assert re.fullmatch(r"TMPDIR: .*too long .* Ray's files are in \S+ until the end", said.pop())
        if short:
            assert not Path(folder).exists()
    assert not said


def test_where_no_short_folder_can_be_made_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/" + "t" * 90)
    monkeypatch.setattr(ray_session, "SHORT_FOLDERS", ("/nowhere",))
    with pytest.raises(RuntimeError, match="set RAY_TMPDIR to a path of at most"), temporary_folder(print):
        pass
    assert tempfile.gettempdir()
