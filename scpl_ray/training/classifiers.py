"""Sequence-classification models, which map a text to one number per output, and the loop that fine-tunes them.

Reward models (:mod:`scpl_ray.training.reward_model`) and encoder judges (:mod:`scpl_ray.judges.encoder`) are such
models: ``AutoModelForSequenceClassification``, safetensors only.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from scpl_ray.models import loading
from scpl_ray.models.attention import compute_caps
from scpl_ray.models.likelihood import POSITIONS_STEP, equal_width_batches, pad_right, tokens_per_pass
from scpl_ray.models.limits import positions
from scpl_ray.models.tokens import Ids, load_tokenizer
from scpl_ray.seeds import derive_seed, generator

logger = logging.getLogger(__name__)

REFERENCE_WIDTH = 64
"""Largest hidden size with the full peak learning rate; above it, the rate falls as 1 / hidden size."""
WARMUP = 0.1
LEAST_SPARED = 1024
"""Tokens of padding for which one more forward pass is worth its price."""
COMPLETION_SHARE = 0.75
"""Largest share of a pair's tokens that the completion may take."""


@dataclasses.dataclass(frozen=True)
class SequenceModel:
    """A sequence-classification model in memory with its tokenizer."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    filler: int
    """Token id of the padding on the right of texts that are shorter than the width of their batch."""
    max_tokens: int
    """Longest text, in tokens."""
    segmented: bool = False
    """Whether :meth:`pair_outputs` says which of a pair's tokens are whose (``token_type_ids``)."""

    @property
    def takes_segments(self) -> bool:
        """Whether the tokenizer says which of a pair's tokens are whose, and the model has embeddings for that."""
        name, kinds = "token_type_ids", self.model.config.to_dict().get("type_vocab_size") or 0
        taken = inspect.signature(self.model.forward).parameters
        return name in self.tokenizer.model_input_names and name in taken and kinds > 1

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the outputs."""
        config = self.model.config
        return tuple(str(config.id2label[i]) for i in range(config.num_labels))

    def encode(self, text: str) -> Ids:
        """Token ids of one text; a text that is too long loses its end."""
        return tuple(self.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"])

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Ids]:
        """Token ids of prompts and completions as pairs of texts of the tokenizer, tokenised separately.

        What the tokenizer writes before a pair is not written twice if a chat template has put it before the prompt.
        Between the two stands what the tokenizer separates pairs with: nothing, a separator, or, with Llama's, a
        beginning-of-sequence token of the completion.

        A completion that exceeds :data:`COMPLETION_SHARE` of the longest text loses its end. Then a prompt that does
        not fit loses its beginning, because the last turn of a conversation says most about what is asked.
        """
        return [ids for ids, _ in self._tokenise(pairs)]

    def _tokenise(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        """As :meth:`encode_pairs`, with the segment of every token: of the prompt (0) or the completion (1)."""
        if not pairs:
            return []
        # All at once takes a tenth of the time of one after another; only long texts have to be looked at closely.
        written = self._written_before()
        bare = [(prompt.removeprefix(written), completion) for prompt, completion in pairs]
        prompts, completions = map(list, zip(*bare, strict=True))
        encoded = self.tokenizer(prompts, completions, return_token_type_ids=True, verbose=False)
        never_cut = int(COMPLETION_SHARE * self.max_tokens)
        return [
            (tuple(ids), tuple(segments)) if len(ids) <= never_cut else self._tokenise_long(*pair)
            for pair, ids, segments in zip(bare, encoded["input_ids"], encoded["token_type_ids"], strict=True)
        ]

    def _written_before(self) -> str:
        """The special tokens that the tokenizer writes before a pair of texts, as text."""
        encoded = self.tokenizer("a", "a", return_special_tokens_mask=True)
        count = [*encoded["special_tokens_mask"], 0].index(0)
        return "".join(self.tokenizer.convert_ids_to_tokens(encoded["input_ids"][:count]))

    def _tokenise_long(self, prompt: str, completion: str) -> tuple[Ids, Ids]:
        completion = self._cut(completion, int(COMPLETION_SHARE * self.max_tokens), from_end=False)
        room = self.max_tokens - len(self.tokenizer("", completion)["input_ids"])
        encoded = self.tokenizer(
            self._cut(prompt, room, from_end=True),
            completion,
            truncation="only_first",
            max_length=self.max_tokens,
            return_token_type_ids=True,
        )
        return tuple(encoded["input_ids"]), tuple(encoded["token_type_ids"])

    def _cut(self, text: str, tokens: int, *, from_end: bool) -> str:
        """The text of the first (or last) tokens of a text."""
        encoded = self.tokenizer(text, add_special_tokens=False)
        count = len(encoded["input_ids"])
        if count <= tokens:
            return text
        if tokens == 0:
            return ""
        if from_end:
            return text[encoded.token_to_chars(count - tokens).start :]
        return text[: encoded.token_to_chars(tokens - 1).end]

    def pair_outputs(self, pairs: Sequence[tuple[str, str]], tokens_per_batch: int) -> NDArray[np.float64]:
        """Outputs of prompts and completions, as :meth:`outputs` of what :meth:`encode_pairs` makes of them."""
        tokenised = self._tokenise(pairs)
        segments = [segments for _, segments in tokenised] if self.segmented else None
        return self.outputs([ids for ids, _ in tokenised], tokens_per_batch, segments=segments)

    def outputs(
        self,
        texts: Sequence[Ids],
        tokens_per_batch: int,
        *,
        segments: Sequence[Ids] | None = None,
        threads: int = 1,
    ) -> NDArray[np.float64]:
        """Outputs of encoded texts, in order, shape (texts, outputs); the same for any number of threads.

        Args:
            texts: token ids.
            tokens_per_batch: tokens per forward pass, padding included; see
                :func:`scpl_ray.models.likelihood.tokens_per_pass`.
            segments: the segment of every token; ``None``: the model is told none.
            threads: how many passes are made at a time.
        """
        found = np.full((len(texts), self.model.config.num_labels), np.nan)

        def read(batch: tuple[int, list[int]]) -> None:
            width, members = batch
            told = None if segments is None else [segments[i] for i in members]
            with torch.inference_mode():  # of a thread, not of the process
                found[members] = self.forward([texts[i] for i in members], width, told).double().cpu().numpy()

        # One position more than needed, so that there is always padding: without any, attention uses other kernels.
        lengths = [len(ids) + 1 for ids in texts]
        batches = equal_width_batches(lengths, tokens_per_pass(self.model, tokens_per_batch), self.max_tokens + 1)
        if threads == 1:
            for batch in batches:
                read(batch)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(read, batches))
        return found

    def forward(self, texts: Sequence[Ids], width: int, segments: Sequence[Ids] | None = None) -> Tensor:
        """Head outputs, shape (texts, outputs), float32."""
        device = self.model.device
        inputs = {
            "input_ids": pad_right(texts, width, self.filler, device),
            "attention_mask": pad_right([(1,) * len(ids) for ids in texts], width, 0, device),
        }
        if segments is not None:
            inputs["token_type_ids"] = pad_right(segments, width, 0, device)
        outputs: Tensor = self.model(**inputs).logits
        return outputs.float()

    def forward_any(self, texts: Sequence[Ids]) -> Tensor:
        """As :meth:`forward`, of texts of any lengths: where much of the work would be padding, short ones go apart."""
        parts = by_length([len(ids) for ids in texts])
        # one position more than needed, as in outputs()
        found = [self.forward([texts[i] for i in part], max(len(texts[i]) for i in part) + 1) for part in parts]
        place = torch.tensor([i for part in parts for i in part], device=found[0].device)
        return torch.cat(found)[torch.argsort(place)]

    def tokens_read(self, texts: Sequence[Ids]) -> int:
        """Tokens that :meth:`forward_any` reads, padding included."""
        lengths = [len(ids) for ids in texts]
        return sum(len(part) * (max(lengths[i] for i in part) + 1) for part in by_length(lengths))

    def head(self) -> nn.Linear:
        """The last layer, which computes the outputs."""
        outputs = self.model.config.num_labels
        return [m for m in self.model.modules() if isinstance(m, nn.Linear) and m.out_features == outputs][-1]

    def save(self, folder: Path) -> None:
        """Write config, safetensors and tokenizer, including the longest text, into an existing folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.model_max_length = self.max_tokens + 1
        self.tokenizer.save_pretrained(folder)


