"""What a plan must find: keys, what is wrong with a model in the folder `model`, and parts of the message."""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    DeepseekV2Config,
    Lfm2Config,
    MambaConfig,
    MixtralConfig,
    MptConfig,
    PreTrainedConfig,
    T5Config,
)

from tests.support.model_shapes import SHAPE

MODEL = ("model.name=model", "task.max_prompt_tokens=32", "generation.engine=transformers")
CUSTOM = "feedback.rule=custom"


def changed(folder: Path, **values: object) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **values}))


def with_config(config: object) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "config.json").unlink()
        config.save_pretrained(folder)  # type: ignore[attr-defined]

    return make


def with_model(config: PreTrainedConfig) -> Callable[[Path], None]:
    return lambda folder: AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def more_words(folder: Path) -> None:
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["late"] = 200
    path.write_text(json.dumps(values))


def no_end(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))


def renamed(change: Callable[[str], str]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        named = {change(name): tensor for name, tensor in weights.items()}
        save_file(named, folder / "model.safetensors", metadata={"format": "pt"})

    return make


def one_output(folder: Path) -> None:
    changed(
        folder, id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0}, architectures=["LlamaForSequenceClassification"]
    )


def as_it_is(folder: Path) -> None:
    pass


FAULTS: dict[str, tuple[list[str], Callable[[Path], None], list[str]]] = {
    "a sequence that no micro-batch takes": (
        ["training.tokens_per_micro_batch=80"],
        as_it_is,
        ["a sequence may have 88 tokens (64 of a prompt and 24 of a completion)", "raise it to at least 88"],
    ),
    "a pair that no micro-batch takes": (
        ["training.tokens_per_micro_batch=100", "training.objective=dpo"],
        as_it_is,
        ["a pair of sequences may have 176 tokens", "raise it to at least 176"],
    ),
    "more prompts than memory holds": (
        ["evaluation.neutral_prompts=1000000000", "queries.prompts_per_round=2000000"],
        as_it_is,
        ["prompts_per_round = 2000000, evaluation.neutral_prompts = 1000000000: a run has all", "at most 1,000,000 of"],
    ),
    "steps that a sequence makes longer": (
        ["training.tokens_per_step=80", "training.steps=4"],
        as_it_is,
        ["training.tokens_per_step = 80: a sequence may have 88 tokens", "leave training.steps out"],
    ),
    "steps that a pair makes longer": (
        ["training.tokens_per_step=100", "training.steps=4", "training.objective=dpo"],
        as_it_is,
        ["training.tokens_per_step = 100: a pair of sequences may have 176 tokens", "raise it to at least 176"],
    ),
    "prompts of which a tiny model learns a part": (
        ["task.name=news", "task.max_prompt_tokens=300"],
        as_it_is,
        ["task.max_prompt_tokens = 300: the tiny model learns from the first 256 tokens of a prompt", "at most 256"],
    ),
    "more tokens than the tiny model has positions": (
        ["generation.max_new_tokens=65"],
        as_it_is,
        ["task.max_prompt_tokens + generation.max_new_tokens = 64 + 65 = 129: the tiny model has 128 positions"],
    ),
    "more tokens than a model has positions": (
        [*MODEL, "generation.max_new_tokens=97"],
        as_it_is,
        ["= 32 + 97 = 129: model has 128 positions; lower one of the two"],
    ),
    "positions under MPT's name": (
        [*MODEL, "generation.max_new_tokens=97"],
        with_config(MptConfig(d_model=64, n_heads=2, n_layers=2, vocab_size=200, max_seq_len=128)),
        ["= 129: model has 128 positions"],
    ),
    "a Bloom without a length": (
        [*MODEL],
        with_config(BloomConfig(hidden_size=64, n_layer=2, n_head=2, vocab_size=200)),
        ["the config of model does not say how long a sequence may be; write max_position_embeddings (at least 56"],
    ),
    "a model without attention": (
        [*MODEL],
        with_config(MambaConfig(hidden_size=64, num_hidden_layers=2, vocab_size=200)),
        ["model (mamba) has no attention heads", "choose a model with attention"],
    ),
    "an encoder with a decoder": (
        [*MODEL],
        with_config(T5Config(d_model=64, num_layers=2, vocab_size=200)),
        ["model (t5) is an encoder with a decoder; choose a model that continues text"],
    ),
    "a tokenizer of another model": (
        [*MODEL],
        more_words,
        ["the tokenizer of model gives ids up to 200, but its model has embeddings for 200 (ids up to 199)"],
    ),
    "a tokenizer without an end": ([*MODEL], no_end, ["the tokenizer of model has no eos_token"]),
    "heads that vLLM has not on a CPU": (
        ["model.name=model", "generation.engine=vllm"],
        lambda folder: changed(folder, head_dim=48),
        ["heads of 48 dimensions, and on a CPU vLLM serves 32, 64, 80,", "set generation.engine=transformers"],
    ),
    "an adapter that vLLM does not serve": (
        ["model.name=model", "generation.engine=vllm", "generation.refresh=adapter", "model.lora.rank=600"],
        as_it_is,
        ["model.lora.rank = 600: vLLM serves ranks up to 512"],
    ),
    "a model whose adapters vLLM does not serve": (
        ["model.name=model", "generation.engine=vllm", "generation.refresh=adapter"],
        with_config(BloomConfig(hidden_size=64, n_layer=2, n_head=2, vocab_size=200, seq_length=128)),
        ["generation.refresh = 'adapter': vLLM serves no adapters of bloom models; set generation.refresh=reload"],
    ),
    "a tiny model whose adapters vLLM does not serve": (
        ["model.family=gpt2", "generation.engine=vllm", "generation.refresh=adapter"],
        as_it_is,
        ["generation.refresh = 'adapter': vLLM serves no adapters of gpt2 models; set generation.refresh=reload"],
    ),
    "a model with experts that vLLM does not serve on a CPU": (
        ["model.name=model", "generation.engine=vllm"],
        with_model(MixtralConfig(**SHAPE, num_local_experts=4)),
        ["generation.engine = 'vllm': mixtral models have experts", "set generation.engine=transformers"],
    ),
    "a model with layers that keep another state": (
        [*MODEL],
        with_model(Lfm2Config(**SHAPE, layer_types=["conv", "full_attention"])),
        ["generation.engine = 'transformers': lfm2 models", "(LinearAttentionLayer)", "choose another model.name"],
    ),
    "an adapter of experts": (
        [*MODEL],
        with_model(
            DeepseekV2Config(
                **SHAPE | {"num_key_value_heads": 2},
                q_lora_rank=None,
                kv_lora_rank=16,
                qk_rope_head_dim=8,
                qk_nope_head_dim=8,
                v_head_dim=16,
                n_routed_experts=4,
                n_shared_experts=1,
                num_experts_per_tok=2,
                moe_intermediate_size=32,
                first_k_dense_replace=1,
            )
        ),
        ["model.lora: ", "deepseek_v2", "set model.lora=null"],
    ),
    "a reward model without weights": (
        ["reward.model=model"],
        lambda folder: (folder / "model.safetensors").unlink(),
        ["reward.model: model holds no weights"],
    ),
    "a reward model without a tokenizer": (
        ["reward.model=model"],
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")] and None,
        ["reward.model: model has no tokenizer"],
    ),
    "a reward model with other outputs": (["reward.model=model"], as_it_is, ["reward.model: model has 2 outputs"]),
    "a reward model without a head": (
        ["reward.model=model"],
        one_output,
        ["reward.model: model: 1 of 21 weights of LlamaForSequenceClassification are not in", "numbers: score.weight;"],
    ),
    "a model that was saved with what wraps it": (
        [*MODEL],
        renamed(lambda name: f"module.{name}"),
        [
            "model.name: model: 21 of 21 weights of LlamaForCausalLM are not in",
            "lm_head.weight, model.embed_tokens.weight, model.layers.0.input_layernorm.weight and 18 more",
            "they have module.lm_head.weight, module.model.embed_tokens.weight,",
            "save the whole model with its own save_pretrained",
        ],
    ),
    "quotas that round 1 cannot fill": (
        ["selection.strategy=quotas", "selection.keep_fraction=1.0", "groups.shares=[0.6, 0.4]"],
        as_it_is,
        ["selection.keep_fraction = 1: in round 1 the groups ask [", "lower it, or set selection.target"],
    ),
    "a wanted group of which round 1 draws no user": (
        ["selection.strategy=importance", "groups.shares=[0.99999, 0.00001]"],
        as_it_is,
        [
            "selection.target: in round 1 the groups ask [",
            "none are of south, of whom selection.strategy = 'importance'",
        ],
    ),
    "a rule that takes too little": (
        [CUSTOM, "feedback.function=own_rules:short"],
        as_it_is,
        ["failed: TypeError", "tried with shares [0.5, 0.5]", "function(shares, measured, *, initial_shares"],
    ),
    "a rule whose shares are none": (
        [CUSTOM, "feedback.function=own_rules:wrong"],
        as_it_is,
        ["feedback.function: what own_rules:wrong returned: [0.5, 0.9] sums to 1.4"],
    ),
    "a rule that fails": ([CUSTOM, "feedback.function=own_rules:broken"], as_it_is, ["KeyError: 'north'"]),
    "a rule that returns nothing": (
        [CUSTOM, "feedback.function=own_rules:nothing"],
        as_it_is,
        ["feedback.function: ", "own_rules:nothing"],
    ),
    "a model that nobody has": (
        ["model.name=nobody/nothing"],
        as_it_is,
        ["'nobody/nothing' is no folder here and could not be had from the Hugging Face Hub"],
    ),
    "a reward model that nobody has": (
        ["reward.model=nobody/nothing"],
        as_it_is,
        ["reward.model: 'nobody/nothing' is no folder here"],
    ),
    "several at once": (
        ["training.tokens_per_micro_batch=80", "generation.max_new_tokens=65", "reward.model=nobody/nothing"],
        as_it_is,
        ["raise it to at least 129", "the tiny model has 128 positions", "reward.model: 'nobody/nothing'"],
    ),
}
