"""The base model of the built-in language, round 0: trained once, then taken from a cache on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers

from scpl_ray.config import Experiment, Model
from scpl_ray.learning import pretraining, tiny
from scpl_ray.protocols import Task
from scpl_ray.records import Query
from scpl_ray.seeds import derive_seed
from scpl_ray.tasks.language import Language

logger = logging.getLogger(__name__)

BASE_SEED = 2026
"""Seeds the base model's data and first weights. Never the run's seed: all runs of a study start from one base."""
MAX_PERPLEXITY_RATIO = 1.15
"""A loop on a model that has not learned the language shows nothing, so a fully trained base must get this near."""
HELD_OUT_SENTENCES = 2000
LOCK_SECONDS = 1800.0
"""How long to wait for another process that trains the same base model."""
CARD = "card.json"

Progress = Callable[[int, int], None]
"""Called with the steps done and the number of steps."""


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """What is known of a base model; lies beside it as ``card.json``."""

    key: str
    """SHA-256 of everything that determines the model."""
    family: str
    sentences: int
    """Sentences of real text it was trained on, once each."""
    parameters: int
    tokens: int
    """Tokens with a loss."""
    seconds: float
    """Wall time of training."""
    held_out_nats_per_token: float
    """Of answers in held-out real text, end of sequence included."""
    grammar_nats_per_token: float
    """The same under the true distribution: the least possible on average."""
    perplexity_ratio: float
    """exp of the difference; 1 is perfect."""
    files: dict[str, str]
    """SHA-256 of each other file of the folder, by name."""


@dataclasses.dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model on disk: a folder that ``AutoModelForCausalLM``, ``AutoTokenizer`` and vLLM load."""

    path: Path
    card: Card


def default_cache_dir() -> Path:
    """``$SCPL_CACHE``, or ``~/.cache/scpl_ray``."""
    return Path(os.environ.get("SCPL_CACHE") or Path.home() / ".cache" / "scpl_ray")


def base_key(config: Experiment, task: Language) -> str:
    """SHA-256, hexadecimal, of everything that determines the base model, the run's seed not being part of it.

    The number of threads is not part of it either, although it moves the last bits of the weights; the card's checksums
    tell two such models apart.
    """
    facts = {
        "language": task.fingerprint,
        "family": config.model.family,
        "sentences": config.model.base_training_sentences,
        "seed": BASE_SEED,
        "sizes": [tiny.LAYERS, tiny.HEADS, tiny.HIDDEN, tiny.POSITIONS, tiny.GATED_WIDTH, tiny.PLAIN_WIDTH],
        "recipe": [
            pretraining.SENTENCES_PER_STEP,
            pretraining.MATRIX_LEARNING_RATE,
            pretraining.LEARNING_RATE,
            *pretraining.ADAM_BETAS,
            pretraining.WARMUP_FRACTION,
            pretraining.MAX_GRAD_NORM,
        ],
        "libraries": [torch.__version__, transformers.__version__],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def ensure_base(
    config: Experiment, task: Task, cache_dir: Path | None = None, progress: Progress | None = None
) -> BaseModel:
    """The base model of this experiment: from the cache, or trained now (half a minute on two cores) and cached.

    A cached model is used only if every file has the checksum of its card; else it is built anew. Of several processes
    that want the same model one trains it and the others wait.

    Args:
        config: ``model.family``, ``model.base_training_sentences`` and the language's keys matter.
        task: the built-in language.
        cache_dir: default :func:`default_cache_dir`.
        progress: told of training steps; never called where the cache has the model.

    Raises:
        ValueError: the task is not the built-in language.
        RuntimeError: with ``model.base_training_sentences`` at its default or above, the model's held-out perplexity is
            more than :data:`MAX_PERPLEXITY_RATIO` times the language's.
        TimeoutError: another process held the model's lock for :data:`LOCK_SECONDS`.
    """
    if not isinstance(task, Language):
        raise ValueError(
            f"model.name: 'tiny' is trained on the built-in language, not on task.name {config.task.name!r}; "
            "use task.name=language, or give a Hub id or a folder as model.name"
        )
    cache = cache_dir if cache_dir is not None else default_cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    key = base_key(config, task)
    folder = cache / f"base-{config.model.family}-{key[:16]}"
    with _locked(folder.with_suffix(".lock")):
        found = _valid(folder, key)
        if found is None:
            with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=cache) as scratch:
                card = _build(config, task, key, Path(scratch) / "new", progress or (lambda done, steps: None))
                if folder.exists():
                    folder.replace(Path(scratch) / "damaged")
                (Path(scratch) / "new").replace(folder)
            found = BaseModel(folder, card)
    _warn_if_untrained(found.card)
    return found


