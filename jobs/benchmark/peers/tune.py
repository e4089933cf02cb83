"""A plain fine-tuning script: TRL's ``SFTTrainer``, with a LoRA adapter that is merged at the end."""

from __future__ import annotations

import os
from typing import Any

from jobs.benchmark.peers.clock import Clock, main


def tune(order: dict[str, Any], clock: Clock) -> dict[str, Any]:
    """Train on tokenised rows, merge, and save a folder that other scripts can load.

    Args:
        order: ``model`` (folder to start from), ``tokenizer`` (folder), ``output`` (folder), ``dtype``, ``rows`` (of
            each its ``prompt`` and ``answer``, token ids), ``rows_per_step``, ``epochs``, ``steps`` (``None``: as the
            epochs say), ``learning_rate``, ``warmup_fraction``, ``weight_decay``, ``max_grad_norm``, ``seed``, and
            ``lora`` (``rank``, ``alpha``, ``targets``; ``None``: all weights are trained).
        clock: gets ``imports``, ``loading``, ``work`` and ``saving``.
    """
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    clock.mark("imports")
    on_cpu = not torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(order["model"], dtype=getattr(torch, order["dtype"]))
    tokenizer = AutoTokenizer.from_pretrained(order["tokenizer"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    rows = [
        {
            "input_ids": [*row["prompt"], *row["answer"]],
            "completion_mask": [0] * len(row["prompt"]) + [1] * len(row["answer"]),
        }
        for row in order["rows"]
    ]
    settings = SFTConfig(
        output_dir=order["output"],
        per_device_train_batch_size=order["rows_per_step"],
        num_train_epochs=order["epochs"],
        max_steps=order["steps"] or -1,
        learning_rate=order["learning_rate"],
        lr_scheduler_type="linear",
        warmup_steps=order["warmup_fraction"],
        weight_decay=order["weight_decay"],
        max_grad_norm=order["max_grad_norm"],
        seed=order["seed"],
        completion_only_loss=True,
        max_length=None,
        bf16=order["dtype"] == "bfloat16",
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        # by default activations are computed twice to save memory, which is not short here
        gradient_checkpointing=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = order["lora"]
    adapter = lora and LoraConfig(
        r=lora["rank"], lora_alpha=lora["alpha"], target_modules=lora["targets"], task_type="CAUSAL_LM"
    )
    trainer = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapter,
    )
    clock.mark("loading")
    done = trainer.train()
    clock.mark("work")
    trained = trainer.model.merge_and_unload() if adapter else trainer.model
    trained.save_pretrained(order["output"])
    tokenizer.save_pretrained(order["output"])
    clock.mark("saving")
    return {"steps": done.global_step, "loss": done.training_loss}


if __name__ == "__main__":
    main(tune)
