"""The process in which a model's chat template is rendered, so that no template can hold up or fill up a run.

A template is a program that came with a model. Jinja's sandbox keeps it from Python's objects, but not from loops
inside loops or texts of gigabytes. This process is given one template, some conversations and its limits, and ends.

It reads ``{"path", "template", "values", "conversations"}`` as JSON and writes a list with ``[text, null]`` or
``[null, error]`` for each conversation. It imports Jinja alone, from the ``path`` of its parent, and renders as
``transformers`` does, which ``tests/models/test_template.py`` compares, except that today is always the same day.
"""

from __future__ import annotations

import datetime
import json
import resource
import sys
from typing import Any

CPU_SECONDS = 2
"""Processor time for all conversations and the imports, after which the system ends the process."""
MEMORY_BYTES = 2**30
MOST_CHARACTERS = 2**20
"""Longest text that a template may write."""


def environment() -> Any:
    """Jinja's sandbox with the functions and extensions that templates of models use."""
    import jinja2.ext
    from jinja2 import nodes, sandbox

    class Generation(jinja2.ext.Extension):
        """``{% generation %}``, which marks the text of an assistant: here it is written as it is."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    made = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = datetime.datetime(2026, 1, 1).strftime
    return made


def main() -> None:
    """Render what standard input asks for."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    asked = json.load(sys.stdin)
    # started with -I, it has neither PYTHONPATH nor the user's own packages, in which Jinja may be
    sys.path[:] = asked["path"]
    import jinja2

    answers: list[tuple[str | None, str | None]] = []
    for messages in asked["conversations"]:
        try:
            # as text in an expression of the template can have any type, it can raise any of Python's errors
            template = environment().from_string(asked["template"])
            text = template.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **asked["values"]
            )
        except MemoryError:
            answers.append((None, f"it takes more than {MEMORY_BYTES >> 20} MiB"))
        except RecursionError:
            answers.append((None, "it is nested too deeply"))
        except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            answers.append((None, " ".join(str(error).split())[:200] or type(error).__name__))
        else:
            if len(text) > MOST_CHARACTERS:
                answers.append((None, f"it writes {len(text):,} characters"))
            else:
                answers.append((text, None))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
