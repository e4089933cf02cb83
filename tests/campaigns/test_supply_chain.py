from packaging.version import Version

from tests.campaigns import supply_chain
from tests.campaigns.supply_chain import credentials, locked, missing


def test_the_lock_and_the_repository_are_sound() -> None:
    assert supply_chain.faults() == []


def test_a_line_that_pins_nothing_is_found() -> None:
    lines = [
        "numpy==2.2.0  # why",
        "",
        "# words",
        "scipy>=1",
        "torch",
        "a @ https://x.org/a.whl",
        "--index-url http://x",
    ]
    versions, faults = locked("a.lock", [*lines, "numpy==2.3", "b==1.*", "c==1,<2"])
    assert versions == {"numpy": Version("2.2.0")} and len(faults) == 7


def test_a_missing_version_is_found() -> None:
    project = {"dependencies": ["a>=2", "B.c==1"], "optional-dependencies": {"x": ["d"]}}
    assert len(list(missing("a.lock", {"a": Version("1"), "b-c": Version("1")}, project, ["x"]))) == 2


def test_a_credential_in_a_file_is_found_and_not_repeated() -> None:
    token = "hf_" + "aB3" * 11
    begin, end = "-----BEGIN {} PRIVATE KEY-----".format("RSA"), "-----END {} PRIVATE KEY-----".format("RSA")
    found = list(
        credentials({"a.py": f"x = 1\ny = '{token}'\n", "b.pem": f"{begin}\nMII\n{end}\n", "c.md": "no token"})
    )
    assert [fault.partition(":")[0] for fault in found] == ["a.py line 2", "b.pem line 1", "b.pem line 3"]
    assert token not in "".join(found)
