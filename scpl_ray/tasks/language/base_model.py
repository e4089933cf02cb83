"""The base model of the built-in language (round 0): trained once, then taken from the cache."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from pathlib import Path

import torch
import transformers

from scpl_ray.config import Experiment, Model
from scpl_ray.models import pretraining, tiny
from scpl_ray.models.tiny_base import BASE_SEED, CARD, WEIGHTS, Progress, digest_of, recipe
from scpl_ray.records import Query
from scpl_ray.seeds import derive_seed
from scpl_ray.storage import cache
from scpl_ray.storage.files import sha256
from scpl_ray.tasks.language.task import Language

logger = logging.getLogger(__name__)

MAX_PERPLEXITY_RATIO = 1.15
"""Largest ratio allowed for a fully trained base: a loop on a model that has not learned the language shows nothing."""
HELD_OUT_SENTENCES = 2000


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """Facts about a base model; stored beside it as ``card.json``."""

    family: str
    sentences: int
    """Number of sentences of real text it was trained on, once each."""
    parameters: int
    tokens: int
    """Number of tokens with a loss."""
    seconds: float
    """Wall-clock time of training, in seconds."""
    held_out_nats_per_token: float
    """Mean negative log-likelihood of answers in held-out real text, end-of-sequence tokens included."""
    grammar_nats_per_token: float
    """The same under the true distribution, which is the lowest possible value on average."""
    perplexity_ratio: float
    """exp of the difference between the two; 1 is perfect."""
    weights_sha256: str


@dataclasses.dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model on disk: a folder that ``AutoModelForCausalLM``, ``AutoTokenizer`` and vLLM load."""

    path: Path
    card: Card


def base_key(config: Experiment, task: Language) -> str:
    """The SHA-256 (hexadecimal) of everything that determines the base model; the run's seed is not part of it."""
    text = _other_text(config, task)
    return cache.key_of({"language": task.fingerprint, **recipe(config), **({} if text is None else {"text": text})})


def ensure_base(config: Experiment, task: Language, *, progress: Progress | None = None) -> BaseModel:
    """The base model of this experiment: from the cache, or trained now on two threads and cached.

    Args:
        config: ``model.family``, ``model.base_training_sentences``, ``model.base_seed``, the language's keys.
        task: the built-in language.
        progress: called with the number of training steps done and of all steps; not called if the model is cached.

    Raises:
        ValueError: the cache cannot be written.
        RuntimeError: with ``model.base_training_sentences`` at its default or above, the model's held-out perplexity is
            more than :data:`MAX_PERPLEXITY_RATIO` times the language's. With fewer sentences a warning is logged. A
            model of other text than the language's is not held to it.
    """

    def make(folder: Path) -> None:
        card = _build(config, task, folder, progress or (lambda done, steps: None))
        (folder / CARD).write_text(json.dumps(dataclasses.asdict(card), indent=2) + "\n", encoding="utf-8")

    folder = cache.entry(_entry(config), base_key(config, task), make)
    card = Card(**json.loads((folder / CARD).read_text(encoding="utf-8")))
    if _other_text(config, task) is None:
        check_learned(card)
    return BaseModel(folder, card)


def found_base(config: Experiment, task: Language) -> Path | None:
    """The folder of the base model of this experiment, or ``None`` if it has not been trained yet."""
    return cache.found(_entry(config), base_key(config, task))


def _examples(config: Experiment, task: Language) -> list[tuple[Query, str]]:
    seed = derive_seed(config.model.base_seed, "base model text")
    return task.real_examples(config.model.base_training_sentences, seed=seed)


def _other_text(config: Experiment, task: Language) -> str | None:
    """The digest of the text that a class derived from the language trains on; ``None``: it is the language's own."""
    if type(task) is Language:
        return None
    own, plain = (
        digest_of([*(f"{query.prompt}\0{answer}" for query, answer in _examples(config, one)), *one.vocabulary])
        for one in (task, task.plain())
    )
    return own if own != plain else None


def _entry(config: Experiment) -> str:
    seed = config.model.base_seed
    return f"base-{config.model.family}" + (f"-seed-{seed}" if seed != BASE_SEED else "")


def _build(config: Experiment, task: Language, folder: Path, progress: Progress) -> Card:
    """Train a base model and save it with its tokenizer."""
    family, sentences = config.model.family, config.model.base_training_sentences
    logger.info("training the %s base model on %d sentences", family, sentences)
    examples = _examples(config, task)
    texts = [f"{query.prompt} {answer}" for query, answer in examples]
    # The word list is added as one more text, so that a rare word that the examples lack is not an unknown token.
    tokenizer = tiny.build_tokenizer([*texts, " ".join(task.vocabulary)], family)
    held_out = task.held_out_examples(HELD_OUT_SENTENCES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.model.base_seed, "base model weights"))
        model = tiny.build_model(family, tokenizer)
    started = time.monotonic()
    tokens = pretraining.train(model, _encode(tokenizer, examples), progress)
    seconds = time.monotonic() - started
    nats = pretraining.nats_per_token(model, _encode(tokenizer, held_out))
    exact = task.nats_per_token(held_out)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = Card(
        family=family,
        sentences=sentences,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tokens=tokens,
        seconds=seconds,
        held_out_nats_per_token=nats,
        grammar_nats_per_token=exact,
        perplexity_ratio=math.exp(nats - exact),
        weights_sha256=sha256(folder / WEIGHTS),
    )
    logger.info("base model: %d parameters, perplexity ratio %.3f", card.parameters, card.perplexity_ratio)
    return card


def _encode(
    tokenizer: transformers.PreTrainedTokenizerFast, examples: list[tuple[Query, str]]
) -> list[pretraining.Pair]:
    """Token ids of prompts and answers, with end-of-sequence tokens."""
    prompts = tokenizer([query.prompt for query, _ in examples])["input_ids"]
    answers = tokenizer([answer for _, answer in examples])["input_ids"]
    return [(prompt, [*answer, tokenizer.eos_token_id]) for prompt, answer in zip(prompts, answers, strict=True)]


def check_learned(card: Card) -> None:
    """Raise an error for a fully trained model that has not learned the language; warn if it had too little text.

    Raises:
        RuntimeError: see :func:`ensure_base`.
    """
    if card.perplexity_ratio <= MAX_PERPLEXITY_RATIO:
        return
    default = int(Model().base_training_sentences)
    figures = (
        f"the {card.family} base model has not learned the language: held-out {card.held_out_nats_per_token:.3f} nats "
        f"per token against {card.grammar_nats_per_token:.3f} for the language itself, perplexity ratio "
        f"{card.perplexity_ratio:.3f} where at most {MAX_PERPLEXITY_RATIO} is allowed"
    )
    if card.sentences >= default:
        raise RuntimeError(f"{figures}; raise model.base_training_sentences (now {card.sentences})")
    logger.warning(
        "%s; %d training sentences (default %d) do for tests, not for findings", figures, card.sentences, default
    )
