"""A plain vLLM script: load a model, write all completions with one call, save them."""

from __future__ import annotations

from typing import Any

from jobs.benchmark.peers.clock import Clock, main


def draw(order: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """Completions of given lengths.

    Args:
        order: ``model`` (folder), ``dtype``, ``positions`` (longest sequence), ``eager``, ``cache_bytes`` (for keys
            and values; ``None``: as vLLM chooses), ``temperature``, ``top_p``, and ``requests``: of each completion its
            ``prompt`` (token ids) and its ``length``. None has a seed of its own, as such a script has none, and
            because vLLM's CPU runner fails where a prompt with a seed is read in two parts.
        clock: gets ``imports``, ``loading`` and ``work``.
    """
    from vllm import LLM, SamplingParams

    clock.mark("imports")
    # eager: on a CPU, compiling would cost more than it saves on one round
    llm = LLM(
        model=order["model"],
        dtype=order["dtype"],
        max_model_len=order["positions"],
        enforce_eager=order["eager"],
        kv_cache_memory_bytes=order["cache_bytes"],
    )
    clock.mark("loading")
    sampling = [
        # as long as the completion that it stands for, whatever is drawn
        SamplingParams(
            temperature=order["temperature"],
            top_p=order["top_p"],
            max_tokens=request["length"],
            ignore_eos=True,
        )
        for request in order["requests"]
    ]
    prompts = [{"prompt_token_ids": request["prompt"]} for request in order["requests"]]
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    clock.mark("work")
    return {"texts": [output.outputs[0].text for output in outputs]}


if __name__ == "__main__":
    main(draw)
