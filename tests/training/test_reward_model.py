"""Bradley-Terry reward models: fitting, scoring, likelihoods."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BloomConfig,
    BloomForSequenceClassification,
)

from scpl_ray.models.likelihood import equal_width_batches, negative_log_likelihood
from scpl_ray.models.template import template_of
from scpl_ray.protocols import Choice
from scpl_ray.training import classifiers, reward_model
from tests.support.chat import chat_tokenizer
from tests.support.tiny_models import FAMILIES, VOCABULARY, save_model

PAIRS = 1000
GOOD, BAD = 90, 91
"""A word that users like, and one that they do not."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: save_model(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


def words(draw: np.random.Generator, count: int) -> str:
    return " ".join(f"w{i}" for i in draw.integers(20, 90, count))


def choices(count: int, seed: int = 0) -> list[Choice]:
    """Texts that end in one of two words; three users in four prefer the good one."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        texts = [f"{words(draw, draw.integers(1, 6))} w{w}" for w in (GOOD, BAD)]
        made.append(Choice(words(draw, draw.integers(1, 8)), *(texts if draw.random() < 0.75 else texts[::-1])))
    return made


def fit(base: Path, output: Path, made: list[Choice], seed: int = 4) -> dict[str, float]:
    output.mkdir()
    return reward_model.fit(made, base=base, output=output, seed=seed, tokens_per_batch=4096)


def texts_of(made: list[Choice]) -> list[tuple[str, str]]:
    return [(c.prompt, text) for c in made for text in (c.chosen, c.rejected)]


@pytest.fixture(scope="module")
def fitted(families: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("fitted") / "model"
    torch.set_num_threads(1)
    return folder, fit(families["llama"], folder, choices(PAIRS))


def test_fit_learns_what_users_prefer(fitted: tuple[Path, dict[str, float]]) -> None:
    folder, figures = fitted
    assert (figures["pairs"], figures["held_out_pairs"], figures["steps"]) == (900, 100, 58)
    # the best possible are accuracy .75 and -.75 log .75 - .25 log .25 = .562 nats; a guess is .5 and .693
    assert figures["held_out_accuracy"] > 0.62
    assert figures["held_out_loss"] < 0.66
    model = reward_model.load(folder, torch.float32, "cpu")
    fresh = choices(200, seed=1)
    rewards = np.array(model.score(texts_of(fresh), 4096)).reshape(-1, 2)
    good_first = np.array([c.chosen.endswith(f"w{GOOD}") for c in fresh])
    assert np.mean((rewards[:, 0] > rewards[:, 1]) == good_first) > 0.95


def test_a_second_pass_follows_only_where_the_first_makes_few_steps(
    families: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    for fewest in (3, 4):
        monkeypatch.setattr(reward_model, "FEWEST_STEPS", fewest)
        steps.append(fit(families["llama"], tmp_path / str(fewest), choices(110))["steps"])  # 99 to train on, 32 a step
    assert steps == [4.0, 8.0]


def test_rewards_are_standardised_on_the_training_choices(fitted: tuple[Path, dict[str, float]]) -> None:
    model = reward_model.load(fitted[0], torch.float32, "cpu")
    order = reward_model.generator(4, "reward model split").permutation(PAIRS)
    made = choices(PAIRS)
    training = [made[i] for i in order[PAIRS // 10 :]]
    rewards = np.array(model.score(texts_of(training), 4096))
    assert rewards.mean() == pytest.approx(0.0, abs=1e-4)
    assert rewards.std() == pytest.approx(1.0, abs=1e-4)


def test_held_out_accuracy_is_of_pairs_that_were_not_trained_on(
    families: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # users who choose at random: all that can be learned is by heart
    monkeypatch.setattr(reward_model, "EPOCHS", 25)
    draw = np.random.default_rng(0)
    made = [Choice(words(draw, 4), words(draw, 6), words(draw, 6)) for _ in range(120)]
    figures = fit(families["llama"], tmp_path / "m", made)
    assert figures["training_loss"] < 0.1
    assert figures["held_out_loss"] > 0.6


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_files(families: dict[str, Path], tmp_path: Path, family: str) -> None:
    made = choices(60)
    digests = []
    for number, seed in enumerate((4, 4, 5)):
        torch.manual_seed(number)
        fit(families[family], tmp_path / str(number), made, seed)
        weights = (tmp_path / str(number) / "model.safetensors").read_bytes()
        digests.append(hashlib.sha256(weights).hexdigest())
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_text_alone_scores_as_in_company(families: dict[str, Path], tmp_path: Path, family: str) -> None:
    fit(families[family], tmp_path / "m", choices(60))
    model = reward_model.load(tmp_path / "m", torch.float32, "cpu")
    draw = np.random.default_rng(5)
    texts = [(words(draw, draw.integers(1, 20)), words(draw, draw.integers(1, 30))) for _ in range(60)]
    together = model.score(texts, 4096)
    assert len(set(together)) > 50
    assert [model.score([text], 4096)[0] for text in texts] == together
    assert model.score(texts, 40) == together
    order = draw.permutation(60)
    assert model.score([texts[i] for i in order], 4096) == [together[i] for i in order]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_the_models_own(families: dict[str, Path], tmp_path: Path, family: str) -> None:
    fit(families[family], tmp_path / "m", choices(60))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    settings = json.loads((tmp_path / "m" / "config.json").read_text())
    for prompt, text in texts_of(choices(5, seed=3)):
        ids = torch.tensor([tokenizer(prompt)["input_ids"] + tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            expected = float(model(input_ids=ids).logits[0, 0]) - settings["reward_offset"]
        (ours,) = reward_model.load(tmp_path / "m", torch.float32, "cpu").score([(prompt, text)], 4096)
        assert ours == pytest.approx(expected, abs=1e-4)


def test_encoders_from_elsewhere(families: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
        num_labels=1,
        initializer_range=0.2,
    )
    BertForSequenceClassification(settings).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(families["llama"]).save_pretrained(tmp_path)
    model = reward_model.load(tmp_path, torch.float32, "cpu")
    draw = np.random.default_rng(5)
    texts = [(words(draw, draw.integers(1, 60)), words(draw, draw.integers(1, 20))) for _ in range(40)]
    together = model.score(texts, 4096)
    assert np.std(together) > 0.01
    for few in (1, 2, 3, 5, 7):
        apart = [model.score(texts[i : i + few], 4096) for i in range(0, len(texts), few)]
        assert list(itertools.chain(*apart)) == together, f"{few} texts at a time"
    long = texts[0][0]
    (cut,) = model.sequence.encode_pairs([(long + " w5" * 60, "w7 w8")])
    assert len(cut) == 39 and cut[-2:] == (7, 8)


def test_a_prompt_that_carries_its_first_token_gets_no_second_one(families: dict[str, Path]) -> None:
    model = classifiers.untrained(families["llama"], ["reward"], seed=0)
    chat = chat_tokenizer(["say", "hello", *(f"w{i}" for i in range(20, 99))])
    say, hello = chat.convert_tokens_to_ids(["say", "hello"])
    prompt = template_of(chat).apply("say")
    own = chat(prompt, add_special_tokens=False)["input_ids"]
    assert own[0] == 1
    long = " ".join(f"w{i}" for i in range(20, 60))
    for single, pair, before, between in (
        ("<s> $A", "<s> $A <s>:1 $B:1", [1], [1]),  # as Llama's: the completion keeps one of its own
        ("<s> $A", "<s> $A $B:1", [1], []),
        ("<s> $A", "$A $B:1", [], []),
    ):
        chat.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=[("<s>", 1)]
        )
        with_chat = dataclasses.replace(model, tokenizer=chat, max_tokens=40)
        plain, written, cut = with_chat.encode_pairs([("say", "hello"), (prompt, "hello"), (f"{prompt} {long}", long)])
        assert plain == (*before, say, *between, hello)
        assert written == (*own, *between, hello)
        assert len(cut) == 40 and cut.count(1) == len([*before, *between])


def test_a_text_may_be_as_long_as_the_config_or_the_tokenizer_says(families: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(families["llama"])
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 2, "num_labels": 1}
    for name, more in {"known": {"seq_length": 50}, "unknown": {}}.items():
        torch.manual_seed(0)
        BloomForSequenceClassification(BloomConfig(**sizes, **more)).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    model = reward_model.load(tmp_path / "known", torch.float32, "cpu")
    assert model.sequence.max_tokens == 49
    texts = texts_of(choices(10))
    assert [model.score([text], 4096)[0] for text in texts] == pytest.approx(model.score(texts, 4096), abs=1e-5)
    with pytest.raises(ValueError, match=r"unknown: neither its config nor its tokenizer says .* max_position_embed"):
        reward_model.load(tmp_path / "unknown", torch.float32, "cpu")
    assert classifiers.untrained(tmp_path / "unknown", ["reward"], seed=0, max_tokens=20).max_tokens == 20
    tokenizer.model_max_length = 30
    tokenizer.save_pretrained(tmp_path / "unknown")
    assert reward_model.load(tmp_path / "unknown", torch.float32, "cpu").sequence.max_tokens == 29


OWN_CODE = """
import transformers


