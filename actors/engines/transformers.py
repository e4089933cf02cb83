"""Sampling with plain transformers, for machines without vLLM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from actors.engines.base import Engine, EngineSettings, Held, Probe, Request, Sampled
from scpl_ray.config import Experiment
from scpl_ray.models.adapters import load_model

TOKENS_PER_BATCH = 16_384
"""Size of a batch in tokens: its rows times its final width."""
SERVED_LAYERS = frozenset({DynamicLayer.__name__, DynamicSlidingWindowLayer.__name__})
"""The kinds of layers whose keys and values a cache holds that knows nothing of the model."""
ROW_STEP = 8
"""Batches have a multiple of this many rows: products of 1 to 3 rows round differently from larger ones."""


class TransformersEngine(Engine):
    """Batches of prompts of one length, so that nothing is padded and no row's arithmetic depends on another's length.

    Before its first token, each completion draws its uniform numbers, one per token, from its own generator.
    """

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        import peft

        self._peft = peft
        self._device = torch.device("cuda" if settings.gpus else "cpu")
        self._base: Any = None
        self._model: Any = None

    @classmethod
    def held(cls, positions: int, *, on_gpu: bool) -> Held:
        """One batch, which caches keys and values of all the tokens that it reads."""
        tokens = max(TOKENS_PER_BATCH, ROW_STEP * positions)
        return Held(cached_tokens=tokens, read_tokens=tokens, rows=tokens // positions)

    @classmethod
    def refuses(cls, config: PreTrainedConfig, experiment: Experiment, *, on_gpu: bool) -> str | None:
        """Models with layers that keep something else of what they read than keys and values."""
        others = kinds_of_layers(config) - SERVED_LAYERS
        if not others:
            return None
        way_out = "choose another model.name" + (", or set generation.engine=vllm" if on_gpu else "")
        return (
            f"generation.engine = 'transformers': {config.model_type} models have layers that keep another state than "
            f"keys and values ({', '.join(sorted(others))}), and this engine keeps no other; {way_out}"
        )

    def step(self) -> list[tuple[int, Sampled]]:
        """Write the next batch of what was added."""
        numbers, requests = list(self._added), list(self._added.values())
        members = next(self._batches(requests))
        sampled = self._sample([requests[i] for i in members])
        for i in members:
            del self._added[numbers[i]]
        return [(numbers[i], one) for i, one in zip(members, sampled, strict=True)]

    def generate(self, requests: Sequence[Request]) -> list[Sampled]:
        """One completion per request, in order."""
        sampled: dict[int, Sampled] = {}
        for members in self._batches(requests):
            sampled |= zip(members, self._sample([requests[i] for i in members]), strict=True)
        return [sampled[i] for i in range(len(requests))]

    @torch.inference_mode()
    def probe(self) -> Probe:
        """The probe prompt's greedy continuation."""
        ids, logprobs = list(self._probe_prompt), []
        for _ in range(self._probe_tokens):
            logits = self._model(input_ids=torch.tensor([ids], device=self._device), use_cache=False).logits[0, -1]
            best = logits.float().log_softmax(-1).max(-1)
            ids.append(int(best.indices))
            logprobs.append(float(best.values))
        return Probe(tuple(ids[len(self._probe_prompt) :]), tuple(logprobs))

    def _fall_asleep(self) -> None:
        # At level 2 the next load reads the model again.
        if self.settings.sleep_level == 1:
            self._model.to("cpu")
        else:
            self._base = self._model = None
        torch.cuda.empty_cache()

    def _wake_weights(self) -> None:
        if self._model is not None:
            self._model.to(self._device)

    def _wake_cache(self) -> None:
        """Do nothing: keys and values exist for one batch only."""

    def _read_model(self, folder: Path, config: PreTrainedConfig) -> None:
        self._base = self._model = None
        dtype, trust = getattr(torch, self.settings.dtype), self.settings.trust_remote_code
        self._base = load_model(folder, dtype, trust_remote_code=trust).to(self._device).eval()
        self._model = self._base

    def _serve_adapter(self, adapter: Path | None) -> None:
        if self._model is not self._base:
            self._base = self._model.unload()
            self._model = self._base
        if adapter is not None:
            served = self._peft.PeftModel.from_pretrained(self._base, adapter, autocast_adapter_dtype=False)
            self._model = served.eval()

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        by_length: dict[int, list[int]] = {}
        for index, request in enumerate(requests):
            by_length.setdefault(len(request.prompt_token_ids), []).append(index)
        for length, members in sorted(by_length.items()):
            rows = max(ROW_STEP, TOKENS_PER_BATCH // (length + self.settings.max_new_tokens))
            rows = min(rows, self.settings.max_sequences or rows)
            yield from (members[i : i + rows] for i in range(0, len(members), rows))

    @torch.inference_mode()
    def _sample(self, requests: Sequence[Request]) -> list[Sampled]:
        """Completions of prompts of one length."""
        settings = self.settings
        prompts = sorted({r.prompt_token_ids for r in requests})
        row_of = {prompt: row for row, prompt in enumerate(prompts)}
        uniforms = torch.stack(
            [
                torch.rand(
                    settings.max_new_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(r.seed)
                )
                for r in requests
            ]
        ).to(self._device)
        cache = DynamicCache()
        # Each prompt is read once, whatever the number of its completions.
        logits = self._forward([prompts[i] for i in _filled(range(len(prompts)))], cache)
        rows = _filled([row_of[r.prompt_token_ids] for r in requests])
        cache.batch_select_indices(torch.tensor(rows, device=self._device))
        logits = logits[rows]
        tokens: list[list[int]] = [[] for _ in requests]
        log_probabilities = [0.0] * len(requests)
        # Completions that are still being written, in the order of their rows; the rows after them are padding.
        live = list(range(len(requests)))
        for step in range(settings.max_new_tokens):
            ids = self._draw(logits[: len(live)], uniforms[live, step])
            drawn = ids.tolist()
            of_each = logits[: len(live)].log_softmax(-1).gather(-1, ids[:, None])[:, 0].tolist()
            for index, token, log_probability in zip(live, drawn, of_each, strict=True):
                tokens[index].append(token)
                log_probabilities[index] += log_probability
            going = [row for row, token in enumerate(drawn) if token not in self._stop]
            if not going or step + 1 == settings.max_new_tokens:
                break
            rows = _filled(going)
            if len(going) < len(live):
                cache.batch_select_indices(torch.tensor(rows, device=self._device))
                live = [live[row] for row in going]
            logits = self._forward([(drawn[row],) for row in rows], cache)
        ended = {index for index, ids in enumerate(tokens) if ids[-1] in self._stop}
        return [
            Sampled(tuple(ids), "stop" if i in ended else "length", log_probabilities[i])
            for i, ids in enumerate(tokens)
        ]

    def _forward(self, ids: Sequence[Sequence[int]], cache: DynamicCache) -> Tensor:
        """Logits of the next token, shape (rows, vocabulary), float32; the cache grows by the given tokens."""
        inputs = torch.tensor([list(row) for row in ids], device=self._device)
        output = self._model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def _draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Next tokens, shape (rows,), by inversion of each row's distribution function at its uniform number."""
        if self.settings.temperature == 0:
            return logits.argmax(-1)
        probabilities = (logits.double() / self.settings.temperature).softmax(-1)
        if self.settings.top_p < 1:
            ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
            # The smallest set of tokens that reaches top_p; the most probable one always stays.
            ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= self.settings.top_p, 0.0)
            probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
        distribution = probabilities.cumsum(-1)
        return torch.searchsorted(distribution, uniforms[:, None] * distribution[:, -1:], right=True)[:, 0]


def kinds_of_layers(config: PreTrainedConfig) -> set[str]:
    """What transformers calls the kinds of layers of a model, by what they keep of a text that they have read."""
    if config.model_type == "recurrent_gemma":  # keeps its states in the layers themselves
        return {"recurrent layers"}
    try:
        return {type(layer).__name__ for layer in DynamicCache(config=config).layers}
    except KeyError as error:  # a kind that is registered with the model's code
        return {str(error.args[0])}


def _filled(rows: Sequence[int]) -> list[int]:
    """The rows, with the last one repeated until their number is a multiple of ``ROW_STEP``."""
    return [*rows, *[rows[-1]] * (-len(rows) % ROW_STEP)]
