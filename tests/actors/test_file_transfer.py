"""Files between nodes: real Ray, one machine; an actor that reports other file times stands for another disk."""

import os
from pathlib import Path

import pytest
import ray

from actors import file_transfer, node_copies
from actors.file_transfer import Files, FileTransfer, stamp
from scpl_ray.records import Weights

pytestmark = pytest.mark.engines


class OtherDisk(FileTransfer):
    """The driver's disk as a node sees it whose own disk holds other files under the same names."""

    def stamp(self, path: Path):
        found = super().stamp(path)
        return found and tuple((name, size, time + 1) for name, size, time in found)

    def place(self, path: Path):
        found = super().place(path)
        return found and (found[0] + 1, found[1])


@pytest.fixture(scope="module")
def far(ray_local, tmp_path_factory) -> Files:
    return Files(ray.remote(OtherDisk).options(num_cpus=0).remote(), tmp_path_factory.mktemp("node") / "copies")


def model(folder: Path, content: bytes = b"weights") -> Path:
    (folder / "model" / "deep").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "empty").touch()
    (folder / "model" / "deep" / "model.safetensors").write_bytes(content)
    return folder / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_shared_disk_is_used_as_it_is(ray_local, tmp_path) -> None:
    near = Files(file_transfer.start(), tmp_path / "copies")
    assert near.here(model(tmp_path)) == tmp_path / "model"
    with near.output(tmp_path) as folder:
        assert folder == tmp_path
    assert not (tmp_path / "copies").exists()
    assert file_transfer.SHARED_DISK.here(tmp_path / "never made") == tmp_path / "never made"


def test_what_a_node_does_not_see_is_copied_once(far, tmp_path) -> None:
    path = model(tmp_path)
    copy = far.here(path)
    assert copy != path and copy.name == "model"
    assert contents(copy) == contents(path)
    before = stamp(copy)
    assert far.here(path) == copy and stamp(copy) == before


def test_a_folder_that_changed_is_copied_again(far, tmp_path) -> None:
    path = model(tmp_path)
    first = far.here(path)
    (path / "config.json").write_text('{"layers": 2}')
    second = far.here(path)
    assert (first / "config.json").read_text() == "{}"
    assert (second / "config.json").read_text() == '{"layers": 2}'


def test_weights_and_single_files(far, tmp_path) -> None:
    path = model(tmp_path)
    adapter = path / "deep"
    here = far.weights(Weights(3, path, adapter))
    assert (here.policy_version, contents(here.model), contents(here.adapter)) == (3, contents(path), contents(adapter))
    copy = far.here(path / "config.json")
    assert copy.name == "config.json" and copy.read_text() == "{}" and copy != path / "config.json"
    assert far.here(Path("organisation/model")) == Path("organisation/model")


def test_files_longer_than_a_piece(far, tmp_path) -> None:
    content = os.urandom(1024) + bytes(file_transfer.PIECE_BYTES) + b"end"
    path = model(tmp_path, content)
    assert contents(far.here(path)) == contents(path)
    (output := tmp_path / "output").mkdir()
    with far.output(output) as folder:
        (folder / "long").write_bytes(content)
    assert (output / "long").read_bytes() == content


def test_a_node_keeps_the_copies_it_was_asked_for_last(far, tmp_path) -> None:
    often = model(tmp_path / "often")
    copies = [far.here(often)]
    for i in range(node_copies.FOLDERS_KEPT + 1):
        copies.append(far.here(model(tmp_path / str(i))))
        assert far.here(often) == copies[0]
    there = [copy for copy in copies if copy.exists()]
    assert len(there) == node_copies.FOLDERS_KEPT and copies[0] in there and copies[1] not in there


def test_what_is_written_goes_to_the_driver(far, tmp_path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "of an interrupted attempt").touch()
    with far.output(tmp_path) as folder:
        assert folder != tmp_path and not contents(folder)
        model(folder)
    assert contents(tmp_path) == {
        "model/config.json": b"{}",
        "model/empty": b"",
        "model/deep/model.safetensors": b"weights",
    }
    assert not folder.exists()


def test_a_failed_attempt_changes_nothing(far, tmp_path) -> None:
    (tmp_path / "before").touch()
    with pytest.raises(RuntimeError, match="diverged"), far.output(tmp_path) as folder:
        (folder / "after").touch()
        raise RuntimeError("diverged")
    assert list(contents(tmp_path)) == ["before"]
    assert not folder.exists()
