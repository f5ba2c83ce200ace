"""Small chat templates, one for each way in which models write calls, and a tokenizer to render them with."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIALS = ("<s>", "<eot>", "<sys>", "<usr>", "<bot>", "<call>", "</call>", "<arg>", "<chan>", "<msg>", "<done>", "<q>")
END = "<eot>"

_LIST = """<s>{% for m in messages %}{% if loop.first and tools %}<sys>{% for t in tools %}{{ t.function | tojson }}
{% endfor %}<eot>{% endif %}"""
_USER = """{% if m.role == 'user' %}<usr>{{ m.content }}<eot>{% elif m.role == 'tool' %}<usr>{{ m.content }}<eot>"""
_SAYS = """{% else %}<bot>{{ m.content or '' }}"""
_TAIL = """<eot>{% endif %}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"""
_EACH = """{% for c in m.tool_calls %}"""


def _template(calls: str, tail: str = _TAIL) -> str:
    return _LIST + _USER + _SAYS + calls + tail


TEMPLATES = {
    "objects between tokens": _template(
        _EACH + '\n<call>\n{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</call>'
        "{% endfor %}"
    ),
    "objects between words": _template(
        _EACH + '[invoke]{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}[/invoke]'
        "{% endfor %}"
    ),
    "one bare object": _template(
        "{% if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one call only') }}{% endif %}"
        + _EACH
        + '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}{% endfor %}'
    ),
    "an array with ids": _template(
        "{% if m.tool_calls %}<call>[" + _EACH + '{"name": "{{ c.function.name }}", "arguments": '
        '{{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}{% if not loop.last %}, {% endif %}'
        "{% endfor %}]{% endif %}"
    ),
    "an array that counts": _template(
        "{% if m.tool_calls %}[ACTIONS]\n[" + _EACH + '{"call": "{{ loop.index0 }}", "tool": "{{ c.function.name }}", '
        '"parameters": {{ c.function.arguments | tojson }}}{% if not loop.last %},\n{% endif %}{% endfor %}]{% endif %}'
    ),
    "a name, then a string of JSON": _template(
        _EACH
        + "<call>{{ c.function.name }}<arg>{% if c.function.arguments is mapping %}{{ raise_exception('a string') }}"
        "{% endif %}{{ c.function.arguments }}{% endfor %}"
    ),
    "an id that says the name": _template(
        "{% if m.tool_calls %}<q>"
        + _EACH
        + "<call>{{ c.id }}<arg>{{ c.function.arguments | tojson }}</call>{% endfor %}<q>{% endif %}"
    ),
    "a channel": _LIST + _USER + "{% elif m.tool_calls %}<bot><chan>tool to={{ m.tool_calls[0].function.name }}<msg>"
    "{{ m.tool_calls[0].function.arguments | tojson }}<done>{% else %}<bot><chan>final<msg>{{ m.content }}" + _TAIL,
    "tags of words": _template(
        _EACH + "\n<use>\n<tool={{ c.function.name }}>\n{% for k, v in c.function.arguments.items() %}<in={{ k }}>\n"
        "{{ v if v is string else v | tojson }}\n</in>\n{% endfor %}</tool>\n</use>{% endfor %}"
    ),
    "tags with tokens": _template(
        _EACH + "<call>do:{{ c.function.name }}{{ '{' }}{% for k, v in c.function.arguments.items() %}{{ k }}:"
        "{{ '<q>' + v + '<q>' if v is string else v | tojson }}{% if not loop.last %},{% endif %}{% endfor %}"
        "{{ '}' }}</call>{% endfor %}"
    ),
    "tags that a line parts": _template(
        _EACH + "\n[use]\n[tool {{ c.function.name }}]\n{% for k, v in c.function.arguments.items() %}"
        "[in {{ k }} {{ 'text' if v is string else 'json' }}]{{ v if v is string else v | tojson }}[/in]"
        "{% if not loop.last %}\n{% endif %}{% endfor %}\n[/tool]\n[/use]{% endfor %}"
    ),
    "a part for calls": _LIST + _USER + "{% else %}<bot><arg>say<msg>{{ m.content or '' }}<q>say<msg>"
    "{% if m.tool_calls %}<arg>tools<msg>" + _EACH + "<arg>call {{ c.function.name }}<msg>"
    "{{ c.function.arguments | tojson }}<q>call<msg>{% endfor %}<q>tools<msg>{% endif %}"
    "<eot>{% endif %}{% endfor %}{% if add_generation_prompt %}<bot><arg>say<msg>{% endif %}",
    "a name that comes twice": _template(
        _EACH + "[to {{ c.function.name }}]{{ c.function.name }}{{ c.function.arguments | tojson }}[/to]{% endfor %}"
    ),
    "thoughts first": _template(
        "{% if m.tool_calls %}<think>\n\n</think>\n\n{% endif %}"
        + _EACH
        + '<call>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</call>'
        "{% endfor %}",
        "<eot>{% endif %}{% endfor %}{% if add_generation_prompt %}<bot><think>\n{% endif %}",
    ),
    "tools, no calls": _template(""),
    "no tools": "{% for m in messages %}<usr>{{ m.content }}<eot>{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}",
    "none at all": "{{ raise_exception('never') }}",
}


def tokenizer(template: str) -> Any:
    """Every byte, and the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens(list(SPECIALS))
    made = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token=END)
    made.chat_template = template
    return made