def by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of sequences, split by length as long as a split in halves spares at least ``LEAST_SPARED`` tokens."""

    def split(order: list[int]) -> list[list[int]]:
        half = len(order) // 2
        if half * (lengths[order[-1]] - lengths[order[half - 1]]) < LEAST_SPARED:
            return [sorted(order)]
        return split(order[:half]) + split(order[half:])

    return split(sorted(range(len(lengths)), key=lambda i: lengths[i]))


def load(source: Path, dtype: torch.dtype, device: str, *, trust_remote_code: bool = False) -> SequenceModel:
    """Load a model from a folder or the Hub, safetensors only.

    Its head computes in float32: outputs in bfloat16 have steps of 2^-8 near 1, so that different texts would be equal.
    The outputs of a text do not depend on the texts that share its batch.

    Args:
        source: a folder, or a Hub id as a path.
        dtype: number format of the other weights in memory.
        device: device on which the weights are placed.
        trust_remote_code: whether code that came with the model may be run.

    Raises:
        ValueError: weights are missing, or neither config nor tokenizer says how long a text may be.
    """
    model = loading.load(AutoModelForSequenceClassification, source, dtype, trust_remote_code=trust_remote_code)
    wrapped = _wrap(model.to(device), load_tokenizer(source, trust_remote_code=trust_remote_code), None)
    for layer in wrapped.model.modules():
        if isinstance(layer, nn.Linear):
            _compute_whole_blocks(layer)
    wrapped.head().float().register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    return wrapped


def _compute_whole_blocks(layer: nn.Linear) -> None:
    """Let a layer get multiples of ``POSITIONS_STEP`` vectors, some of them zeros.

    Kernels treat a few vectors in another way, so that the last layers of an encoder, which get one vector per text,
    would give a text another last bit in a batch of one or two.
    """
    plain = layer.forward

    def forward(vectors: Tensor) -> Tensor:
        count = vectors.shape[:-1].numel()
        if count % POSITIONS_STEP == 0:
            return plain(vectors)
        filled = F.pad(vectors.reshape(count, -1), (0, 0, 0, -count % POSITIONS_STEP))
        return plain(filled)[:count].reshape(*vectors.shape[:-1], -1)

    layer.forward = forward  # type: ignore[method-assign, assignment]


def untrained(
    base: Path,
    labels: Sequence[str],
    *,
    seed: int,
    device: str = "cpu",
    max_tokens: int | None = None,
    trust_remote_code: bool = False,
) -> SequenceModel:
    """Set up a model for fine-tuning: the body of a base model in float32 and a head of zeros.

    Args:
        base: folder of the base model, a language model or an encoder, with its tokenizer.
        labels: names of the outputs.
        seed: seed of the weights that the base does not have.
        device: device on which the model is placed.
        max_tokens: longest text, in tokens; ``None``: as many as the base allows.
        trust_remote_code: whether code that came with the base may be run.

    Raises:
        ValueError: weights of the body are missing, or ``max_tokens`` is ``None``, and neither config nor tokenizer
            says how long a text may be.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "new weights") % 2**63)
        model = loading.load(
            AutoModelForSequenceClassification,
            base,
            torch.float32,
            trust_remote_code=trust_remote_code,
            new_head=True,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )
    wrapped = _wrap(model.to(device), load_tokenizer(base, trust_remote_code=trust_remote_code), max_tokens)
    head = wrapped.head()
    nn.init.zeros_(head.weight)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    return wrapped


