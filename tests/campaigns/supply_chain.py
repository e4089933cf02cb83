"""What comes with the code: ``python -m tests.campaigns.supply_chain`` (seconds, without a network).

A lock must pin every package to one version from a package index and hold all that ``pyproject.toml`` asks for. No file
of the repository may hold a credential. Published weaknesses are not known offline: with a network,
``pip-audit --no-deps --disable-pip -r requirements-cpu.lock`` asks for them.
"""

import fnmatch
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scpl_ray.credentials.patterns import PRIVATE_KEY, PRIVATE_KEY_END, TOKENS

ROOT = Path(__file__).parents[2]
LOCKS = {
    "requirements-cpu.lock": ("cpu", "docs", "s3", "search", "test", "tracking"),
    "requirements-gpu.lock": ("gpu", "s3", "search", "tracking"),
}
"""The extras that each lock holds."""
MADE_UP = ("tests/test_credentials.py",)
"""Files whose credentials are examples that nobody was ever given."""
MOST_BYTES = 2**20


def locked(lock: str, lines: Iterable[str]) -> tuple[dict[str, Version], list[str]]:
    """The versions of a lock by package, and what is wrong with its lines."""
    versions, faults = {}, []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            asked = Requirement(text)
        except InvalidRequirement:
            faults.append(f"{lock} line {number}: {text!r} is no package with a version")
            continue
        pins = [one for one in asked.specifier if one.operator == "==" and not one.version.endswith("*")]
        if asked.url or len(pins) != 1 or len(asked.specifier) != 1:
            faults.append(f"{lock} line {number}: {text!r} is not pinned to one version of a package index")
        elif canonicalize_name(asked.name) in versions:
            faults.append(f"{lock} line {number}: {asked.name} is there twice")
        else:
            versions[canonicalize_name(asked.name)] = Version(pins[0].version)
    return versions, faults


def missing(
    lock: str, versions: Mapping[str, Version], project: Mapping[str, object], extras: Iterable[str]
) -> Iterator[str]:
    """What a project asks for that a lock does not hold in a version that suits it."""
    wanted = list(project["dependencies"])  # type: ignore[call-overload]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]  # type: ignore[index]
    for asked in map(Requirement, wanted):
        found = versions.get(canonicalize_name(asked.name))
        if found is None or not asked.specifier.contains(found, prereleases=True):
            yield f"{lock}: pyproject.toml asks for {asked}; the lock has {found or 'none'}"


def credentials(files: Mapping[str, str]) -> Iterator[str]:
    """Where text files hold something that looks like a credential; what it is is not repeated."""
    for name, text in files.items():
        for number, line in enumerate(text.splitlines(), 1):
            if TOKENS.search(line) or (PRIVATE_KEY.search(line) and not re.search(r"['\"\\]|PRIVATE_KEY", line)):
                yield f"{name} line {number}: looks like a credential; take it out, and withdraw it where it is from"
            elif PRIVATE_KEY_END.search(line) and not re.search(r"['\"\\]|PRIVATE_KEY", line):
                yield f"{name} line {number}: the end of a private key"


def repository() -> dict[str, str]:
    """The text files of the checkout, without what was made in it."""
    made = [line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split()]
    files = {}
    for above, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not any(fnmatch.fnmatch(name, pattern) for pattern in made)]
        for path in map(Path(above).joinpath, names):
            name = path.relative_to(ROOT).as_posix()
            if name not in MADE_UP and path.is_file() and path.stat().st_size <= MOST_BYTES:
                data = path.read_bytes()
                if b"\0" not in data:
                    files[name] = data.decode("utf-8", "replace")
    return files


def faults() -> list[str]:
    """All that is wrong."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = list(credentials(repository()))
    for lock, extras in LOCKS.items():
        versions, wrong = locked(lock, (ROOT / lock).read_text(encoding="utf-8").splitlines())
        found += [*wrong, *missing(lock, versions, project, extras)]
    return found


def main() -> int:
    """The command line."""
    found = faults()
    for fault in found:
        print(fault, file=sys.stderr)
    print(f"{', '.join(LOCKS)} and the files under version control: {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
