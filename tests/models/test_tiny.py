import dataclasses
import json
import logging
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from scpl_ray.config import Experiment, Model
from scpl_ray.models import pretraining
from scpl_ray.models.tiny import Family, build_model, build_tokenizer
from scpl_ray.models.tiny_base import recipe
from scpl_ray.records import Query
from scpl_ray.seeds import derive_seed
from scpl_ray.storage import cache
from scpl_ray.tasks.language.base_model import (
    BASE_SEED,
    BaseModel,
    Card,
    base_key,
    check_learned,
    ensure_base,
    found_base,
)
from scpl_ray.tasks.language.grammar import words_of
from scpl_ray.tasks.language.task import Language, build

FAMILIES: tuple[Family, ...] = ("llama", "qwen2", "gpt2")


def experiment(**sections: Any) -> Experiment:
    return Experiment.model_validate(sections)


@pytest.fixture(scope="module")
def language() -> Language:
    return build(Experiment())


def tokenizer_of(language: Language, family: Family) -> PreTrainedTokenizerFast:
    texts = [f"{query.prompt} {text}" for query, text in language.real_examples(500, seed=0)]
    return build_tokenizer([*texts, " ".join(language.vocabulary)], family)


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load_give_the_same_tokens_and_logits(family: Family, language: Language, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(language, family)
    torch.manual_seed(1)
    model = build_model(family, tokenizer).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    texts = [f"{query.prompt} {text}" for query, text in language.held_out_examples(50)]
    assert reloaded(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    reloaded.save_pretrained(tmp_path / "again")
    loaded.save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert again(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    ids = torch.tensor([tokenizer(texts[0])["input_ids"]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, loaded(ids).logits)
    assert 300_000 <= sum(parameter.numel() for parameter in loaded.parameters()) <= 900_000
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert loaded.config.eos_token_id == reloaded.eos_token_id == tokenizer.convert_tokens_to_ids("<eos>")
    assert loaded.config.pad_token_id == reloaded.pad_token_id
    assert loaded.dtype == torch.float32


def test_text_comes_back_and_prompts_are_prefixes(language: Language) -> None:
    tokenizer = tokenizer_of(language, "llama")
    assert len(tokenizer) == len(language.vocabulary) + len(("<pad>", "<unk>", "<eos>"))
    for query, text in language.held_out_examples(500):
        whole = f"{query.prompt} {text}"
        prompt, answer, both = (tokenizer(one)["input_ids"] for one in (query.prompt, text, whole))
        assert both == prompt + answer
        assert [tokenizer.decode(ids) for ids in (prompt, answer, both)] == [query.prompt, text, whole]
        assert tokenizer.unk_token_id not in both
        assert len(answer) == len(words_of(text))
        assert tokenizer.decode([*answer, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_any_word_salad_comes_back(language: Language) -> None:
    """Sampled text is encoded again for scoring: its ids must be the sampled ones."""
    tokenizer = tokenizer_of(language, "llama")
    generator = torch.Generator().manual_seed(3)
    for _ in range(200):
        ids = torch.randint(3, len(tokenizer), (20,), generator=generator).tolist()
        assert tokenizer(tokenizer.decode(ids))["input_ids"] == ids


def test_the_same_texts_give_the_same_ids(language: Language) -> None:
    assert tokenizer_of(language, "llama").get_vocab() == tokenizer_of(language, "llama").get_vocab()


SMALL = {"model": {"base_training_sentences": 4000}}
TINIEST = {"model": {"base_training_sentences": 130}}


@pytest.fixture(scope="module")
def small(cached: Path, language: Language) -> BaseModel:
    return ensure_base(experiment(**SMALL), language)


def test_a_small_base_model_beats_word_frequencies(small: BaseModel, language: Language) -> None:
    training = language.real_examples(4000, seed=derive_seed(BASE_SEED, "base model text"))
    counts = Counter(word for _, text in training for word in [*words_of(text), "<eos>"])
    total = sum(counts.values())
    held_out = [word for _, text in language.held_out_examples(2000) for word in [*words_of(text), "<eos>"]]
    frequencies = -sum(math.log(counts[word] / total) for word in held_out) / len(held_out)
    card = small.card
    assert card.held_out_nats_per_token < frequencies - 1.0
    assert card.perplexity_ratio == pytest.approx(math.exp(card.held_out_nats_per_token - card.grammar_nats_per_token))
    assert card.held_out_nats_per_token > card.grammar_nats_per_token == pytest.approx(1.91, abs=0.02)
    assert card.sentences == 4000
    assert card.tokens == sum(len(words_of(query.prompt)) + len(words_of(text)) for query, text in training)


def test_the_base_model_loads_and_answers(small: BaseModel, language: Language) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(small.path), AutoModelForCausalLM.from_pretrained(small.path)
    held_out = language.held_out_examples(2000)
    pairs = [
        (tokenizer(query.prompt)["input_ids"], [*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
        for query, text in held_out
    ]
    assert pretraining.nats_per_token(model.eval(), pairs) == pytest.approx(
        small.card.held_out_nats_per_token, abs=1e-5
    )
    alone = [pretraining.nats_per_token(model, [pair]) * len(pair[1]) for pair in pairs[:40]]
    together = pretraining.nats_per_token(model, pairs[:40]) * sum(len(answer) for _, answer in pairs[:40])
    assert sum(alone) == pytest.approx(together, rel=1e-5)
    ids = tokenizer([language.neutral_prompts(1)[0].prompt], return_tensors="pt")
    answer = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True)


def test_the_cache_is_used(small: BaseModel, language: Language) -> None:
    calls: list[tuple[int, int]] = []
    again = ensure_base(
        experiment(**SMALL, seed=7, name="other"), language, progress=lambda done, steps: calls.append((done, steps))
    )
    assert again == small
    assert not calls
    assert json.loads((small.path / "card.json").read_text()) == dataclasses.asdict(small.card)


def test_another_base_seed_is_another_base_model(language: Language) -> None:
    usual = experiment(**SMALL)
    other = usual.model_copy(update={"model": usual.model.model_copy(update={"base_seed": 7})})
    assert base_key(other, language) != base_key(usual, language)


@pytest.mark.usefixtures("cached")
def test_training_is_repeatable_reports_progress_and_leaves_torch_alone(
    language: Language, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[tuple[int, int]] = []
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    with caplog.at_level(logging.WARNING):
        first = ensure_base(experiment(**TINIEST), language, progress=lambda done, steps: calls.append((done, steps)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert "130 training sentences" in caplog.text
    caplog.clear()
    (first.path / "config.json").write_text("{}")
    torch.set_num_threads(2 if threads == 1 else 1)
    try:
        again = ensure_base(experiment(**TINIEST), language)
    finally:
        torch.set_num_threads(threads)
    assert "damaged" in caplog.text
    assert again.card.weights_sha256 == first.card.weights_sha256
    assert json.loads((again.path / "config.json").read_text())["model_type"] == "llama"
    assert ensure_base(experiment(**TINIEST), language) == again


@pytest.mark.usefixtures("cached")
def test_of_two_at_once_one_trains(language: Language) -> None:
    config = experiment(model={"base_training_sentences": 131, "family": "gpt2"})
    calls: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(ensure_base, config, language, progress=lambda done, steps: calls.append(done))
            for _ in range(2)
        ]
        first, second = (one.result() for one in both)
    assert first == second
    assert calls == [1, 2, 3]


def test_the_key_is_what_determines_the_model(language: Language) -> None:
    def key(**sections: Any) -> str:
        config = experiment(**sections)
        return base_key(config, build(config))

    default = key()
    assert default == key(seed=9) == key(name="x", loop={"rounds": 2}, training={"epochs": 3})
    others = [
        key(groups={"names": ("south", "north"), "shares": (0.6, 0.4)}, task={"marker_strength": 0.5}),
        key(groups={"names": ("a", "b", "c"), "shares": (0.5, 0.25, 0.25)}),
        key(task={"marker_strength": 0.7}),
        key(model={"family": "qwen2"}),
        key(model={"base_training_sentences": 999}),
    ]
    assert len({default, *others}) == 6


class OneKind(Language):
    """The language with real text of its first group alone."""

    def real_examples(self, count: int, *, seed: int) -> list[tuple[Query, str]]:
        found = super().real_examples(len(self.kinds) * count, seed=seed)
        return [one for one in found if one[0].group == self.kinds[0]][:count]


class MoreWords(Language):
    """The language with a word that its text lacks."""

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self.vocabulary = (*self.vocabulary, "zebra")


class OtherJudge(Language):
    """The language with a reward term of its own."""

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        return {**super().rule_terms(query, text), "brief": 1.0}


def test_other_text_of_a_class_derived_from_the_language_is_another_base_model(language: Language) -> None:
    config = experiment(**TINIEST)
    settings = (config.groups.names, config.task.marker_strength)
    keys = [base_key(config, kind(*settings)) for kind in (Language, OneKind, MoreWords, OtherJudge)]
    assert len(set(keys[:3])) == 3 and keys[3] == keys[0]
    assert keys[0] == cache.key_of({"language": language.fingerprint, **recipe(config)}), "known models stay valid"


@pytest.mark.usefixtures("cached")
def test_a_model_of_other_text_is_not_held_to_the_language(caplog: pytest.LogCaptureFixture) -> None:
    config = experiment(**TINIEST)
    task = OneKind(config.groups.names, config.task.marker_strength)
    assert found_base(config, task) is None
    with caplog.at_level(logging.WARNING):
        assert ensure_base(config, task).path == found_base(config, task)
    assert "has not learned the language" not in caplog.text


def test_groups_by_other_names_share_the_base_model(language: Language) -> None:
    config = experiment(groups={"names": ("left", "right"), "shares": (0.5, 0.5)})
    assert base_key(config, build(config)) == base_key(Experiment(), language)


def test_a_model_that_did_not_learn_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    default = Model().base_training_sentences
    card = Card("llama", default, 300_000, 1_000_000, 30.0, 2.1, 1.9, 1.2214, "")
    with pytest.raises(RuntimeError, match=r"2\.100 nats per token against 1\.900.*ratio 1\.221.*at most 1\.15"):
        check_learned(card)
    check_learned(dataclasses.replace(card, perplexity_ratio=1.15))
    assert not caplog.text
    check_learned(dataclasses.replace(card, sentences=default - 1))
    assert "do for tests, not for findings" in caplog.text