def _wrap(model: Any, tokenizer: PreTrainedTokenizerBase, max_tokens: int | None) -> SequenceModel:
    config = model.config.get_text_config()
    compute_caps(model)
    known = [i for i in (config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None]
    config.pad_token_id = known[0] if known else 0
    longest = min(tokenizer.model_max_length, positions(config) or sys.maxsize) - 1
    if max_tokens is not None:
        longest = min(longest, max_tokens)
    elif longest >= sys.maxsize - 1:
        raise ValueError(
            f"{model.name_or_path}: neither its config nor its tokenizer says how long a text may be; write "
            "max_position_embeddings (at most what it was trained with) into its config.json"
        )
    return SequenceModel(model.eval(), tokenizer, int(config.pad_token_id), longest)


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """Duration and learning rate of fine-tuning."""

    epochs: int
    items_per_step: int
    peak_learning_rate: float
    """The peak for hidden sizes up to :data:`REFERENCE_WIDTH`."""
    frozen_layers: int = 0
    """Number of lowest layers that are not trained; if it is 1 or more, the embeddings are not trained either."""


def train(
    sequence: SequenceModel,
    count: int,
    loss: Callable[[Sequence[int]], tuple[Tensor, Tensor]],
    schedule: Schedule,
    *,
    seed: int,
    purpose: str,
    together: Sequence[str] = (),
    fits: Callable[[Sequence[int]], bool] = lambda items: True,
) -> tuple[int, float]:
    """Fine-tune a model in place: AdamW, linear warm-up and decay, no dropout.

    The same arguments give the same weights on a CPU with one thread. Where a step has several passes their
    gradients are summed, and the weights are those of one pass within rounding.

    Args:
        sequence: the model.
        count: number of training items.
        loss: maps indices of items to the mean over them that is minimised and the loss per item that is reported.
        schedule: duration and learning rate.
        seed: seed of the order of the items.
        purpose: name of the stream of random numbers, and of the fine-tuning in log lines.
        together: one key per item; items with the same key follow one another.
        fits: whether the loss of these items may be computed in one pass, whose activations are kept; those of a step
            that may not are halved until they may or are single.

    Returns:
        The number of steps done, and the mean loss per item in the last epoch.
    """
    _freeze(sequence.model, schedule.frozen_layers)
    parameters = [p for p in sequence.model.parameters() if p.requires_grad]
    width = sequence.model.config.get_text_config().hidden_size
    rate = schedule.peak_learning_rate * min(1.0, REFERENCE_WIDTH / width)
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    steps = schedule.epochs * -(-count // schedule.items_per_step)
    warmup = max(1, round(WARMUP * steps))
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup + 1))
    )
    total = 0.0
    for epoch in range(schedule.epochs):
        order = generator(seed, f"{purpose} order", epoch).permutation(count).tolist()
        if together:
            first: dict[str, int] = {}
            for item in order:
                first.setdefault(together[item], len(first))
            order.sort(key=lambda item: first[together[item]])
        total = 0.0
        for start in range(0, count, schedule.items_per_step):
            items = order[start : start + schedule.items_per_step]
            optimizer.zero_grad(set_to_none=True)
            for part in _parts(items, fits):
                objective, losses = loss(part)
                (objective * (len(part) / len(items))).backward()  # type: ignore[no-untyped-call]
                total += float(losses.detach().sum())
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            decay.step()
        logger.info("%s: epoch %d of %d, loss %.4f nats", purpose, epoch + 1, schedule.epochs, total / count)
    return steps, total / count


def _parts(items: Sequence[int], fits: Callable[[Sequence[int]], bool]) -> list[Sequence[int]]:
    if len(items) == 1 or fits(items):
        return [items]
    half = len(items) // 2
    return _parts(items[:half], fits) + _parts(items[half:], fits)


def _freeze(model: nn.Module, layers: int) -> None:
    """Freeze everything before layer number ``layers``, so that no gradient is computed there."""
    if layers == 0:
        return
    stack = max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)
    first = next(stack[min(layers, len(stack) - 1)].parameters())
    for parameter in model.parameters():  # in the order of the forward pass: embeddings, layers, head
        if parameter is first:
            return
        parameter.requires_grad_(False)
