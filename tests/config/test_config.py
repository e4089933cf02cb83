import json
from pathlib import Path

import pytest
import yaml

from jobs.configs import CONFIGS, QUICK_START
from jobs.driver import experiments
from scpl_ray.config import Experiment, Lora, errors, loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.presets import PRESETS


def refuse(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        experiments.load(None, overrides)
    return str(caught.value)


def test_the_quick_start_needs_no_file() -> None:
    assert experiments.load(None) == experiments.load(CONFIGS[QUICK_START])
    assert loading.load(None) == Experiment()


def test_overrides_reach_their_keys() -> None:
    e = experiments.load(
        None, ["loop.kind=retraining", "model.lora=null", "model.family=gpt2", "feedback.arrivals=[1, 2]"]
    )
    assert (e.loop.kind, e.model.lora, e.model.family, e.feedback.arrivals) == ("retraining", None, "gpt2", (1.0, 2.0))
    assert experiments.load(None, ["model.lora=null", "model.lora.rank=4"]).model.lora is not None


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001"])
def test_numbers_in_scientific_notation_are_numbers(text: str) -> None:
    assert experiments.load(None, [f"training.learning_rate={text}"]).training.learning_rate == 0.001


def test_a_function_of_the_users_own_replaces_what_the_config_names_in_its_place() -> None:
    rule = loading.overlay({"feedback": {"rule": "softmax", "beta": 3.0}}, {"feedback.function": "own.py:rule"})
    assert rule["feedback"] == {"beta": 3.0, "function": "own.py:rule"}
    kept = loading.overlay({"feedback": {"rule": "softmax"}}, {"feedback.function": None})
    assert kept["feedback"]["rule"] == "softmax"
    terms = {"reward.function": "own.py:reward", "reward.terms": {"function": 1.0, "length": 0.5}}
    assert loading.overlay({"reward": {"terms": {"model": 1.0}}}, terms)["reward"]["terms"] == terms["reward.terms"]
    loaded = loading.load(CONFIGS[QUICK_START], ["selection.function=own.py:choose", "feedback.function=own.py:rule"])
    assert (loaded.selection.strategy, loaded.feedback.rule) == ("custom", "custom")


@pytest.mark.parametrize(
    ("terms", "keys", "used"),
    [
        ({"model": 0.5, "function": 0.5}, {"reward.function": "own.py:g"}, {"model": 0.5, "function": 0.5}),
        (
            {"rouge_l": 1.0, "length": 0.5},
            {"reward.function": "own.py:g", "reward.terms.function": 0.5},
            {"rouge_l": 1.0, "length": 0.5, "function": 0.5},
        ),
        (
            {"rouge_l": 1.0},
            {"reward.terms.length": 2.0, "reward.function": "own.py:g"},
            {"rouge_l": 1.0, "length": 2.0},
        ),
        ({"rouge_l": 1.0}, {"reward.function": "own.py:g"}, {"function": 1.0}),
    ],
)
def test_weights_that_use_a_function_stay_when_another_function_is_given(
    terms: dict[str, float], keys: dict[str, object], used: dict[str, float]
) -> None:
    laid = loading.overlay({"reward": {"terms": terms, "function": "own.py:f"}}, keys)
    assert loading.build(laid, "here").reward.terms == used
    assert laid["reward"]["function"] == "own.py:g"


def test_weights_that_a_function_replaces_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "c.yaml").write_text("reward: {terms: {model: 0.5, length: 2.0}}\n")
    loading.load(tmp_path / "c.yaml", ["reward.function=own.py:g"])
    assert "c.yaml: reward.terms = {'model': 0.5, 'length': 2.0} is not used: reward.function is" in caplog.text
    assert "reward.terms.function=WEIGHT" in caplog.text
    caplog.clear()
    loading.load(tmp_path / "c.yaml", ["reward.function=own.py:g", "reward.terms.function=1.0"])
    loading.load(CONFIGS[QUICK_START], ["reward.function=own.py:g", "feedback.function=own.py:rule"])
    assert not caplog.text


CONDITIONS = (
    "'economy' in topic",
    '"economy" in topic',
    "q in ['a: b']",
    "q == 'a: b'",
    "q == 'a #b'",
    "'a' in q or q == 'b'",
    "[1] == q",
    "label != 'centre'",
)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_is_read_as_it_stands_or_as_one_quoted_text(condition: str) -> None:
    assert loading.parse_override(f"task.where= {condition} ") == ("task.where", condition)
    assert loading.parse_override(f"task.where={json.dumps(condition)}") == ("task.where", condition)


