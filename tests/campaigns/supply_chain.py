"""What comes with the code: ``python -m tests.campaigns.supply_chain`` (seconds, without a network).

The lock must pin every package to one version from a package index, hold all that ``pyproject.toml`` asks for, and no
version for which :data:`ADVISORIES` knows a weakness. No file of the repository may hold a credential. With a network,
``pip-audit --no-deps --disable-pip -r requirements-cpu.lock`` asks the current list of advisories as well.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scpl_ray.credentials.patterns import PRIVATE_KEY, PRIVATE_KEY_END, TOKENS

ROOT = Path(__file__).parents[2]
LOCK = "requirements-cpu.lock"
ADVISORIES = {
    "aiohttp": ("3.12.14", "CVE-2025-53643"),
    "certifi": ("2024.7.4", "CVE-2024-39689"),
    "cryptography": ("44.0.1", "CVE-2024-12797"),
    "filelock": ("3.20.1", "CVE-2025-68146"),
    "flask": ("3.1.1", "CVE-2025-47278"),
    "flask-cors": ("6.0.0", "CVE-2024-6866"),
    "fonttools": ("4.60.2", "CVE-2025-66034"),
    "gitpython": ("3.1.41", "CVE-2024-22190"),
    "h11": ("0.16.0", "CVE-2025-43859"),
    "idna": ("3.7", "CVE-2024-3651"),
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "joblib": ("1.2.0", "CVE-2022-21797"),
    "mako": ("1.2.2", "CVE-2022-40023"),
    "nltk": ("3.9", "CVE-2024-39705"),
    "pillow": ("11.3.0", "CVE-2025-48379"),
    "protobuf": ("6.31.1", "CVE-2025-4565"),
    "pyarrow": ("14.0.1", "CVE-2023-47248"),
    "pyjwt": ("2.10.1", "CVE-2024-53861"),
    "python-multipart": ("0.0.18", "CVE-2024-53981"),
    "pyyaml": ("5.4", "CVE-2020-14343"),
    "ray": ("2.52.0", "CVE-2025-62593"),
    "requests": ("2.32.4", "CVE-2024-47081"),
    "scikit-learn": ("1.5.0", "CVE-2024-5206"),
    "setuptools": ("78.1.1", "CVE-2025-47273"),
    "sqlparse": ("0.5.0", "CVE-2024-4340"),
    "starlette": ("0.49.1", "CVE-2025-62727"),
    "torch": ("2.6.0", "CVE-2025-32434"),
    "tqdm": ("4.66.3", "CVE-2024-34062"),
    "transformers": ("4.53.0", "CVE-2025-6638"),
    "urllib3": ("2.6.0", "CVE-2025-66471"),
    "virtualenv": ("20.26.6", "CVE-2024-53899"),
    "werkzeug": ("3.1.4", "CVE-2025-66221"),
}
"""For each package, the first version without a published weakness, and that weakness."""
MADE_UP = ("tests/test_credentials.py",)
"""Files whose credentials are examples that nobody was ever given."""
MOST_BYTES = 2**20


def locked(lines: Iterable[str]) -> tuple[dict[str, Version], list[str]]:
    """The versions of a lock by package, and what is wrong with its lines."""
    versions, faults = {}, []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            asked = Requirement(text)
        except InvalidRequirement:
            faults.append(f"{LOCK} line {number}: {text!r} is no package with a version")
            continue
        pins = [one for one in asked.specifier if one.operator == "==" and not one.version.endswith("*")]
        if asked.url or len(pins) != 1 or len(asked.specifier) != 1:
            faults.append(f"{LOCK} line {number}: {text!r} is not pinned to one version of a package index")
        elif canonicalize_name(asked.name) in versions:
            faults.append(f"{LOCK} line {number}: {asked.name} is there twice")
        else:
            versions[canonicalize_name(asked.name)] = Version(pins[0].version)
    return versions, faults


def weaknesses(versions: Mapping[str, Version]) -> Iterator[str]:
    """The packages of a lock that have a published weakness."""
    for name, (safe, advisory) in ADVISORIES.items():
        if name in versions and versions[name] < Version(safe):
            yield f"{LOCK}: {name}=={versions[name]}: {advisory}; {safe} or later has it mended"


def missing(versions: Mapping[str, Version], project: Mapping[str, object], extras: Iterable[str]) -> Iterator[str]:
    """What a project asks for that a lock does not hold in a version that suits it."""
    wanted = list(project["dependencies"])  # type: ignore[call-overload]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]  # type: ignore[index]
    for asked in map(Requirement, wanted):
        found = versions.get(canonicalize_name(asked.name))
        if found is None or not asked.specifier.contains(found, prereleases=True):
            yield f"{LOCK}: pyproject.toml asks for {asked}; the lock has {found or 'none'}"


def credentials(files: Mapping[str, str]) -> Iterator[str]:
    """Where text files hold something that looks like a credential; what it is is not repeated."""
    for name, text in files.items():
        for number, line in enumerate(text.splitlines(), 1):
            if TOKENS.search(line) or (PRIVATE_KEY.search(line) and not re.search(r"['\"\\]|PRIVATE_KEY", line)):
                yield f"{name} line {number}: looks like a credential; take it out, and withdraw it where it is from"
            elif PRIVATE_KEY_END.search(line) and not re.search(r"['\"\\]|PRIVATE_KEY", line):
                yield f"{name} line {number}: the end of a private key"


def repository() -> dict[str, str]:
    """The text files under version control."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    files = {}
    for name in names.split("\0"):
        path = ROOT / name
        if name and name not in MADE_UP and path.is_file() and path.stat().st_size <= MOST_BYTES:
            data = path.read_bytes()
            if b"\0" not in data:
                files[name] = data.decode("utf-8", "replace")
    return files


def faults() -> list[str]:
    """All that is wrong."""
    versions, wrong = locked((ROOT / LOCK).read_text(encoding="utf-8").splitlines())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for name in project["optional-dependencies"] if name != "gpu"]
    return [*wrong, *weaknesses(versions), *missing(versions, project, extras), *credentials(repository())]


def main() -> int:
    """The command line."""
    found = faults()
    for fault in found:
        print(fault, file=sys.stderr)
    print(f"{LOCK} and the files under version control: {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
