"""Whether other nodes may exist, by the address of Ray's head; Ray's context is a stand-in."""

from types import SimpleNamespace

import pytest

from actors import file_transfer


@pytest.mark.parametrize(
    ("address", "others"),
    [
        ("127.0.0.1:6379", False),
        ("localhost:6379", False),
        ("[::1]:6379", False),
        ("10.0.0.7:6379", True),
        ("[fd00::12]:6379", True),
        ("[fe80::12%1]:6379", True),
    ],
)
def test_files_may_have_to_be_transferred_where_ray_listens_beyond_loopback(
    address: str, others: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address=address))
    assert file_transfer.may_be_needed() is others