class Config(transformers.BertConfig):
    model_type = "own_invention"


class Model(transformers.BertForSequenceClassification):
    config_class = Config
"""


def test_code_that_came_with_a_reward_model_is_run_where_the_user_allows_it(
    families: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "model"
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
    BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, num_labels=1, **shape)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(families["llama"]).save_pretrained(folder)
    (folder / "own.py").write_text(OWN_CODE)
    values = json.loads((folder / "config.json").read_text()) | {"model_type": "own_invention"}
    values["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Model"}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="trust_remote_code"):
        reward_model.load(folder, torch.float32, "cpu")
    model = reward_model.load(folder, torch.float32, "cpu", trust_remote_code=True)
    assert type(model.sequence.model).__name__ == "Model"
    (tmp_path / "fitted").mkdir()
    reward_model.fit(
        choices(20), base=folder, output=tmp_path / "fitted", seed=0, tokens_per_batch=4096, trust_remote_code=True
    )
    assert np.isfinite(
        reward_model.load(tmp_path / "fitted", torch.float32, "cpu", trust_remote_code=True).score([("w5", "w6")], 99)
    ).all()


def test_reward_models_that_are_none(families: dict[str, Path], tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(families["llama"], num_labels=3)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(families["llama"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"reward\.model: .* has 3 outputs .*; a reward model has one, or"):
        reward_model.load(tmp_path, torch.float32, "cpu")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        reward_model.load(tmp_path, torch.float32, "cpu")


GROUPS = ("likes", "dislikes")


def opposed(count: int, seed: int = 0) -> list[Choice]:
    """Users of one group choose the texts with the good word, users of the other those with the bad one."""
    draw = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        texts = [f"{words(draw, draw.integers(1, 6))} w{w}" for w in (GOOD, BAD)]
        prompt = words(draw, draw.integers(1, 8))
        made += [Choice(prompt, *(texts[::-1] if k else texts), group) for k, group in enumerate(GROUPS)]
    return made


@pytest.fixture(scope="module")
def two(families: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    torch.set_num_threads(1)
    figures = reward_model.fit(
        opposed(300), base=families["llama"], output=folder, seed=4, tokens_per_batch=4096, groups=GROUPS
    )
    assert figures["held_out_accuracy"] > 0.95
    return folder


def test_one_output_per_group_learns_opposed_preferences(two: Path) -> None:
    plain = AutoModelForSequenceClassification.from_pretrained(two)
    assert plain.config.num_labels == 2 and plain.config.id2label == dict(enumerate(GROUPS))
    model = reward_model.load(two, torch.float32, "cpu", GROUPS[::-1])
    fresh = opposed(50, seed=1)
    texts, groups = texts_of(fresh), [c.group for c in fresh for _ in range(2)]
    rewards = np.array(model.score(texts, 4096, groups)).reshape(-1, 2)
    assert np.mean(rewards[:, 0] > rewards[:, 1]) > 0.95
    other = np.array(model.score(texts, 4096, [GROUPS[g == GROUPS[0]] for g in groups])).reshape(-1, 2)
    assert np.mean(other[:, 0] < other[:, 1]) > 0.95
    assert model.nats.shape == (2,) and (model.nats > 0).all()


def test_outputs_are_standardised_and_the_models_own(two: Path) -> None:
    model = reward_model.load(two, torch.float32, "cpu", GROUPS)
    rewards = model.rewards(texts_of(opposed(300)), 4096)
    assert np.abs(rewards.mean(axis=0)).max() < 0.1 and np.abs(rewards.std(axis=0) - 1).max() < 0.1
    plain = AutoModelForSequenceClassification.from_pretrained(two)
    prompt, text = texts_of(opposed(1, seed=3))[0]
    with torch.inference_mode():
        logits = plain(input_ids=torch.tensor(model.sequence.encode_pairs([(prompt, text)]))).logits[0].double().numpy()
    own = logits - json.loads((two / "config.json").read_text())["reward_offset"]
    assert model.rewards([(prompt, text)], 4096)[0] == pytest.approx(own, abs=1e-4)


def test_every_output_of_a_text_alone_is_that_in_company(two: Path) -> None:
    model = reward_model.load(two, torch.float32, "cpu", GROUPS)
    texts = texts_of(opposed(30, seed=2))
    together = model.rewards(texts, 4096)
    np.testing.assert_array_equal(np.vstack([model.rewards([text], 4096) for text in texts]), together)
    order = np.random.default_rng(0).permutation(len(texts))
    np.testing.assert_array_equal(model.rewards([texts[i] for i in order], 200), together[order])


def test_outputs_are_those_of_the_groups(two: Path, families: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2 outputs \(likes, dislikes\); .* groups\.names \(likes, others\)"):
        reward_model.load(two, torch.float32, "cpu", ("likes", "others"))
    model = reward_model.load(two, torch.float32, "cpu", GROUPS)
    for groups in ([], ["nobody"], [None]):
        with pytest.raises(ValueError, match=r"its outputs are likes, dislikes: every text needs"):
            model.score([("w5", "w6")], 4096, groups)
    with pytest.raises(ValueError, match="choices: users of dislikes, likes made them, but there is to be one output"):
        reward_model.fit(
            opposed(5),
            base=families["llama"],
            output=tmp_path,
            seed=0,
            tokens_per_batch=99,
            groups=(*GROUPS, "third"),
        )


def test_a_group_whose_choices_are_all_held_out_is_named(families: dict[str, Path], tmp_path: Path) -> None:
    order = reward_model.generator(0, "reward model split").permutation(20)
    made = [dataclasses.replace(one, group="likes") for one in opposed(10)]
    made[order[0]] = dataclasses.replace(made[order[0]], group="dislikes")
    with pytest.raises(ValueError, match="users of dislikes made 1 of 20, all of which were held out"):
        reward_model.fit(
            made, base=families["llama"], output=tmp_path, seed=0, tokens_per_batch=99, groups=("likes", "dislikes")
        )


def test_frozen_layers_stay_as_they_are(families: dict[str, Path], tmp_path: Path) -> None:
    made = choices(60)
    reward_model.fit(
        made,
        base=families["llama"],
        output=tmp_path,
        seed=4,
        tokens_per_batch=4096,
        effort=reward_model.Effort(max_tokens=20, frozen_layers=1, epochs=1, pairs_per_step=10),
    )
    before = AutoModelForCausalLM.from_pretrained(families["llama"]).model.state_dict()
    after = AutoModelForSequenceClassification.from_pretrained(tmp_path).model.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith(("embed_tokens", "layers.0."))} <= same
    assert not any(name.startswith("layers.1.") for name in same)
    model = reward_model.load(tmp_path, torch.float32, "cpu")
    assert model.sequence.max_tokens == 20
    # a completion keeps 15 tokens, then the prompt its last ones
    long = (" ".join(f"w{i}" for i in range(20, 60)), " ".join(f"w{i}" for i in range(60, 99)))
    short, ids = model.sequence.encode_pairs([("w20", "w60"), long])
    assert short == (20, 60)
    assert ids == (55, 56, 57, 58, 59, *range(60, 75))


def test_short_texts_are_trained_on_apart_from_long_ones_where_that_spares_padding(
    families: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert classifiers.by_length([3, 9, 4] * 20) == [list(range(60))]
    assert classifiers.by_length([10, 100, 11, 101] * 100) == [
        [i for i in range(400) if i % 2 == 0],
        [i for i in range(400) if i % 2],
    ]
    assert classifiers.by_length([5000]) == [[0]]
    model = classifiers.untrained(families["llama"], ["reward"], seed=0)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head().weight)
    draw = np.random.default_rng(0)
    texts = [tuple(draw.integers(3, VOCABULARY, n).tolist()) for n in draw.integers(2, 38, 40)]
    together = model.forward(texts, 39)
    monkeypatch.setattr(classifiers, "LEAST_SPARED", 50)
    widths = []
    forward = classifiers.SequenceModel.forward
    monkeypatch.setattr(
        classifiers.SequenceModel, "forward", lambda self, *given: widths.append(given[1]) or forward(self, *given)
    )
    apart = model.forward_any(texts)
    assert len(widths) > 3 and len(set(widths)) == len(widths)
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-5)
    parameters = list(model.model.parameters())
    losses = (outputs.square() @ torch.ones(1) for outputs in (together, apart))
    for one, other in zip(*(torch.autograd.grad(loss.sum(), parameters) for loss in losses), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", [*FAMILIES, "bert"])
def test_bfloat16_makes_no_ties(families: dict[str, Path], family: str, tmp_path: Path) -> None:
    """Rewards around 1: a head in bfloat16 has 128 values between 1 and 2, and best-of-n would go by index."""
    if family == "bert":
        shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96}
        model = BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, num_labels=1, **shape))
    else:
        model = AutoModelForSequenceClassification.from_pretrained(families[family], num_labels=1)
    torch.manual_seed(3)
    head = next(m for m in reversed(list(model.modules())) if isinstance(m, torch.nn.Linear) and m.out_features == 1)
    head.weight.data.normal_(0.0, 0.5)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(families.get(family, families["llama"])).save_pretrained(tmp_path)
    texts = texts_of(choices(200))
    exact = np.array(reward_model.load(tmp_path, torch.float32, "cpu").score(texts, 4096))
    rounded = np.array(reward_model.load(tmp_path, torch.bfloat16, "cpu").score(texts, 4096))
    assert len(set(rounded.tolist())) == len(set(exact.tolist())) == len(set(texts))
    assert np.corrcoef(exact, rounded)[0, 1] > 0.98
    assert [reward_model.load(tmp_path, torch.bfloat16, "cpu").score([one], 4096)[0] for one in texts[:5]] == (
        rounded[:5].tolist()
    )


def test_choices_that_teach_nothing(families: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choices: 1 given; a reward model needs at least 2"):
        fit(families["llama"], tmp_path / "a", choices(1))
    with pytest.raises(ValueError, match="chosen and rejected texts must differ"):
        fit(families["llama"], tmp_path / "b", [Choice("w5", "w6", "w6")] * 20)


def test_equal_width_batches() -> None:
    batches = equal_width_batches([3, 17, 16, 40, 1, 33, 2], tokens_per_batch=32, max_width=45)
    assert batches == [(8, [0, 4, 6]), (16, [2]), (24, [1]), (40, [3]), (40, [5])]


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_are_the_models_own(families: dict[str, Path], family: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(families[family]).eval()
    draw = np.random.default_rng(2)
    sequences = [
        (tuple(draw.integers(3, 200, draw.integers(1, 9)).tolist()), tuple(draw.integers(3, 200, n).tolist()))
        for n in (*draw.integers(0, 30, 20).tolist(), 0, 1)
    ]
    together = negative_log_likelihood(model, sequences, 4096)
    for (prompt, completion), (nll, count) in zip(sequences, together, strict=True):
        with torch.inference_mode():
            logprobs = model(torch.tensor([prompt + completion])).logits[0].double().log_softmax(-1)
        expected = -sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(completion))
        assert (nll, count) == (pytest.approx(expected, abs=1e-3), len(completion))
    assert [negative_log_likelihood(model, [s], 4096)[0] for s in sequences] == together
    assert negative_log_likelihood(model, sequences, 16) == together


def test_likelihoods_that_do_not_exist(families: dict[str, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(families["llama"])
    with pytest.raises(ValueError, match="a prompt of 0 and a completion of 1 tokens"):
        negative_log_likelihood(model, [((), (5,))], 4096)
    with pytest.raises(ValueError, match=r"of 100 and a completion of 29 tokens .*1 to 128 tokens are possible"):
        negative_log_likelihood(model, [((5,) * 100, (5,) * 29)], 4096)
