"""A Ray cluster of several nodes on this machine: each node is a separate `ray start`, which can be killed."""

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

START_S = 240.0


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("", 0))
        port: int = opened.getsockname()[1]
        return port


class LocalCluster:
    """The head and further nodes.

    Args:
        folder: for Ray's files and logs; its path must be short, because sockets are created below it.
        hidden: folders that every node but the head sees as empty folders of its own, as without a shared disk
            (needs root).
    """

    def __init__(self, folder: Path, hidden: Sequence[Path] = ()) -> None:
        self._folder = folder
        self._hidden = hidden
        self.port, self.dashboard, self._token = free_port(), free_port(), os.urandom(8).hex()
        self._nodes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def __enter__(self) -> "LocalCluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._nodes:
            self.kill(self._nodes[-1])

    @property
    def address(self) -> str:
        """The address of the dashboard, for `ray job`."""
        return f"http://127.0.0.1:{self.dashboard}"

    def head(self, cpus: int) -> subprocess.Popen[bytes]:
        """Start the head, and return when jobs can be submitted."""
        node = self._start(
            cpus,
            "--head",
            f"--port={self.port}",
            f"--dashboard-port={self.dashboard}",
            "--include-dashboard=true",
            f"--ray-client-server-port={free_port()}",
            f"--temp-dir={self._folder}/ray",
        )
        self._until("jobs can be submitted", "job", "list", "--address", self.address)
        return node

    def node(self, cpus: int) -> subprocess.Popen[bytes]:
        """Start another node."""
        return self._start(cpus, f"--address={socket.gethostbyname(socket.gethostname())}:{self.port}")

    def processes_of(self, node: subprocess.Popen[bytes]) -> set[int]:
        """Process ids on a node."""
        return {node.pid, *(process.pid for process in psutil.Process(node.pid).children(recursive=True))}

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """End a node as a power cut would: all its processes get SIGKILL."""
        own = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in own:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()
        psutil.wait_procs(own[1:], timeout=10)
        self._nodes.remove(node)

    def ray(self, *arguments: str, **options: object) -> subprocess.Popen[str]:
        """The `ray` command, connected to this cluster."""
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "ray"), *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,  # type: ignore[call-overload]
        )

    def _start(self, cpus: int, *arguments: str) -> subprocess.Popen[bytes]:
        command = [
            str(Path(sys.executable).parent / "ray"),
            "start",
            "--block",
            f"--num-cpus={cpus}",
            f"--object-store-memory={128 * 2**20}",
            "--disable-usage-stats",
            f"--dashboard-agent-listen-port={free_port()}",
            *arguments,
        ]
        if self._hidden and "--head" not in arguments:
            hide = " && ".join(f"mount -t tmpfs none {shlex.quote(str(folder))}" for folder in self._hidden)
            command = ["unshare", "-m", "sh", "-c", f"{hide} && exec {shlex.join(command)}"]
        log = (self._folder / f"node-{len(self._nodes)}.log").open("wb")
        node = subprocess.Popen(command, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
        self._nodes.append(node)
        return node

    def _until(self, what: str, *arguments: str) -> None:
        began = time.monotonic()
        while (tried := self.ray(*arguments)).wait() != 0:
            if time.monotonic() - began > START_S:
                raise TimeoutError(f"not within {START_S:.0f} s: {what}: {tried.stdout.read() if tried.stdout else ''}")
            time.sleep(1)


def short_folder() -> tempfile.TemporaryDirectory[str]:
    """A temporary folder with a short path."""
    return tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp")
