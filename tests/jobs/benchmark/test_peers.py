"""A round beside a chain of scripts: what each script is ordered to do, what it does, and the table's arithmetic."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from typer.testing import CliRunner

from jobs.benchmark.__main__ import app
from jobs.benchmark.peers import likelihoods, rewards, texts, tune
from jobs.benchmark.peers.clock import Clock
from jobs.benchmark.peers.comparison import COLUMNS, Comparison, Script, round_seconds
from jobs.benchmark.peers.orders import Setting, orders
from jobs.pages import on_page
from scpl_ray.models.likelihood import negative_log_likelihood
from scpl_ray.records import Completion, Example, Manifest, from_table
from scpl_ray.storage.run_directory import Store
from tests.support import fakes, tiny_models
from tests.support.loops import loop, small


def comparison(**changed: object) -> Comparison:
    """A chain of 8 + 2 + 20 + 30 s, of which 12 are imports and 9 loading, and a round of 6 s."""
    parts = {"imports": 3.0, "loading": 2.0}
    scripts = (
        Script("completions", "draw", "plain vLLM", 1000, 8.0, parts),
        Script("scores", "rewards", "reward loop", 2000, 2.0, {"imports": 1.0}),
        Script("weights", "tune", "TRL", 4000, 20.0, parts),
        Script("evaluation", "draw", "plain vLLM", 600, 10.0, parts),
        Script("evaluation", "likelihoods", "passes", 5000, 20.0, {"imports": 2.0, "loading": 3.0}),
    )
    ours = {"queries": 0.1, "reward_model": 1.9, "completions": 2.0, "scores": 0.5, "weights": 1.5, "evaluation": 1.0}
    fields = {"size": "small", "machine": "a machine", "model": "tiny", "dtype": "float32", "round": 2}
    return Comparison(**{**fields, "scripts": scripts, "ours": ours, "whole": 6.0, **changed})


def test_ratios_are_of_the_whole_round_with_and_without_what_every_script_does_anew() -> None:
    found = comparison()
    assert list(found.ratios.values()) == pytest.approx([60 / 6, 48 / 6, 39 / 6])
    assert found.sentences()[0] == "the whole round: 10.0 times as long"


def test_rows_give_the_seconds_of_both_and_the_rest_of_our_round() -> None:
    rows = {row[0]: dict(zip(COLUMNS[1:5], row[1:5], strict=True)) | {"ours": row[6], "ratio": row[8]}
            for row in comparison().rows()}  # fmt: skip
    assert rows["evaluation"] == {
        "tokens": "600", "chain s": "30.0", "of it imports": "5.0", "of it loading": "5.0",
        "ours": "1.0", "ratio": "30.0",
    }  # fmt: skip
    # the reward model is fitted while completions are drawn: it is in no sum
    assert [row[6] for row in comparison().rows()][-2:] == ["1.0", "6.0"]


def test_a_page_and_a_file_hold_the_same_numbers() -> None:
    found = comparison()
    page = on_page("before\n<!-- peers small -->\nold\n<!-- end of peers small -->\nafter\n", "peers small",
                   found.markdown())  # fmt: skip
    assert "old" not in page and page.startswith("before\n") and page.endswith("\nafter\n")
    assert f"| {' | '.join(found.rows()[0])} |" in page
    again = on_page(page, "peers small", found.markdown())
    assert again == page
    assert json.loads(json.dumps(found.facts()))["ratios"] == found.ratios
    with pytest.raises(ValueError, match="<!-- peers real -->"):
        on_page(page, "peers real", "")


def test_seconds_of_a_round_include_what_lies_between_phases() -> None:
    manifests = [
        Manifest(1, "evaluation", 5.0, 90.0, {}, {}),
        Manifest(2, "queries", 1.0, 101.0, {}, {}),
        Manifest(2, "completions", 3.0, 105.0, {}, {}),
    ]
    assert round_seconds(manifests, 2) == ({"queries": 1.0, "completions": 3.0}, 5.0)


def test_orders_hold_what_the_last_round_of_a_run_did(tmp_path: Path) -> None:
    experiment = small("loop.rounds=2", "training.epochs=3", "reward.terms={model: 1.0, first: 0.5}")
    store = Store.create(tmp_path / "run", experiment, {})
    base = fakes.make_base(tmp_path / "base", 2)
    loop(store, experiment, base).run()
    setting = Setting(base, store.folder(2, "reward_model"), tmp_path / "task", tmp_path / "tuned", "float32", False)
    made = list(orders(store, experiment, setting))
    assert [(one.phase, one.script) for one in made] == [
        ("completions", "draw"), ("scores", "rewards"), ("scores", "texts"), ("weights", "tune"),
        ("evaluation", "draw"), ("evaluation", "likelihoods"), ("evaluation", "texts"),
    ]  # fmt: skip
    drawn = store.read(2, "completions", "completions", Completion)
    first = made[0].order
    assert first["model"] == str(store.policy(experiment, base, 1).model)
    assert [(r["prompt"], r["length"]) for r in first["requests"]] == [
        (c.prompt_token_ids, len(c.token_ids)) for c in drawn
    ]
    assert made[1].order["pairs"][0] == [f"to {'north'}", drawn[0].text] or made[1].tokens == 320
    examples = from_table(pq.read_table(store.folder(2, "dataset") / "dataset.parquet"), Example)
    assert made[3].order["rows"] == [{"prompt": e.prompt_token_ids, "answer": e.token_ids} for e in examples]
    assert made[3].tokens == 3 * 2 * len(examples)
    # the evaluation is done with the weights that the chain itself has trained
    assert made[4].order["model"] == str(tmp_path / "tuned")
    assert made[5].order["models"] == [str(base), str(tmp_path / "tuned")]
    json.dumps([one.order for one in made])
    store.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_model(tmp_path_factory.mktemp("model"), "llama")


PAIRS = [[[3, 4, 5], [6, 7]], [[8], [9, 10, 11, 12]]]


def test_the_chain_computes_the_same_likelihoods(model: Path) -> None:
    clock = Clock(0.0)
    found = likelihoods.likelihoods({"models": [str(model)], "dtype": "float32", "pairs": PAIRS}, clock)
    loaded = AutoModelForCausalLM.from_pretrained(model).eval()
    ours = negative_log_likelihood(loaded, [(tuple(p), tuple(a)) for p, a in PAIRS], 4096)
    assert found["nats"] == [pytest.approx([nats for nats, _ in ours], rel=1e-4)]
    assert set(clock.seconds) == {"imports", "loading", "work"}


def test_the_reward_loop_scores_every_pair_in_order(model: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    classifier.save_pretrained(tmp_path)
    tiny_models.save_model(tmp_path / "tokenizer", "llama")
    for file in (tmp_path / "tokenizer").glob("*token*"):
        file.rename(tmp_path / file.name)
    pairs = [["w3 w4", f"w{i} w7"] for i in range(rewards.BATCH + 3)]
    order = {"model": str(tmp_path), "dtype": "float32", "pairs": pairs}
    every = rewards.rewards(order, Clock(0.0))["rewards"]
    last = rewards.rewards({**order, "pairs": pairs[-1:]}, Clock(0.0))["rewards"]
    assert len(every) == len(pairs) and every[-1:] == pytest.approx(last, rel=1e-4)


def test_trl_trains_merges_and_saves_what_vllm_can_load(model: Path, tmp_path: Path) -> None:
    order = {
        "model": str(model), "tokenizer": str(model), "output": str(tmp_path / "tuned"), "dtype": "float32",
        "rows": [{"prompt": p, "answer": a} for p, a in PAIRS * 2], "rows_per_step": 2, "epochs": 2, "steps": None,
        "learning_rate": 1e-2, "warmup_fraction": 0.0, "weight_decay": 0.0, "max_grad_norm": 1.0, "seed": 0,
        "lora": {"rank": 4, "alpha": 8.0, "targets": "all-linear"},
    }  # fmt: skip
    clock = Clock(0.0)
    assert tune.tune(order, clock)["steps"] == 4
    assert set(clock.seconds) == {"imports", "loading", "work", "saving"}
    before = AutoModelForCausalLM.from_pretrained(model).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").state_dict()
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_a_tasks_own_code_reads_the_texts(tmp_path: Path) -> None:
    from ray import cloudpickle

    (tmp_path / "task").write_bytes(cloudpickle.dumps(fakes.FakeTask(("north", "south"))))
    query = {"query_id": "q", "group": "north", "prompt": "to north", "reference": None, "topic": None}
    order = {"task": str(tmp_path / "task"), "texts": [{"query": query, "id": "q-s0", "text": "alpha"}]}
    assert texts.read({**order, "judge": True}, Clock(0.0)) == {"found": [1.0]}
    assert texts.read({**order, "judge": False}, Clock(0.0)) == {"found": [{"first": 1.0}]}


def test_what_the_chain_cannot_do_is_refused() -> None:
    for key in ("training.objective=dpo", "generation.refresh=adapter", "loop.roundss=3"):
        result = CliRunner().invoke(app, ["peers", key])
        assert result.exit_code == 2 and key.split("=")[0] in result.output
