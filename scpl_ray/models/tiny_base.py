"""Tiny base models (round 0) for any task: a tokenizer made for the task and a model trained on its real examples.

Both are made once and then taken from the cache. The built-in language has its own base model
(:mod:`scpl_ray.tasks.language.base_model`), because the best possible likelihood of that language is known.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from scpl_ray.config import Experiment, Model
from scpl_ray.models import muon, pretraining, prompts, tiny
from scpl_ray.models.tokens import encode_answer, encode_prompt, load_tokenizer
from scpl_ray.protocols import Task
from scpl_ray.records import Query
from scpl_ray.seeds import derive_seed
from scpl_ray.storage import cache
from scpl_ray.storage.files import sha256

logger = logging.getLogger(__name__)

BASE_SEED = Model().base_seed
"""The usual ``model.base_seed``; not the run's seed, so runs share one base unless a study varies it."""
CARD = "card.json"
WEIGHTS = "model.safetensors"
POSITIONS = 512
"""Longest sequence of prompt and answer, in tokens."""
PROMPT_POSITIONS = POSITIONS // 2
"""Tokens of a prompt that a model learns from, so that its answer has room."""
TOKENIZER_EXAMPLES = 10_000
"""Number of real examples from which a tokenizer is made if the task brings none."""


Progress = Callable[[int, int], None]
"""A function that is called with the number of steps done and the number of all steps."""


@dataclasses.dataclass(frozen=True, slots=True)
class TaskCard:
    """Facts about a task's tiny base model; stored beside it as ``card.json``."""

    task: str
    family: str
    examples: int
    """Number of real examples it was trained on; they are repeated in turn if the task has fewer."""
    different_examples: int
    parameters: int
    vocabulary: int
    tokens: int
    """Number of tokens with a loss."""
    seconds: float
    """Wall-clock time of training, in seconds."""
    held_out_answers: int
    """Number of references of held-out evaluation prompts that it was measured on."""
    held_out_nats_per_token: float | None
    """Mean over those, end-of-sequence tokens included; ``None`` if the task's prompts have no references."""
    unigram_nats_per_token: float | None
    """The same for a unigram model of the training answers; a base model above this value has learned nothing."""
    weights_sha256: str


@dataclasses.dataclass(frozen=True, slots=True)
class TaskBaseModel:
    """A base model on disk: a folder that ``AutoModelForCausalLM``, ``AutoTokenizer`` and vLLM load."""

    path: Path
    card: TaskCard


def recipe(config: Experiment) -> dict[str, Any]:
    """The settings by which a tiny base model is built and trained, as JSON values."""
    return {
        "family": config.model.family,
        "sentences": config.model.base_training_sentences,
        "seed": config.model.base_seed,
        "sizes": [tiny.LAYERS, tiny.HEADS, tiny.HIDDEN, tiny.POSITIONS, tiny.GATED_WIDTH, tiny.PLAIN_WIDTH],
        "recipe": [
            pretraining.SENTENCES_PER_STEP,
            pretraining.SHARDS,
            pretraining.MATRIX_LEARNING_RATE,
            *(*muon.COEFFICIENTS, muon.ITERATIONS, muon.MOMENTUM),
            pretraining.LEARNING_RATE,
            *pretraining.ADAM_BETAS,
            pretraining.WARMUP_FRACTION,
            pretraining.MAX_GRAD_NORM,
        ],
        "libraries": [torch.__version__, transformers.__version__],
    }


def ensure_tokenizer(config: Experiment, texts: Iterable[str]) -> Path:
    """The folder of a byte-level BPE tokenizer for these texts: from the cache, or made now (seconds).

    Args:
        config: ``model.family`` and ``model.vocabulary`` are used.
        texts: any number of texts; the same texts in the same order give the same tokenizer.

    Raises:
        ValueError: there is no text, or the cache cannot be written.
    """
    kept = list(texts)
    if not kept:
        raise ValueError(f"model.name = 'tiny': task.name = {config.task.name!r} has no text to learn from")
    facts = {
        "texts": digest_of(kept),
        "family": config.model.family,
        "vocabulary": config.model.vocabulary,
        "positions": POSITIONS,
        "libraries": [tokenizers.__version__, transformers.__version__],
    }

    def make(folder: Path) -> None:
        tiny.build_subword_tokenizer(kept, config.model.family, config.model.vocabulary, POSITIONS).save_pretrained(
            folder
        )

    return cache.entry("tokenizer", cache.key_of(facts), make)


