"""A plain reward loop of transformers: ``AutoModelForSequenceClassification`` over padded batches."""

from __future__ import annotations

from typing import Any

from jobs.benchmark.peers.clock import Clock, main

BATCH = 32
"""Texts of a batch, in the order in which they come, padded to the longest of them."""


def rewards(order: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """The first output of a reward model for each pair of a prompt and an answer.

    Args:
        order: ``model`` (folder), ``dtype``, and ``pairs`` of texts.
        clock: gets ``imports``, ``loading`` and ``work``.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    clock.mark("imports")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(order["model"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    dtype = getattr(torch, order["dtype"])
    model = AutoModelForSequenceClassification.from_pretrained(order["model"], dtype=dtype).to(device).eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    clock.mark("loading")
    found: list[float] = []
    for start in range(0, len(order["pairs"]), BATCH):
        prompts, answers = zip(*order["pairs"][start : start + BATCH], strict=True)
        batch = tokenizer(list(prompts), list(answers), padding=True, truncation=True, return_tensors="pt").to(device)
        with torch.no_grad():
            found += model(**batch).logits[:, 0].float().tolist()
    clock.mark("work")
    return {"rewards": found}


if __name__ == "__main__":
    main(rewards)
