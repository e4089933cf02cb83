"""The user's code is kept in a file that can always be read again."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from scpl_ray.storage import code_file, manifests
from scpl_ray.storage.run_directory import Reader, Store
from tests.support.configs import defaults

CODE = {"feedback.function": "rules.py:rule"}


def entry(from_round: int, **texts: str) -> dict[str, Any]:
    files = {
        f"{name}.py": {"sha256": hashlib.sha256(text.encode()).hexdigest(), "text": text}
        for name, text in texts.items()
    }
    return {"from_round": from_round, "code": CODE, "files": files}


def test_code_that_changes_at_every_resume_can_still_be_read(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "run", defaults(), {})
    big = "\n".join(f"ROW_{i} = {i}" for i in range(60_000))
    assert len(big) > 900_000
    for change in range(20):
        store.keep_code([*store.code, entry(change, big=big, rules=f"STEP = {change}\n")])
    store.close()
    found = Reader(tmp_path / "run").code
    assert found == [entry(change, big=big, rules=f"STEP = {change}\n") for change in range(20)]
    assert (tmp_path / "run" / "code.json").stat().st_size < 2 * len(big)


def test_the_texts_of_the_oldest_sources_make_room_and_their_checksums_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(code_file, "MOST_BYTES", 6_000)
    entries = [entry(t, same="SAME = 1\n", rules=f"STEP = {t}  # {'x' * 1000}\n") for t in range(8)]
    data = code_file.encoded(entries)
    found = code_file.decoded(data.decode())
    assert len(data) <= 6_000 and "code.json would be larger than" in caplog.text
    kept = ["text" in e["files"]["rules.py"] for e in found]
    assert kept == sorted(kept) and kept[-1] and not kept[0]
    assert all(e["files"]["same.py"]["text"] == "SAME = 1\n" for e in found)
    for was, now in zip(entries, found, strict=True):
        assert {n: f["sha256"] for n, f in was["files"].items()} == {n: f["sha256"] for n, f in now["files"].items()}
    assert code_file.encoded(found) == data


def test_files_of_earlier_versions_are_read_as_they_are() -> None:
    entries = [entry(0, rules="A = 1\n", other="B = 1\n"), entry(2, rules="A = 2\n", other="B = 1\n", empty="")]
    entries[1]["files"]["beside.py"] = {"sha256": "0" * 64}
    assert code_file.decoded(json.dumps(entries)) == entries
    assert code_file.decoded(code_file.encoded(entries).decode()) == entries
    assert manifests.MOST_BYTES == code_file.MOST_BYTES
