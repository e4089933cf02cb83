"""The page on remedies: its committed numbers are those of the code, and its two studies share no seed."""

import json

import pytest

from jobs.configs import CONFIGS
from jobs.driver import experiments
from jobs.results import remedy
from scpl_ray.studies import study
from tests.docs.pages import DOCS

FOLDER = DOCS / "results"
COMMITTED = json.loads((FOLDER / "remedy.json").read_bytes())


@pytest.mark.parametrize("name", ["calibrated, kinds", "vrs, balanced choices"])
def test_what_a_remedy_pulls_is_what_the_page_says(name: str) -> None:
    found = {name: remedy.measured(name)}
    page = (FOLDER / "remedy.md").read_text().splitlines()
    assert remedy._measured_table(found).splitlines()[-1] in page
    assert remedy._steps_table(found).splitlines()[-1] in page


def test_every_remedy_is_on_the_page() -> None:
    page = (FOLDER / "remedy.md").read_text()
    assert [name for name in remedy.REMEDIES if page.count(f"| {name} |") < 2] == []
    assert remedy._exploration_table(COMMITTED["exploration"]) in page
    assert remedy._confirmation_table(COMMITTED["confirmation"]) in page


def test_the_confirmation_is_what_is_committed() -> None:
    assert remedy.confirmed(FOLDER / remedy.CONFIRMATION) == COMMITTED["confirmation"]


def test_a_corner_of_the_exploration_is_what_is_committed(tmp_path) -> None:
    """The default setting of plain VRS: the file with one value of every axis, and two of its arms."""
    plan = study.load(FOLDER / remedy.EXPLORATION, CONFIGS)
    default = remedy._default(plan)
    small = plan.model_copy(
        update={
            "axes": {key: (value,) for key, value in default.items()},
            "arms": {name: keys for name, keys in plan.arms.items() if name.endswith("-vrs")},
        }
    )
    (tmp_path / "small.yaml").write_text(study.dump(small))
    found = remedy.explored(tmp_path / "small.yaml")
    assert found["vrs"] == COMMITTED["exploration"]["vrs"]


def test_no_seed_explores_and_confirms() -> None:
    seeds = []
    for file in (remedy.EXPLORATION, remedy.CONFIRMATION):
        plan = study.load(FOLDER / file, CONFIGS)
        one = plan.model_copy(update={"axes": {}, "arms": dict(list(plan.arms.items())[:1]), "claims": ()})
        seeds.append({trial.seed for trial in study.trials(one, CONFIGS, experiments.build)})
    assert not seeds[0] & seeds[1] and 0 not in seeds[0] | seeds[1]
