from pathlib import Path

import pytest

from jobs import nvidia

OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (builder@host)\nGCC version: 13"
)
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\nGCC version: 12"


def test_a_machine_without_a_driver_needs_nothing(tmp_path: Path) -> None:
    assert list(nvidia.rows(tmp_path / "version")) == []


@pytest.mark.parametrize(
    ("text", "version"), [(OPEN, (580, 95, 5)), (CLOSED, (535, 129, 3)), ("GCC version: 13", None)]
)
def test_the_version_of_a_driver(text: str, version: tuple[int, ...] | None) -> None:
    assert nvidia.driver_version(text) == version


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (OPEN, ""),
        (CLOSED, "install 580 or newer: PyTorch is built for CUDA 13"),
        ("?", "install 580 or newer: PyTorch"),
    ],
)
def test_a_driver_that_is_too_old_is_named(tmp_path: Path, text: str, remedy: str) -> None:
    (tmp_path / "version").write_text(text)
    driver, _, _ = nvidia.rows(tmp_path / "version")
    assert driver[2].startswith(remedy) and bool(driver[2]) == bool(remedy)


def test_a_missing_compiler_and_missing_headers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version").write_text(OPEN)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nvidia.sysconfig, "get_path", lambda name: str(tmp_path))
    _, compiler, header = nvidia.rows(tmp_path / "version")
    assert compiler == ("C compiler", "missing", "Triton compiles its kernels with it: install gcc")
    assert header[1] == "missing" and "-dev" in header[2]
    for name in ("gcc", "Python.h"):
        (tmp_path / name).touch(0o755)
    assert [remedy for _, _, remedy in nvidia.rows(tmp_path / "version")] == ["", "", ""]