@pytest.mark.parametrize("nothing", ["", "null", "~"])
def test_a_condition_can_be_taken_away(nothing: str) -> None:
    assert loading.parse_override(f"task.where={nothing}") == ("task.where", None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("task.where", condition) for condition in CONDITIONS),
        ("task.split", "train"),
        ("task.config", "1.10"),
        ("task.config", "a: b # c"),
        ("task.config", "it's \u2028 \x07 'so' \U0001f600"),
        ("task.fields", {"answer": "2", "group": "on", "it's": "a, b"}),
        ("task.max_dropped", 0.05),
        ("task.similarity", True),
        ("task.where", None),
        ("groups.names", ["left", "3", "it's"]),
        ("groups.shares", [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_an_override_is_read_as_what_it_was_made_of(key: str, value: object) -> None:
    assert loading.parse_override(loading.override(key, value)) == (key, value)


@pytest.mark.parametrize("given", ["1.10", "1234567e8", "12e45678", "3", "1_000", "2024-01-01", "yes"])
def test_advice_on_quotes_shows_no_converted_value_and_survives_the_shell(given: str) -> None:
    said = refuse(f"model.revision={given}")
    assert """quote it as it was written: "...", and on a command line 'model.revision="..."'""" in said
    assert experiments.load(None, [f'model.revision="{given}"']).model.revision == given
    assert """on a command line 'groups.names=["...", ...]'""" in refuse("groups.names=[a, 3]")


@pytest.mark.parametrize("key", ["generation.samples_per_prompt", "queries.prompts_per_round", "training.steps"])
def test_numbers_of_hundreds_of_digits_are_refused(key: str) -> None:
    assert "has 400 digits, more than any key takes" in refuse(f"{key}={'9' * 400}")
    assert "more than any key takes, or quote it" in refuse(f"name={2**63}")
    assert experiments.load(None, [f"seed={2**63 - 1}"]).seed == 2**63 - 1


@pytest.mark.parametrize(
    "key",
    [
        *("queries.prompts_per_round", "generation.samples_per_prompt", "evaluation.prompts_per_group"),
        *("evaluation.neutral_prompts", "evaluation.steering_prompts_per_group", "evaluation.samples_per_prompt"),
    ],
)
def test_more_prompts_than_can_be_counted_are_refused(key: str) -> None:
    assert f"{key} = 10000000000: input should be less than or equal to 1000000000" in refuse(f"{key}=10000000000")


def test_dump_and_load_are_inverse(tmp_path: Path) -> None:
    e = experiments.load(
        None,
        [
            "loop.rounds=7",
            "model.lora=null",
            "groups.names=[a, b, c]",
            "groups.shares=[0.5, 0.3, 0.2]",
            "feedback.sensitivity=1.0",
        ],
    )
    (tmp_path / "c.yaml").write_text(loading.dump(e))
    assert experiments.load(tmp_path / "c.yaml") == e


def test_the_commented_config_is_the_config_and_explains_every_key(tmp_path: Path) -> None:
    text = loading.commented(Experiment())
    (tmp_path / "c.yaml").write_text(text)
    assert experiments.load(tmp_path / "c.yaml") == Experiment()
    for key, section, name in errors.all_keys(Experiment):
        field = section.model_fields[name]
        assert field.description, f"{key} has no description"
        assert section is Lora or field.description.split("\n")[0].replace("``", "`") in text


@pytest.mark.parametrize("name", CONFIGS)
def test_every_built_in_config_is_valid(name: str) -> None:
    experiments.load(CONFIGS[name])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.kin=retraining", "loop.kin: unknown key; the nearest is loop.kind"),
        ("rounds=3", "rounds: unknown key; the nearest is loop.rounds"),
        ("generation.replica=2", "generation.replica: unknown key; the nearest is generation.replicas"),
        ("loop.rounds=three", "loop.rounds = 'three': input should be a valid integer"),
        ("loop.rounds=0", "loop.rounds = 0: input should be greater than or equal to 1"),
        ("loop.kind=both", "loop.kind = 'both': input should be 'retraining' or 'incremental'"),
        ("model.lora.rank=1.5", "model.lora.rank = 1.5"),
        ("training.learning_rate=.nan", "training.learning_rate = nan"),
        ("seed=true", "seed = true: input should be a valid integer"),
        ("groups.names=[one]", "groups.names: ['one'] holds 1 group; at least 2 are needed"),
        ("groups.shares=[0.6, 0.6]", "groups.shares: [0.6, 0.6] sums to 1.2; shares are >= 0 and sum to 1"),
        ("groups.shares=[0.5, 0.3, 0.2]", "groups.shares: 3 numbers for 2 groups; give one per group"),
        ("groups.names=[a, a]", "must be distinct and not empty"),
        ("groups.names=[left, neutral]", "groups.names: 'neutral' is what prompts that reveal no group are called"),
        ("selection.strategy=vrss", "selection.strategy = 'vrss': unknown; one of "),
        ("feedback.rule=love", "feedback.rule: 'love' is unknown; choose one of static"),
        ("task.name=poems", "task.name = 'poems': unknown; one of language"),
        ("reward.choices_per_round=1", "reward.choices_per_round = 1: input should be greater than or equal to 2"),
        ("preset=magic", "magic"),
        ("feedback.rule=schedule", "feedback.step"),
        ("name=../../b", "name = '../../b': letters, digits, . _ - only, at most 200 bytes; it names a folder"),
        ("loop.rounds=", "loop.rounds: no value given; input should be a valid integer"),
        ("loop=", "loop: no value given; set loop.kind, loop.rounds"),
        ("groups=foo", "groups = 'foo': is a section; set groups.names, groups.shares"),
        ("groups.shares=0.5", "groups.shares = 0.5: input should be a list such as [0.6, 0.4]"),
        ("groups.names=a", "groups.names = 'a': input should be a list such as [north, south]"),
        ("model.lora=none", "model.lora = 'none': input should be a mapping such as {rank: 16, alpha: 32.0}, or null"),
        ("reward.terms=model", "reward.terms = 'model': input should be a mapping such as {model: 1.0}"),
        ("feedback.sensitivity=[1, x]", "feedback.sensitivity.1 = 'x': input should be a valid number"),
        ("sead=1", "sead: unknown key; the nearest is seed"),
        ("generation.rounds=1", "generation.rounds: unknown key; the nearest is loop.rounds"),
        ("sampels_per_prompt=1", "unknown key; the nearest is evaluation.samples_per_prompt"),
        ("loop.xyz=1", "loop.xyz: unknown key; none is like it; there are kind, rounds"),
        ("groups.names=[a,", "groups.names=[a,: the value ends early; quote values with spaces: 'groups.names=[a, b]'"),
        ("reward.terms={model:", "quote values with spaces: 'reward.terms={a: 1.0}'"),
        ("reward.terms={model: 1.0, x", "the value ends early"),
        ("feedback.rule=custom", "feedback.function"),
        ("selection.target=[0.2, 0.2]", "selection.target"),
        ("reward.terms={}", "reward.terms = {}"),
        ("loop.rounds", "'loop.rounds': expected key=value"),
        ("=3", "'=3': expected key=value"),
        ("loop.rounds=[", "loop.rounds=[: the value ends early"),
        ("loop.rounds=]", "not valid YAML"),
        ("seed.x=1", "seed = {'x': 1}: input should be a valid integer"),
    ],
)
def test_bad_values_are_named(override: str, message: str) -> None:
    assert message in refuse(override)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("loop.rounds: 3", "loop.rounds: unknown key; a file holds sections, not dots; write loop: {rounds: 3}"),
        ("model: {lora.rank: 8}", "write model: {lora: {rank: 8}}"),
        ("xxyyzz.q: 1", "xxyyzz.q: unknown key; a file holds sections, not dots; no key is like it"),
        ("reward.terms.model: 1.0", "write reward: {terms: {model: 1.0}}"),
        ("loop.roundss: 3", "loop.roundss: unknown key; the nearest is loop.rounds; a file holds sections, not dots; "),
        ("loop.roundss: 3", "write loop: {rounds: 3}"),
        ("loop.kind.x: 3", "the nearest is loop.kind; a file holds sections, not dots; write loop: {kind: 3}"),
    ],
)
def test_a_dotted_key_in_a_file_is_shown_as_a_section(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(line + "\n")
    with pytest.raises(ConfigError) as found:
        experiments.load(tmp_path / "c.yaml")
    assert said in str(found.value)


def test_every_conflict_is_listed_at_once() -> None:
    text = refuse("loop.kin=1", "loop.rounds=0", "groups.names=[x]")
    assert "3 problems" in text and len(text.splitlines()) == 4
    text = refuse("feedback.rule=x", "selection.strategy=y", "selection.best_of=9")
    assert "2 problems" in text


def test_conflicts_between_keys() -> None:
    assert "only generation.samples_per_prompt = 4" in refuse("selection.strategy=best_of_n", "selection.best_of=9")
    assert "task.name = 'language' has one judge only" in refuse("task.judge=encoder")
    assert "full weights have no adapter" in refuse("model.lora=null", "generation.refresh=adapter")
    even = refuse("task.real_text=even", "task.marker_strength=0.0")
    assert (
        "task.real_text = 'even': with task.marker_strength = 0 the kind of a real answer follows" in even
        and "marker_strength=0.05 or more" in even
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["selection.strategy=penalty", "selection.r_max=prompt"], "so that it keeps what vrs keeps"),
        (["selection.strategy=reweight", "selection.r_max=prompt"], "the best of few is accepted whatever its reward"),
        (["selection.strategy=tpp", "generation.samples_per_prompt=1"], "samples_per_prompt = 1: selection.strategy ="),
        (
            ["selection.strategy=vrs", "selection.r_max=prompt", "generation.samples_per_prompt=1"],
            "(r_max = 'prompt'), and keeps everything",
        ),
        (["selection.strategy=best_of_n", "selection.best_of=1"], "would take the first whatever its reward"),
        (["selection.strategy=tpp", "generation.temperature=0.0"], "which are all the same text"),
        (["reward.choices=balanced", "reward.model=somebody/else"], "learns from no choices"),
        (["reward.choices=balanced", "reward.terms={model: 0.0, topic: 1.0}"], "no reward model learns from choices"),
        (["feedback.floor=0.45", "groups.shares=[0.6, 0.4]"], "south begins below feedback.floor = 0.45"),
        (
            ["feedback.rule=retention", "feedback.agents=true", "feedback.users=3", "groups.shares=[0.9, 0.1]"],
            "feedback.users = 3: in whole users groups.shares = [0.9, 0.1] are [3, 0], none of them of south; raise",
        ),
        (
            ["feedback.rule=retention", "feedback.agents=true", "feedback.users=0.4", "feedback.floor=0.1"],
            "feedback.users = 0.4: in whole users groups.shares = [0.5, 0.5] are [0, 0], none of them of north and",
        ),
        (["feedback.floor=0.6"], "feedback.floor: 0.6 for each of 2 groups exceeds 1 in total"),
    ],
)
def test_settings_that_would_act_as_another_are_refused(overrides: list[str], message: str) -> None:
    assert message in refuse(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["selection.strategy=top", "selection.keep_fraction=0.001"], "'top' keeps none of 512 completions"),
        (["selection.strategy=quotas", "selection.keep_fraction=0.001"], "'quotas' keeps none of 512 completions"),
        (["selection.strategy=penalty", "selection.target=[1, 0]"], "the log excess over a 0 is infinite; use quotas"),
        (
            ["selection.strategy=penalty", "selection.target=initial", "groups.shares=[1, 0]"],
            "the log excess over a 0 is infinite; use quotas",
        ),
        *(
            ([f"selection.strategy={strategy}", "groups.shares=[1, 0]"], f"'{strategy}' wants completions of south")
            for strategy in ("importance", "quotas", "calibrated", "reweight")
        ),
    ],
)
def test_selections_that_fail_in_round_1_whatever_is_answered_are_refused(overrides: list[str], message: str) -> None:
    assert message in refuse("queries.prompts_per_round=128", "generation.samples_per_prompt=4", *overrides)


