"""The bundled model's tokenizer and its chat template."""

import itertools
import json
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ops.demo_model.dialogues import dialogues
from ops.demo_model.lessons import lessons

CONTEXT = 1024
VOCABULARY = 1536
SPECIAL = (
    *("<|end_of_text|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    *("<|tool|>", "<tool_call>", "</tool_call>"),
)
# words that are one token with the space before them; all others are the same tokens wherever they stand, so that a
# value is copied as it was said
_SPACED = (
    "a about after all am an and any are as asked at be but by came can did do does down each every for from get give go "
    "had has have he her here him his how i if in into is it its let like make me more most much my new no not of on only "
    "or our out over please said say see she so some tell than that the their them then there these they things this "
    "those to under up upon use using very was we were what when where which who whose why will with would you your And I "
    "JSON it's object keys"
).split()
# a tool's line says first what it is for and then how its call begins, so that to call is to go on with what was read
_LINE = (
    "{% macro kind(p) %}{% if p is mapping and p['enum'] is defined and p['enum'] is sequence and p['enum'] is not string %}"
    "{{ p['enum'] | join('|') }}{% elif p is mapping and p['type'] is string %}{{ p['type'] }}"
    "{% elif p is mapping and p['type'] is defined and p['type'] is sequence %}{{ p['type'] | join('|') }}"
    "{% else %}any{% endif %}{% endmacro %}"
    "{% macro line(t) %}{% set f = t['function'] if t['function'] is mapping else t %}"
    "{{ f['name'] }}{% if f['description'] %}: {{ f['description'] }}{% endif %}"
    ' {"name": "{{ f["name"] }}", "arguments": {{ "{" }}'
    "{% if f['parameters'] is mapping and f['parameters']['properties'] is mapping %}"
    "{% set needed = f['parameters']['required'] %}"
    "{% for name, p in f['parameters']['properties'] | items %}"
    '"{{ name }}": {{ kind(p) }}'
    "{% if not (needed is defined and needed is sequence and name in needed) %}?{% endif %}"
    "{% if not loop.last %}, {% endif %}{% endfor %}"
    "{% endif %}{{ '}}' }}{% endmacro %}"
    "{% macro listed() %}Tools:{% for t in tools %}{{ '\\n' }}{{ line(t) }}{% endfor %}{% endmacro %}"
)
TEMPLATE = (
    _LINE + "{% if tools and (not messages or messages[0]['role'] not in ('system', 'developer')) %}"
    "<|system|>{{ listed() }}<|end|>{% endif %}"
    "{% for m in messages %}{% if m['role'] in ('system', 'developer') %}<|system|>{% elif m['role'] == 'assistant' %}"
    "<|assistant|>{% elif m['role'] == 'tool' %}<|tool|>{% else %}<|user|>{% endif %}"
    "{% if not (m['content'] is none and m['tool_calls']) %}{{ m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' and m['tool_calls'] %}{% for c in m['tool_calls'] %}"
    '<tool_call>{"name": {{ c["function"]["name"] | tojson }}, "arguments": '
    "{% set given = c['function']['arguments'] %}{{ given if given is string else given | tojson }}}</tool_call>"
    "{% endfor %}{% endif %}"
    "{% if tools and loop.first and m['role'] in ('system', 'developer') %}{{ '\\n\\n' }}{{ listed() }}{% endif %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over our own sentences; digits stand alone, and so do most spaces before a word."""
    apart = [pre_tokenizers.Split(Regex(r"\d"), "isolated"), pre_tokenizers.Split(Regex(r" (?=\p{L})"), "isolated")]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learning = Tokenizer(models.BPE())
    learning.pre_tokenizer = pre_tokenizers.Sequence([*apart, level])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(_SPACED),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learning.train_from_iterator(_texts(seed), trainer)
    learned = json.loads(learning.to_str())["model"]
    vocabulary = learned["vocab"] | {f"Ġ{word}": len(learned["vocab"]) + at for at, word in enumerate(_SPACED)}
    merges = [tuple(pair) for pair in learned["merges"]]
    bpe = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([apart[0], level])
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|end|>",
        pad_token="<|end_of_text|>",
        additional_special_tokens=[one for one in SPECIAL if one not in {"<|end|>", "<|end_of_text|>"}],
        chat_template=TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _texts(seed: int) -> Iterator[str]:
    """Every word that it is taught, and calls as they are written."""
    for one in itertools.islice(dialogues(seed), 20_000):
        yield from (message["content"] for message in one)
    for lesson in itertools.islice(lessons(seed), 8_000):
        for tool in lesson.tools:
            yield json.dumps(tool["function"], ensure_ascii=False)
        for message in lesson.messages:
            yield message["content"] or ""
            for call in message.get("tool_calls", ()):
                yield json.dumps(call["function"], ensure_ascii=False)
