"""The bytes of a run and of a study, by hand."""

import dataclasses

import pytest
from transformers import Qwen2Config

from actors.placement.disk import Disk, disk, run_line, shown, study_line
from actors.placement.memory import Sizes, model_size
from jobs.configs import CONFIGS
from jobs.driver import experiments
from scpl_ray.config import Experiment
from tests.support.model_cards import QWEN_7B

WEIGHTS, ADAPTER = 7_615_616_512, 40_370_176
TB = 1e12


def seven_billion(*overrides: str, config: str = "news_qwen_7b") -> tuple[Experiment, Disk]:
    experiment = experiments.load(CONFIGS[config], ["task.data=articles.jsonl", *overrides])
    sizes = Sizes(model_size(Qwen2Config(**QWEN_7B), experiment.model.lora), None)
    return experiment, disk(experiment, sizes, on_gpu=True)


def test_an_adapter_is_all_that_stays_of_its_weights() -> None:
    _, found = seven_billion()
    assert found.stays["adapter"] == 4 * ADAPTER and (found.policy, found.reward_model) == (0, 0)
    assert found.at_end == found.at_most == 5 * (4 * ADAPTER + found.stays["records"])
    # 2,048 prompts with four candidates, of 128 + 128 tokens
    assert 10e6 < found.stays["records"] < 100e6


def test_whole_weights_stay_for_the_next_round_alone() -> None:
    full = ["model.lora=null", "generation.refresh=reload", "training.learning_rate=1e-5"]
    for keep, policies in (("all", 5), ("last", 1), ("none", 0)):
        _, found = seven_billion(*full, f"store.keep={keep}")
        assert found.policy == (2 + 4) * WEIGHTS, "what is served, and float32 weights to start from"
        assert found.at_end == pytest.approx(5 * found.stays["records"] + policies * found.policy)
        assert found.at_most == pytest.approx(5 * found.stays["records"] + max(policies, 2) * found.policy)
    _, retrained = seven_billion(*full, "loop.kind=retraining")
    assert retrained.policy == 2 * WEIGHTS, "nothing starts from a policy that is trained anew every round"
    _, in_float32 = seven_billion(*full, "model.dtype=float32")
    assert in_float32.policy == 4 * WEIGHTS


def test_a_fitted_reward_model_is_there_for_a_round() -> None:
    _, found = seven_billion("reward.terms={model: 1.0}")
    assert found.reward_model == 4 * WEIGHTS
    assert found.at_most - found.at_end == pytest.approx(found.reward_model)
    _, merged = seven_billion("generation.refresh=reload")
    assert merged.policy == 2 * WEIGHTS


@pytest.mark.parametrize("fitted", [False, True])
def test_a_study_of_seven_hundred_rounds_of_seven_billion_stays_under_a_terabyte(fitted: bool) -> None:
    """14 arms x 10 seeds x 5 rounds; with all that was written, reward models alone were 21 TB."""
    _, found = seven_billion(*(["reward.terms={model: 1.0}"] if fitted else []))
    trials = [found] * 14 * 10
    assert sum(one.at_end for one in trials) + found.at_most < 1 * TB
    everything = [dataclasses.replace(one, keep="all") for one in trials]
    assert (sum(one.at_end for one in everything) > 10 * TB) == fitted
    assert study_line(trials).startswith("disk: 140 runs hold 1") and " GB at most when they are" in study_line(trials)


def test_what_is_said() -> None:
    found = Disk(5, {"records": 2e6, "adapter": 1.5e8}, 3e10, 0.0, "last")
    assert run_line(found) == (
        "disk: a round writes 30.2 GB at most (records 2 MB, adapter 150 MB, whole weights 30 GB); with "
        "store.keep=last the run holds 60.8 GB while it works and 30.8 GB when its 5 rounds are done"
    )
    assert study_line([found] * 3) == (
        "disk: 3 runs hold 92.3 GB at most when they are done, and 30 GB more for each that is at work; a round writes "
        "up to 30.2 GB"
    )
    assert [shown(n) for n in (0, 12, 1234, 1.5e12)] == ["0 bytes", "12 bytes", "1.23 kB", "1.5 TB"]