def test_settings_near_those_are_not_refused() -> None:
    experiments.load(None, ["selection.strategy=vrs", "selection.keep_fraction=0.001", "selection.target=[1, 0]"])
    experiments.load(None, ["selection.strategy=quotas", "selection.target=initial", "groups.shares=[1, 0]"])
    experiments.load(None, ["selection.strategy=importance", "selection.target=[1, 0]"])
    # the model may write what nobody asks for
    experiments.load(None, ["selection.strategy=importance", "selection.target_of=kinds", "groups.shares=[1, 0]"])
    for strategy in ("vrs", "calibrated"):
        experiments.load(None, [f"selection.strategy={strategy}", "selection.r_max=prompt"])
    # users in parts, and a group that has no share
    experiments.load(None, ["feedback.rule=retention", "feedback.users=0.4"])
    agents = ["feedback.rule=retention", "feedback.agents=true", "feedback.users=1"]
    experiments.load(None, [*agents, "groups.shares=[1, 0]", "selection.strategy=top"])
    experiments.load(None, ["selection.strategy=penalty", "selection.r_max=bound", "feedback.floor=0.4"])
    experiments.load(None, ["selection.strategy=top", "generation.samples_per_prompt=1", "selection.r_max=prompt"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["generation.samples_per_prompt=1"],
            "generation.samples_per_prompt = 1: training.objective = 'dpo' pairs two",
        ),
        (
            ["generation.temperature=0", "training.dpo_pairs=best_worst", "selection.strategy=none"],
            "generation.temperature = 0: training.objective = 'dpo' pairs two answers to one prompt, which are",
        ),
        (["cycle.real_share=0.5"], "cycle.real_share = 0.5: training.objective = 'dpo', and a real answer has no rej"),
        (["cycle.real_rows=7"], "cycle.real_rows = 7: training.objective = 'dpo', and a real answer has no rejected"),
        (["preset=incremental-real"], "cycle.real_share = 0.5: training.objective = 'dpo'"),
        (["training.loss_on=all"], "training.loss_on = 'all': training.objective = 'dpo' compares two completions"),
        (
            ["selection.strategy=vrs", "training.dpo_pairs=best_worst"],
            "selection.strategy = 'vrs': training.dpo_pairs = 'best_worst' makes its",
        ),
        (["selection.strategy=none"], "selection.strategy = 'none': rejects nothing that training.dpo_pairs = 'acc"),
        (["selection.strategy=importance"], "selection.strategy = 'importance': rejects nothing"),
        (["training.dpo_beta=0.0"], "training.dpo_beta = 0.0: input should be greater than 0"),
        (["training.dpo_reference=last"], "training.dpo_reference = 'last': input should be 'base' or 'start'"),
    ],
)
def test_what_dpo_cannot_go_with(overrides: list[str], message: str) -> None:
    assert message in refuse("training.objective=dpo", *overrides)


