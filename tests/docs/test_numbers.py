"""Numbers in the text of a page are those of the command that it names beside them."""

import shlex

import pytest

import scpl_ray as scpl
from scpl_ray.config import loading
from scpl_ray.report.text import MINUS
from tests.docs.pages import DOCS

METRICS = ("preference_log_odds_balanced", "disparate_gap_without_own_kind")


@pytest.mark.parametrize(
    ("row", "keys"),
    [
        ("| `calibrated` | kinds, 0.6 and 0.4 |", {}),
        ("| `vrs` | none |", {"selection.strategy": "vrs", "selection.target_of": "groups"}),
    ],
)
def test_what_each_remedy_leaves_in_the_analytic_mode(row: str, keys: dict[str, str]) -> None:
    lines = (DOCS / "concepts.md").read_text().splitlines()
    (command,) = [line for line in lines if line.startswith("scpl simulate") and "selection.target_of" in line]
    asked = dict(map(loading.parse_override, shlex.split(command)[2:])) | keys
    seeds = asked.pop("analytic.seeds")
    paths = scpl.simulate(scpl.load(keys=asked), seeds=seeds)
    last = paths[paths["round"] == asked["loop.rounds"]].groupby("metric").value.mean()
    log_odds, gap = (float(last[name]) for name in METRICS)
    (printed,) = [line for line in lines if line.startswith(row)]
    assert printed == f"{row} {f'{log_odds:+.2f}'.replace('-', MINUS)} | {gap:.2f} |"
