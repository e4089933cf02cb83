"""A plain pass of transformers for likelihoods: padded batches, the logits of every position, one model per process."""

from __future__ import annotations

from typing import Any

from jobs.benchmark.peers.clock import Clock, main

BATCH = 16
"""Sequences of a batch, in the order in which they come, padded to the longest of them."""


def likelihoods(order: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """Negative log-likelihoods of answers given their prompts, in nats.

    Args:
        order: ``models`` (folders), ``dtype``, and ``pairs`` of token ids of prompts and answers.
        clock: gets ``imports``, ``loading`` and ``work``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    clock.mark("imports")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: list[list[float]] = []
    for folder in order["models"]:
        dtype = getattr(torch, order["dtype"])
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
        clock.mark("loading")
        nats: list[float] = []
        for start in range(0, len(order["pairs"]), BATCH):
            pairs = order["pairs"][start : start + BATCH]
            width = max(len(prompt) + len(answer) for prompt, answer in pairs)
            ids = torch.zeros(len(pairs), width, dtype=torch.int64)
            mask, asked = torch.zeros_like(ids), torch.zeros_like(ids)
            for row, (prompt, answer) in enumerate(pairs):
                end = len(prompt) + len(answer)
                ids[row, :end] = torch.tensor([*prompt, *answer])
                mask[row, :end] = 1
                asked[row, len(prompt) : end] = 1
            ids, mask, asked = ids.to(device), mask.to(device), asked.to(device)
            with torch.no_grad():
                logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            log_p = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            nats += (-(log_p * asked[:, 1:]).sum(-1)).tolist()
        found.append(nats)
        clock.mark("work")
    return {"nats": found}


if __name__ == "__main__":
    main(likelihoods)
