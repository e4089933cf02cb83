"""A chat template is applied once: no second system message, no second beginning-of-sequence token."""

import functools
import json
import time
from pathlib import Path

import pytest
from tokenizers import processors

from scpl_ray.models.template import Template, _rendered, template_of
from scpl_ray.models.tokens import encode_prompt
from tests.support.chat import SPECIAL, TEMPLATE, chat_tokenizer

WORDS = [*SPECIAL, "be", "kind", "say", "hello", "Well", ",", "Today"]
tokenizer = functools.partial(chat_tokenizer, WORDS)


def test_tokens_are_those_of_the_tokenizers_own_template() -> None:
    chat = tokenizer()
    prompt = template_of(chat).apply("say hello")
    asked = chat.apply_chat_template(
        [{"role": "user", "content": "say hello"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    ids = list(encode_prompt(chat, prompt, 100))
    assert ids == asked
    assert ids.count(1) == 1 and ids.count(WORDS.index("<|system|>")) == 1
    # what a careless encoding of the same text gives
    assert chat(prompt)["input_ids"].count(1) == 2


def test_what_a_template_writes_is_not_added_again_whatever_it_is() -> None:
    chat = tokenizer("<unk><s><|user|> {{ messages[0]['content'] }} </s><|assistant|>")
    chat.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<unk> <s> $A", special_tokens=[("<unk>", 0), ("<s>", 1)]
    )
    prompt = template_of(chat).apply("say hello")
    for bos in ("<s>", None):  # GLM-4 writes [gMASK]<sop> and has no bos_token
        chat.bos_token = bos
        assert encode_prompt(chat, prompt, 100) == tuple(chat(prompt, add_special_tokens=False)["input_ids"])
        assert encode_prompt(chat, "say hello", 100) == (0, 1, WORDS.index("say"), WORDS.index("hello"))


def test_an_answer_starts_where_the_template_ends() -> None:
    template = template_of(tokenizer())
    assert template.apply("  say hello ", "Well,").endswith("<|user|> say hello </s><|assistant|> Well,")


def test_a_conversation_is_what_the_tokenizers_own_template_writes() -> None:
    chat = tokenizer()
    turns = ["say hello", "Well", " say kind "]
    text = template_of(chat).conversation(turns)
    messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    assert text == chat.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert template_of(chat).conversation(["say hello"]) == template_of(chat).apply("say hello")
    with pytest.raises(ValueError, match="already carries the chat template"):
        template_of(chat).conversation(["say", "Well", text])


def test_a_template_that_forgets_earlier_turns_has_no_conversations() -> None:
    forgets = tokenizer("<|user|> {{ messages[-1]['content'] }} </s><|assistant|>")
    template = template_of(forgets)
    assert template.apply("say") == "<|user|> say </s><|assistant|>" and template.answered is None
    with pytest.raises(ValueError, match="does not write earlier turns as they are"):
        template.conversation(["say", "Well", "hello"])


def test_a_template_on_top_of_a_template_is_refused() -> None:
    template = template_of(tokenizer())
    once = template.apply("say hello")
    with pytest.raises(ValueError, match="already carries the chat template"):
        template.apply(once)


def test_without_a_chat_template_the_text_is_sent_as_it_is() -> None:
    plain = tokenizer(None)
    template = template_of(plain)
    assert template == Template("", "") and not template.is_chat
    assert template.apply("say hello", " Well") == "say hello Well"
    assert encode_prompt(plain, template.apply("say hello"), 100) == (1, WORDS.index("say"), WORDS.index("hello"))


@pytest.mark.parametrize("body", ["{{ messages[0]['content'] }}{{ messages[0]['content'] }}", "nothing"])
def test_a_template_that_does_not_say_the_text_once_is_refused(body: str) -> None:
    with pytest.raises(ValueError, match="must write it once"):
        template_of(tokenizer(body))


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "it takes more than 2 s"),
        ("{% set x = 'x' * (10 ** 10) %}{{ messages[0]['content'] }}", "it takes more than"),
        ("{% set ns = namespace(x='x') %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "it takes"),
        ("{{ messages[0]['content'] }}{{ 'x' * (2 ** 24) }}", "it writes 16,777,"),
        ("{{ 2 ** (9 ** 9) }}", "it takes more than"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deeply"),
        ("{{ raise_exception('no users here') }}", "no users here"),
        ("{{ messages[0]['content'] + 1 }}", "can only concatenate"),
        ("{{ 1 // 0 }}", "zero"),
        ("{{ ''.__class__.__mro__ }}{{ messages[0].__class__.__base__.__subclasses__() }}", "unsafe|undefined"),
        ("{% if %}", "Expected an expression"),
    ],
)
def test_a_template_that_cannot_be_rendered_is_refused_with_a_message(body: str, what: str) -> None:
    began = time.thread_time()
    with pytest.raises(ValueError, match=rf"model.name: the chat template of .* cannot be rendered: .*({what})"):
        template_of(tokenizer(body))
    assert time.thread_time() - began < 1.0


EACH = "{% for m in messages %}"
PARITY = {
    "chat": TEMPLATE,
    "generation": EACH + "<|{{ m.role }}|>{% generation %}{{ m.content }}</s>{% endgeneration %}{% endfor %}",
    "controls": EACH + "{% if loop.index > 9 %}{% break %}{% endif %}{{ m['content'] }} {% endfor %}",
    "json": "{{ {'a': 'é', 'b': 1} | tojson(indent=2) }}{{ messages | tojson }}",
    "blocks": EACH + "\n    {%- if m.role == 'user' %}\n  {{ m.content }}\n  {% endif %}\n{% endfor %}",
    "macro": "{% macro say(m) %}[{{ m.role | upper }}] {{ m.content }}{% endmacro %}"
    + (EACH + "{{ say(m) }}{% endfor %}"),
    "tokens": "{{ bos_token }}{{ eos_token }}{{ messages[0].content }}{% if tools %}{{ tools }}{% endif %}",
}


@pytest.mark.parametrize("name", PARITY)
def test_the_limited_process_renders_as_transformers_does(name: str) -> None:
    chat = tokenizer(PARITY[name])
    turns = ("say hello", "Well", "say kind")
    messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    theirs = chat.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, date_string="d")
    values = json.dumps({**chat.special_tokens_map, "date_string": "d"}, default=str)
    assert _rendered(PARITY[name], values, (turns,)) == [(theirs, None)]


def test_templates_are_rendered_by_the_jinja_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jinja2.py").write_text("raise ImportError('the jinja of PYTHONPATH')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be rendered: its process failed: ImportError: the jinja of PYTHON"):
        template_of(tokenizer("{{ messages[0]['content'] }}!"))


def test_a_template_that_writes_todays_date_does_not_change_with_it() -> None:
    dated = tokenizer("{{ date_string }} {{ messages[0]['content'] }}")
    assert template_of(dated).before == "01 Jan 2026 "