def test_what_dpo_goes_with() -> None:
    experiments.load(None, ["training.objective=dpo"])
    experiments.load(None, ["training.objective=dpo", "training.dpo_pairs=best_worst", "selection.strategy=none"])
    alone = ["selection.strategy=vrs", "generation.samples_per_prompt=1"]
    experiments.load(None, ["cycle.real_share=0.5", "training.loss_on=all", *alone])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- 1\n- 2", "holds a list; a config is a mapping of sections"),
        ("loop: {rounds: 1}\nloop: {rounds: 2}", "given twice"),
        ("1: 2", "key 1 is not text"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("[" * 2000, "nested too deeply"),
        ("a: " + "{b: " * 12 + "1" + "}" * 12, "nested 13 deep"),
        ("loop: 3", "loop = 3"),
        ("loop: {rounds: 010}", "010 is a number in base 8 to YAML 1.1: leave leading zeros out"),
        ("loop: {rounds: 1:30}", "1:30 is a number in base 60 to YAML 1.1"),
        ("name: 0123", """or quote it: "0123", and on a command line '"0123"'"""),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml") as caught:
        experiments.load(path)
    assert message in str(caught.value)


def test_zeros_and_colons_in_quotes_and_in_other_values_stay(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("name: '01e3'\nseed: 0\ntraining: {learning_rate: 0.01, warmup_fraction: 0}\n")
    found = experiments.load(path)
    assert (found.name, found.training.learning_rate, found.training.warmup_fraction) == ("01e3", 0.01, 0.0)
    assert experiments.loads(loading.dump(found), "again") == found


def test_a_section_lays_its_keys_on_those_that_are_there(tmp_path: Path) -> None:
    base = {"loop": {"kind": "retraining", "rounds": 7}, "reward": {"terms": {"model": 1.0}, "replicas": 2}}
    laid = loading.overlay(base, {"loop": {"rounds": 3}, "reward": {"terms": {"length": 1.0}}})
    assert laid == {"loop": {"kind": "retraining", "rounds": 3}, "reward": {"terms": {"length": 1.0}, "replicas": 2}}
    assert loading.overlay(base, {"loop": {}}) == base
    assert loading.overlay({"model": {"lora": None}}, {"model.lora": {}}) == {"model": {"lora": {}}}
    assert loading.overlay({"model": {"lora": {"rank": 4}}}, {"model": {"lora": {"alpha": 2.0}}})["model"]["lora"] == {
        "rank": 4,
        "alpha": 2.0,
    }
    # what a key of the section replaces, the section replaces too
    rule = loading.overlay({"feedback": {"rule": "softmax", "beta": 3.0}}, {"feedback": {"function": "own.py:rule"}})
    assert rule["feedback"] == {"beta": 3.0, "function": "own.py:rule"}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scpl init"):
        experiments.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match="byte 9 is not UTF-8"):
        experiments.load(tmp_path / "latin.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * (1 << 20) + b"##")
    with pytest.raises(ConfigError, match="at most 1,048,576"):
        experiments.load(tmp_path / "big.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert experiments.load(tmp_path / "empty.yaml") == Experiment()


def test_a_preset_sets_its_keys_wherever_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for name, keys in PRESETS.items():
        path.write_text(f"preset: {name}\nloop: {{rounds: 3}}\n")
        alone, in_file = experiments.load(None, [f"preset={name}"]), experiments.load(path)
        path.write_text(loading.commented(Experiment()))  # gives every key another value
        for experiment in (alone, in_file, experiments.load(path, [f"preset={name}"])):
            flat = yaml.safe_load(loading.dump(experiment))
            assert experiment.preset == name
            assert {key: flat[key.split(".")[0]][key.split(".")[1]] for key in keys} == keys
        path.write_text(loading.dump(alone))
        assert experiments.load(path) == alone, "keys that agree with a preset may stand beside it"
        other = next(each for each in PRESETS if PRESETS[each] != keys)
        assert experiments.load(path, [f"preset={other}"]) == experiments.load(None, [f"preset={other}"])
        assert experiments.loads(loading.dump(alone), "run", {"preset": other}).preset == other


@pytest.mark.parametrize("overrides", [["preset=retraining", "loop.kind=incremental"], ["loop.kind=incremental"]])
def test_a_preset_and_a_key_against_it_are_refused(tmp_path: Path, overrides: list[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("preset: retraining-real\n")
    with pytest.raises(
        ConfigError, match=r"preset = 'retraining.*': loop.kind = 'incremental' is given too; leave one"
    ):
        experiments.load(path, overrides)
    assert experiments.load(path, [*overrides, "preset=null"]).loop.kind == "incremental"


def test_a_config_with_every_key_says_which_are_against_a_preset_put_into_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(loading.commented(Experiment()).replace("preset: null", "preset: retraining-accumulate"))
    with pytest.raises(ConfigError, match="2 problems") as caught:
        experiments.load(path)
    assert "loop.kind = 'incremental' is given too" in str(caught.value)
    assert "cycle.kind = 'replace' is given too" in str(caught.value)


@pytest.mark.parametrize("key", ["generation.replicas", "reward.replicas", "generation.max_sequences"])
def test_what_the_machine_decides_is_auto_or_a_number(key: str) -> None:
    section, name = key.split(".")
    assert getattr(getattr(loading.load(None, [f"{key}=auto"]), section), name) == "auto"
    assert getattr(getattr(loading.load(None, [f"{key}=3"]), section), name) == 3
    for wrong in ("0", "-1", "many", "2.5", "null"):
        with pytest.raises(ConfigError, match=f"{key}"):
            loading.load(None, [f"{key}={wrong}"])


def test_files_of_older_versions_are_read_without_keys_that_say_nothing_any_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    values = {"generation": {"prompts_per_chunk": 64, "top_p": 0.5}}
    experiment = loading.build(values, "runs/old/config.yaml")
    assert experiment == loading.build({"generation": {"top_p": 0.5}}, "here")
    assert "runs/old/config.yaml: generation.prompts_per_chunk does nothing any more" in caplog.text
    assert values["generation"] == {"prompts_per_chunk": 64, "top_p": 0.5}