def ensure_task_base(config: Experiment, task: Task, *, progress: Progress | None = None) -> TaskBaseModel:
    """The tiny base model of a task: from the cache, or trained now on two threads and cached.

    Args:
        config: ``model.family``, ``model.vocabulary``, ``model.base_training_sentences``, ``model.base_seed`` and
            ``task.max_prompt_tokens`` are used, but not the run's seed.
        task: the task whose real examples the model learns.
        progress: called with the number of training steps done and of all steps; not called if the model is cached.

    Raises:
        ValueError: the task has no real examples, or its prompts are longer than ``task.max_prompt_tokens``, or the
            cache cannot be written.
    """
    wanted = config.model.base_training_sentences
    examples = task.real_examples(wanted, seed=derive_seed(config.model.base_seed, "base model text"))
    source = task.tokenizer or ensure_tokenizer(
        config, (f"{query.prompt}{answer}" for query, answer in examples[:TOKENIZER_EXAMPLES])
    )
    if task.tokenizer is None:  # a task that brings one was checked with it before
        prompts.check(config, task, source)
    facts = {
        "examples": digest_of(f"{query.prompt}\0{answer}" for query, answer in examples),
        "tokenizer": sha256(source / "tokenizer.json"),
        "max_prompt_tokens": config.task.max_prompt_tokens,
        "positions": POSITIONS,
        **recipe(config),
    }

    def make(folder: Path) -> None:
        card = _build(config, task, examples, source, folder, progress or (lambda done, steps: None))
        (folder / CARD).write_text(json.dumps(dataclasses.asdict(card), indent=2) + "\n", encoding="utf-8")

    # a task of the user's own is named by its file and function
    label = re.sub(r"[^\w.-]+", "-", config.task.name.rpartition("/")[2])
    folder = cache.entry(f"base-{label}-{config.model.family}", cache.key_of(facts), make)
    return TaskBaseModel(folder, TaskCard(**json.loads((folder / CARD).read_text(encoding="utf-8"))))


def _build(
    config: Experiment,
    task: Task,
    examples: Sequence[tuple[Query, str]],
    source: Path,
    folder: Path,
    progress: Progress,
) -> TaskCard:
    family = config.model.family
    tokenizer = load_tokenizer(source)

    def encode(prompt: str, answer: str) -> pretraining.Pair:
        asked = encode_prompt(tokenizer, prompt, min(config.task.max_prompt_tokens, PROMPT_POSITIONS))
        return asked, encode_answer(tokenizer, answer)[: POSITIONS - len(asked)]

    pairs = [encode(query.prompt, answer) for query, answer in examples]
    logger.info("training a tiny %s base model on %d examples of %s", family, len(pairs), config.task.name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.model.base_seed, "base model weights"))
        model = tiny.build_model(family, tokenizer, POSITIONS)
    started = time.monotonic()
    tokens = pretraining.train(model, pairs, progress)
    seconds = time.monotonic() - started
    held_out = [encode(query.prompt, answer) for query, answer in _held_out(config, task, examples)]
    nats = pretraining.nats_per_token(model, held_out, pairs_per_batch=32) if held_out else None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = TaskCard(
        task=config.task.name,
        family=family,
        examples=len(pairs),
        different_examples=len({(query.prompt, answer) for query, answer in examples}),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocabulary=len(tokenizer),
        tokens=tokens,
        seconds=seconds,
        held_out_answers=len(held_out),
        held_out_nats_per_token=nats,
        unigram_nats_per_token=_unigram(pairs, held_out, len(tokenizer)) if held_out else None,
        weights_sha256=sha256(folder / WEIGHTS),
    )
    logger.info("base model: %s", card)
    if nats is not None and card.unigram_nats_per_token is not None and nats >= card.unigram_nats_per_token:
        logger.warning(
            "the tiny base model of %s has learned no more than how often tokens occur (%.2f nats per token, %.2f); "
            "raise model.base_training_sentences (now %d)",
            config.task.name,
            nats,
            card.unigram_nats_per_token,
            len(pairs),
        )
    return card


def _held_out(config: Experiment, task: Task, examples: Sequence[tuple[Query, str]]) -> list[tuple[Query, str]]:
    """Held-out prompts and their references, with the same start as real answers (some tasks begin with a space)."""
    query, answer = examples[0]
    before = answer.removesuffix(query.reference) if query.reference and answer.endswith(query.reference) else ""
    asked = task.group_prompts(config.evaluation.prompts_per_group)
    return [(query, f"{before}{query.reference}") for query in asked if query.reference]


def _unigram(pairs: Sequence[pretraining.Pair], held_out: Sequence[pretraining.Pair], vocabulary: int) -> float:
    """Cross-entropy (nats per token) of held-out answers under add-one-smoothed token counts of training answers."""
    counts = Counter(token for _, answer in pairs for token in answer)
    total = counts.total() + vocabulary
    tokens = [token for _, answer in held_out for token in answer]
    return -sum(math.log((counts[token] + 1) / total) for token in tokens) / len(tokens)


def digest_of(texts: Iterable[str]) -> str:
    """The SHA-256 of texts in their order, in hexadecimal."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode()
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()
