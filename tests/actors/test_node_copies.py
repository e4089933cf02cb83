"""The folder of copies lies where every user of a machine may create names; no Ray is needed to see what it does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors import node_copies
from actors.file_transfer import FileTransfer
from actors.node_copies import FOLDERS_HELD, FOLDERS_KEPT


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_copies, "_held", type(node_copies._held)())


def copy(copies: Path, number: int) -> Path:
    folder = copies / f"{number:016x}"
    with node_copies.building(copies, folder) as partial:
        partial.mkdir()
        (partial / "model").write_text("weights")
    return folder


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    return node_copies.own_folder(tmp_path / "copies")


def test_a_link_to_a_folder_of_ones_own_is_refused(tmp_path: Path) -> None:
    dear = tmp_path / "home"
    dear.mkdir(mode=0o700)
    (tmp_path / "copies").symlink_to(dear)
    with pytest.raises(PermissionError, match="copies: is a link or no folder; remove it, or set TMPDIR"):
        node_copies.own_folder(tmp_path / "copies")
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match="is a link or no folder"):
        node_copies.own_folder(tmp_path / "file")


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o750, 0o701])
def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies").chmod(mode)
    with pytest.raises(PermissionError, match="is open to other users"):
        node_copies.own_folder(tmp_path / "copies")


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "copies").mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionError, match="belongs to another user"):
        node_copies.own_folder(tmp_path / "copies")


def test_it_is_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert node_copies.own_folder(tmp_path / "copies").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_only_copies_and_their_parts_are_ever_removed(copies: Path, tmp_path: Path) -> None:
    dear = tmp_path / "dear"
    (dear / "inner").mkdir(parents=True)
    others = [copies / name for name in ("photos", "0" * 15, "0" * 17, f"{'0' * 16}.backup", "G" * 16)]
    for other in others:
        other.mkdir()
    link, file = copies / f"{99:016x}", copies / f"{98:016x}"
    link.symlink_to(dear)
    file.touch()
    left_by_a_killed_copier = copies / f"{97:016x}.a1b2c3_9"
    (left_by_a_killed_copier / "new").mkdir(parents=True)
    made = [copy(copies, number) for number in range(FOLDERS_KEPT + 3)]
    with node_copies.locked(copies):
        node_copies.forget_old(copies)
    assert all(other.is_dir() for other in others) and (dear / "inner").is_dir() and link.is_symlink() and file.exists()
    assert not left_by_a_killed_copier.exists()
    assert [path.exists() for path in made] == [False] * 3 + [True] * FOLDERS_KEPT


def test_what_another_process_holds_stays(copies: Path) -> None:
    needed = copy(copies, 0)
    code = (
        "import sys\nfrom pathlib import Path\nfrom actors import node_copies\n"
        f"node_copies.hold(Path({str(needed)!r}))\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    os.utime(needed, (1, 1))
    for number in range(1, FOLDERS_KEPT + 3):
        node_copies.hold(copy(copies, number))
        node_copies.forget_old(copies)
    assert needed.exists()
    other.communicate("")
    copy(copies, FOLDERS_KEPT + 3)
    node_copies.forget_old(copies)
    assert not needed.exists() and len(list(copies.iterdir())) == FOLDERS_KEPT


def test_a_process_holds_what_it_works_with_and_no_policies_of_earlier_rounds(copies: Path) -> None:
    made = [copy(copies, number) for number in range(FOLDERS_KEPT + FOLDERS_HELD)]
    for folder in made:
        node_copies.hold(folder)
    assert [node_copies._is_free(folder) for folder in made] == [True] * FOLDERS_KEPT + [False] * FOLDERS_HELD
    assert FOLDERS_HELD < FOLDERS_KEPT
    node_copies.forget_old(copies)
    assert [folder.exists() for folder in made] == [False] * FOLDERS_HELD + [True] * FOLDERS_KEPT


def test_a_copy_that_was_made_again_is_held_again(copies: Path) -> None:
    first = copy(copies, 0)
    node_copies.hold(first)
    (first / "model").unlink()
    first.rmdir()
    node_copies.hold(copy(copies, 0))
    assert not node_copies._is_free(first)


def test_a_lock_that_is_never_given_back_has_a_deadline(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_copies, "LOCK_SECONDS", 0.1)
    with (
        node_copies.locked(copies),
        pytest.raises(TimeoutError, match="another process has been copying"),
        node_copies.locked(copies),
    ):
        pass


def test_a_lock_that_is_a_link_overwrites_nothing(copies: Path, tmp_path: Path) -> None:
    (tmp_path / "dear").write_text("dear")
    (copies / "lock").symlink_to(tmp_path / "dear")
    with pytest.raises(OSError, match="symbolic link"), node_copies.locked(copies):
        pass
    assert (tmp_path / "dear").read_text() == "dear"


def test_what_a_node_sends_back_is_written_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "dear").mkdir()
    (tmp_path / "dear" / "file").write_text("dear")
    (output := tmp_path / "weights").mkdir()
    (output / "file").symlink_to(tmp_path / "dear" / "file")
    (output / "model").symlink_to(tmp_path / "dear")
    transfer = FileTransfer()
    for name in ("file", "model/file", "../dear/file"):
        with pytest.raises(OSError, match=r"symbolic link|leads out"):
            transfer.write(output, name, 0, b"other")
    transfer.empty(output)
    assert not list(output.iterdir()) and (tmp_path / "dear" / "file").read_text() == "dear"
    transfer.write(output, "deep/er/file", 0, b"one")
    transfer.write(output, "deep/er/file", 3, b"two")
    assert (output / "deep/er/file").read_bytes() == b"onetwo"