def _build(config: Experiment, task: Language, key: str, folder: Path, progress: Progress) -> Card:
    """Train and save a base model into a new folder, card included."""
    family, sentences = config.model.family, config.model.base_training_sentences
    logger.info("training the %s base model on %d sentences", family, sentences)
    examples = task.real_examples(sentences, seed=derive_seed(BASE_SEED, "base model text"))
    texts = [f"{query.prompt} {answer}" for query, answer in examples]
    # The word list is one more text: a rare word that the examples lack must not become unknown.
    tokenizer = tiny.build_tokenizer([*texts, " ".join(task.vocabulary)], family)
    held_out = task.held_out_examples(HELD_OUT_SENTENCES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(BASE_SEED, "base model weights"))
        model = tiny.build_model(family, tokenizer)
        started = time.monotonic()
        tokens = pretraining.train(model, _encode(tokenizer, examples), progress)
        seconds = time.monotonic() - started
    nats = pretraining.nats_per_token(model, _encode(tokenizer, held_out))
    exact = task.nats_per_token(held_out)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = Card(
        key=key,
        family=family,
        sentences=sentences,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tokens=tokens,
        seconds=seconds,
        held_out_nats_per_token=nats,
        grammar_nats_per_token=exact,
        perplexity_ratio=math.exp(nats - exact),
        files={path.name: _sha256(path) for path in sorted(folder.iterdir())},
    )
    if card.perplexity_ratio > MAX_PERPLEXITY_RATIO and sentences >= _default_sentences():
        raise RuntimeError(
            f"the {family} base model did not learn the language: held-out {nats:.3f} nats per token against "
            f"{exact:.3f} for the language itself, perplexity ratio {card.perplexity_ratio:.3f}, at most "
            f"{MAX_PERPLEXITY_RATIO} allowed; raise model.base_training_sentences (now {sentences})"
        )
    (folder / CARD).write_text(json.dumps(dataclasses.asdict(card), indent=2) + "\n", encoding="utf-8")
    logger.info("base model: %d parameters, perplexity ratio %.3f", card.parameters, card.perplexity_ratio)
    return card


def _encode(
    tokenizer: transformers.PreTrainedTokenizerFast, examples: list[tuple[Query, str]]
) -> list[pretraining.Pair]:
    """Token ids of prompts and answers, end-of-sequence tokens added."""
    prompts = tokenizer([query.prompt for query, _ in examples])["input_ids"]
    answers = tokenizer([answer for _, answer in examples])["input_ids"]
    return [(prompt, [*answer, tokenizer.eos_token_id]) for prompt, answer in zip(prompts, answers, strict=True)]


def _valid(folder: Path, key: str) -> BaseModel | None:
    """The cached model, or ``None``, with a warning, where it is damaged."""
    if not folder.exists():
        return None
    try:
        card = Card(**json.loads((folder / CARD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        logger.warning("the cached base model %s has no readable card (%s); it is built anew", folder, error)
        return None
    present = {path.name: _sha256(path) for path in folder.iterdir() if path.name != CARD}
    if card.key != key or present != card.files:
        wrong = sorted(name for name in {*present, *card.files} if present.get(name) != card.files.get(name))
        logger.warning("the cached base model %s is damaged (%s); it is built anew", folder, ", ".join(wrong) or "key")
        return None
    return BaseModel(folder, card)


def _warn_if_untrained(card: Card) -> None:
    if card.perplexity_ratio > MAX_PERPLEXITY_RATIO:
        logger.warning(
            "the base model has hardly learned the language (perplexity ratio %.2f after %d sentences): fit for tests, "
            "not for findings; model.base_training_sentences is %d by default",
            card.perplexity_ratio,
            card.sentences,
            _default_sentences(),
        )


def _default_sentences() -> int:
    return int(Model().base_training_sentences)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the system releases it when the process ends, however it ends."""
    with path.open("w") as file:
        started = time.monotonic()
        told = started
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.monotonic()
                if now - started > LOCK_SECONDS:
                    raise TimeoutError(
                        f"another process has held {path} for {LOCK_SECONDS:.0f} s; end it, or set SCPL_CACHE to "
                        "another folder"
                    ) from None
                if now - told >= 30.0:
                    logger.info("waiting for another process that trains the base model (%s)", path)
                    told = now
                time.sleep(0.2)
        yield
