"""A tokenizer may have more tokens than a model has embeddings, if no text of a run contains them; and the longest text
that an encoder reads."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig

from scpl_ray.models.limits import FROM_PADDING, check_tokenizer, positions
from tests.support.tiny_models import VOCABULARY, config, save_model

CHAT = "w3 {{ messages[0]['content'] }} w4 %s"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "whole", "llama", hidden=32)


def checked(whole: Path, folder: Path, template: str | None, **special: object) -> None:
    """Check the tokenizer with a token more than the model has rows."""
    tokenizer = AutoTokenizer.from_pretrained(whole)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"], **special})
    assert len(tokenizer) == VOCABULARY + 1
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    check_tokenizer(folder, config("llama"), "gemma", trust_remote_code=False)


@pytest.mark.parametrize(
    "template", [None, CHAT % "", CHAT % "{% if messages[0]['content'] is not string %}<image>{% endif %}"]
)
def test_a_token_for_images_may_lack_an_embedding(whole: Path, tmp_path: Path, template: str | None) -> None:
    checked(whole, tmp_path, template)


def test_a_token_that_prompts_contain_needs_an_embedding(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gives ids up to 200, but its model has embeddings for 200"):
        checked(whole, tmp_path, CHAT % "<image>")


@pytest.mark.parametrize("role", ["bos_token", "eos_token", "pad_token", "unk_token"])
def test_a_token_with_a_role_needs_an_embedding(whole: Path, tmp_path: Path, role: str) -> None:
    with pytest.raises(ValueError, match="gives ids up to 200, but its model has embeddings for 200"):
        checked(whole, tmp_path, None, **{role: "<image>"})


@pytest.mark.parametrize("kind", sorted(FROM_PADDING))
def test_encoders_read_as_many_tokens_as_have_positions(kind: str) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"attention_window": [4]} if kind == "longformer" else {"languages": ["en"], "default_language": "en"}
    values = AutoConfig.for_model(
        kind, **sizes, intermediate_size=16, max_position_embeddings=20, pad_token_id=1, entity_vocab_size=9, **more
    )
    model = AutoModel.from_config(values).eval()
    assert positions(values) == 18
    with torch.inference_mode():
        model(input_ids=torch.full((1, 18), 7))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, 19), 7))


def test_other_encoders_have_a_position_for_each_that_is_named() -> None:
    assert positions(BertConfig(max_position_embeddings=20, pad_token_id=1)) == 20
