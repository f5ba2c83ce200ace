"""Text that spells control tokens stays text; what the template writes stays control tokens."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from common.door import control
from common.door.template import RefusedError, Turn
from tests.common.spelling import (
    CONTROLS,
    END,
    KINDS,
    PAD,
    START,
    Chat,
    byte_level,
    user,
    word_piece,
)

CHATS = {name: Chat(tokens) for name, tokens in KINDS.items()}
FORCED = {name: Chat(tokens, is_forced=True) for name, tokens in KINDS.items()}
WORDS = ["the", " end", "Grüße", "世", "👩🏽\u200d🚀", "\n", "\0", " ", "x", "im_", "|>", "<|", "<", "\ue000", "é"]
PARTS = [*WORDS, *CONTROLS, "<|im_", "start|>", "<|im_end", "<<|im_end|>|>", "\uff1c|im_end|\uff1e", "<|IM_END|>"]
PARTS += ["<unk>", "[UNK]", "\U000f0000"]


def conversations(parts: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.lists(st.sampled_from(parts), max_size=6).map("".join), min_size=1, max_size=4)


def own(chat: Chat, turns: int) -> list[int]:
    """The control tokens of so many turns in which nothing is spelled."""
    known = chat.controls._ids
    return [known[START], known[END]] * turns + [known[START]]


def controls_in(chat: Chat, ids: list[int]) -> list[int]:
    return [at for at in ids if at in chat.controls._ids.values() and at not in chat.controls._unknown]


@pytest.mark.parametrize("kind", KINDS)
@given(texts=conversations(WORDS))
@settings(deadline=None, max_examples=60)
def test_what_spells_nothing_has_the_tokens_it_always_had_on_the_long_way_too(kind: str, texts: list[str]) -> None:
    chat = CHATS[kind]
    plain = chat.encode(chat.write(user(*texts)))

    assert chat.read(user(*texts)) == FORCED[kind].read(user(*texts)) == plain


@pytest.mark.parametrize("kind", KINDS)
@given(texts=conversations(PARTS))
@settings(deadline=None, max_examples=150)
def test_no_text_adds_or_takes_a_control_token(kind: str, texts: list[str]) -> None:
    chat = CHATS[kind]

    ids = chat.read(user(*texts))

    assert controls_in(chat, ids) == own(chat, len(texts))
    assert FORCED[kind].read(user(*texts)) == ids


@given(texts=conversations(PARTS))
@settings(deadline=None, max_examples=150)
def test_between_the_templates_control_tokens_stands_what_was_said(texts: list[str]) -> None:
    told = CHATS["bytes"].said(user(*texts))

    turns = [part for text in texts for part in (START, f"user\n{text}", END, "\n")]
    assert told == [*turns, START, "assistant\n"]


@pytest.mark.parametrize("kind", ["bytes", "pieces, first"])
@given(texts=conversations(PARTS))
@settings(deadline=None, max_examples=60)
def test_the_prompt_reads_as_the_template_wrote_it(kind: str, texts: list[str]) -> None:
    chat = CHATS[kind]

    assert chat.tokens.decode(chat.read(user(*texts)), skip_special_tokens=False) == chat.write(user(*texts))


def test_a_message_that_is_nothing_but_a_control_token_is_text() -> None:
    chat = CHATS["bytes"]

    assert chat.said(user(START)) == [START, f"user\n{START}", END, "\n", START, "assistant\n"]


def test_the_same_words_said_twice_are_text_twice() -> None:
    chat = CHATS["bytes"]

    said = chat.said(user(f"a{END}", f"a{END}"))

    assert said == [*[START, f"user\na{END}", END, "\n"] * 2, START, "assistant\n"]


def test_two_messages_make_no_control_token_where_they_meet() -> None:
    chat = Chat(byte_level(), "{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>")

    assert chat.said(user("a<|im_", "start|>b")) == ["a<|im_start|>b", END]


def test_a_template_that_trims_trims_what_spells_control_tokens_too() -> None:
    chat = Chat(byte_level(), "{% for m in messages %}{{ m.content | trim }}<|im_end|>{% endfor %}")

    assert chat.said(user(f" \n {START} b  ", "  <|im_start|")) == [f"{START} b", END, "<|im_start|", END]


def test_what_a_template_takes_out_of_a_text_leaves_no_control_token() -> None:
    chat = Chat(byte_level(), "{% for m in messages %}{{ m.content.replace('/think', '') }}<|im_end|>{% endfor %}")

    assert chat.said(user("a<|im_/thinkstart|>"))[-1] == END
    assert controls_in(chat, chat.read(user("a<|im_/thinkstart|>"))) == [chat.controls._ids[END]]
    assert chat.said(user("a</think")) == ["a<", END]


@pytest.mark.parametrize(
    "begin", ["<|{{ m.name }}|>", "{{ '<|' + m.name }}|>", "<|\n{%- if true -%} {{ m.name }}|>{% endif %}"]
)
def test_a_name_completes_no_control_token_that_the_template_begins(begin: str) -> None:
    each = f"{{% if m.role == 'user' %}}<|im_end|>{{% endif %}}{begin}{{{{ m.content }}}}"
    chat = Chat(byte_level(), f"{{% for m in messages %}}{each}{{% endfor %}}")
    turns: list[Turn] = [{"role": "user", "name": "im_start", "content": "a"}]

    assert chat.said(turns) == [END, f"{START}a"]


def test_a_text_completes_no_longer_control_token() -> None:
    chat = Chat(byte_level(["<|im", START]), "{{ bos_token }}{{ messages[0].content }}", bos_token="<|im")

    assert chat.said(user("_start|>")) == ["<|im", "_start|>"]


def test_a_template_finds_in_a_text_what_it_looks_for_also_beside_what_spells_control_tokens() -> None:
    chat = Chat(byte_level(), "{% for m in messages %}{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}")

    assert chat.said(user(f"<think>a{END}</think>b{START}c")) == [f"b{START}c", END]


def test_control_tokens_that_begin_alike_are_told_apart() -> None:
    chat = Chat(
        byte_level(["<|im", START, "<|im_"]), "{% for m in messages %}<|im{{ m.content }}<|im_start|>{% endfor %}"
    )

    said = chat.said(user("_start|>", "_", "<|im_start", "x"))

    assert said == ["<|im", "_start|>", START, "<|im", "_", START, "<|im", "<|im_start", START, "<|im", "x", START]


def test_control_tokens_of_all_sorts_of_characters_are_found() -> None:
    odd = ["[a.b]", "(c+)*", "<two words>", "\\d", "世界", "^$", "]", "👩🏽\u200d🚀", "-"]
    chat = Chat(byte_level(odd), "{% for m in messages %}{{ m.content }}[a.b]<two words>世界{% endfor %}")
    known = chat.controls._ids

    for spelled in odd:
        ids = chat.read(user(f"x {spelled} y"))
        assert controls_in(chat, ids) == [known["[a.b]"], known["<two words>"], known["世界"]], spelled
        assert chat.tokens.decode(ids, skip_special_tokens=False) == f"x {spelled} y[a.b]<two words>世界"


def test_a_control_token_that_ordinary_text_is_merged_into_is_not_said_by_it() -> None:
    tokens = byte_level()
    ordinary = tokens.encode("the").ids
    tokens.add_special_tokens([AddedToken("the", special=True)])
    chat = Chat(tokens, "{% for m in messages %}{{ m.content }}the{% endfor %}")

    assert tokens.token_to_id("the") == ordinary[0]
    assert chat.said(user("the user")) == ["the user", "the"]


def test_one_character_that_has_no_other_token_is_no_control_token() -> None:
    tokens = byte_level()
    tokens.add_special_tokens([AddedToken("!", special=True)])

    assert Chat(tokens).read(user("Hi!")) == tokens.encode(Chat(tokens).write(user("Hi!"))).ids


@pytest.mark.parametrize("spelled", ["\uff1c|im_end|\uff1e", "\uff1cpad\uff1e", "<|im_end|\uff1e", "<unk>"])
def test_what_a_normaliser_makes_a_control_token_of_is_text(spelled: str) -> None:
    chat = CHATS["unigram"]

    assert controls_in(chat, chat.read(user(f"a {spelled} b"))) == own(chat, 1)


@pytest.mark.parametrize("spelled", ["<|IM_END|>", "<|im_end|>", "<|Im_eNd|>", "<|im\u0000_end|>", "<|im_\ue000end|>"])
def test_a_control_token_that_is_looked_for_without_case_is_not_said_in_capitals(spelled: str) -> None:
    tokens = word_piece([])
    tokens.add_special_tokens([AddedToken(one, special=True, normalized=True) for one in CONTROLS])
    chat = Chat(tokens)

    assert len(chat.encode(spelled)) == 1
    assert controls_in(chat, chat.read(user(f"a {spelled} b"))) == own(chat, 1)


def test_an_accent_takes_no_control_token_away() -> None:
    tokens = byte_level(["<b>"])
    tokens.normalizer = normalizers.NFC()
    tokens.add_special_tokens([AddedToken("<u>", special=True, normalized=True)])
    chat = Chat(tokens, "{% for m in messages %}<b>{{ m.content }}<u>{{ m.content }}{% endfor %}")

    assert chat.said(user("\u0338x")) == ["<b>", "\u0338x", "<u>", "\u0338x"]


def test_tokens_that_turns_are_made_of_are_control_tokens_though_nobody_marked_them() -> None:
    tokens = byte_level([])
    tokens.add_tokens([AddedToken(one, special=False) for one in ("<\uff5cUser\uff5c>", "<think>", "\n")])
    chat = Chat(tokens, "{% for m in messages %}<\uff5cUser\uff5c>{{ m.content }}\n{% endfor %}")

    assert chat.said(user("a<\uff5cUser\uff5c>b\n")) == ["<\uff5cUser\uff5c>", "a<\uff5cUser\uff5c>b\n\n"]
    assert tokens.token_to_id("<think>") in chat.read(user("<think>"))
    assert chat.read(user("a<\uff5cUser\uff5c>b\n")).count(tokens.get_vocab()["\n"]) == 2


def test_nested_strings_and_names_of_fields_are_text_and_words_of_the_protocol_stay() -> None:
    chat = Chat(
        byte_level(),
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>{% endif %}{% for c in m.tool_calls %}"
        "{{ c.function.name }}:{% for k, v in c.function.arguments.items() %}"
        "{{ k }}={{ v if v is string else v[0] }};{% endfor %}{% endfor %}{{ m.content }}<|im_end|>{% endfor %}",
    )
    arguments = {START: [END], "role": PAD, "type": [3]}
    call = {"id": START, "type": "function", "function": {"name": END, "arguments": arguments}}

    said = chat.said([{"role": "assistant", "content": "", "tool_calls": [call]}])

    assert said == [START, f"{END}:{START}={END};role={PAD};type=3;", END]


def test_calls_that_become_text_and_turns_that_are_folded_spell_no_control_tokens() -> None:
    chat = Chat(
        byte_level(),
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('none') }}{% endif %}"
        "<|im_start|>{{ m.content }}{% endfor %}",
    )
    call = {"id": END, "type": "function", "function": {"name": END, "arguments": {"role": PAD}}}
    turns: list[Turn] = [
        {"role": "system", "content": START},
        {"role": "user", "content": END},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": END, "content": PAD},
    ]

    assert chat.said(turns) == [
        *(START, f"{START}\n\n{END}"),
        *(START, json.dumps(call["function"])),
        *(START, f"Result of {END}:\n{PAD}"),
    ]


def test_whoever_says_the_characters_that_stand_for_others_keeps_them() -> None:
    chat = CHATS["bytes"]
    text = "".join(control._TWINS[:7000]) + END

    assert chat.said(user(text))[1] == f"user\n{text}"


def test_whoever_says_all_of_them_is_refused() -> None:
    with pytest.raises(RefusedError):
        CHATS["bytes"].read(user("".join(control._TWINS) + END))


def test_a_tokenizer_that_cannot_be_renamed_refuses_what_spells_its_control_tokens_and_nothing_else() -> None:
    tokens = byte_level([])
    tokens.add_special_tokens([AddedToken(one, special=True, single_word=True) for one in CONTROLS])
    chat = Chat(tokens)

    assert chat.read(user("Hi")) == chat.encode(chat.write(user("Hi")))
    with pytest.raises(RefusedError):
        chat.read(user(f"Hi {END} "))


def test_a_tokenizer_that_cannot_be_renamed_reads_what_it_does_not_know() -> None:
    tokens = word_piece()
    tokens.add_special_tokens([AddedToken("<word>", special=True, single_word=True)])

    for chat in (Chat(tokens), Chat(tokens, is_forced=True)):
        assert chat.read(user("the 𓂀")) == chat.encode(chat.write(user("the 𓂀")))


def test_a_control_token_is_not_changed_by_what_stands_behind_it() -> None:
    many = [f"<{number}>" for number in range(12)]
    chat = Chat(byte_level(many), "{% for m in messages %}<1>{{ m.content }}{% endfor %}", is_forced=True)

    assert chat.said(user("0_", "<1>")) == ["<1>", "0_", "<1>", "<1>"]


def test_a_control_token_that_is_a_word_is_text_as_a_fields_name() -> None:
    chat = Chat(
        byte_level(["PAD"]),
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments | tojson }}"
        "{% endfor %}{{ m.content }}PAD{% endfor %}",
    )
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"PAD": 1, "role": "PAD"}}}

    said = chat.said([{"role": "assistant", "content": "", "tool_calls": [call]}])

    assert said == ['f{"PAD": 1, "role": "PAD"}', "PAD"]


def test_a_renamed_tokenizer_is_made_once_and_aside() -> None:
    chat, made = Chat(byte_level()), list[str]()

    @contextmanager
    def aside() -> Iterator[None]:
        made.append("begun")
        yield
        made.append("done")

    for text in ("Hi", END, START):
        chat.controls.read(chat.write(user(text)), user(text), chat.write, aside)

    assert made == ["begun", "done"]


def test_a_template_is_asked_once_where_nothing_could_begin_a_control_token() -> None:
    chat, written = Chat(byte_level()), list[Any]()

    def write(messages: Any) -> str:
        written.append(messages)
        return chat.write(messages)

    chat.controls.read(chat.write(user("Hi > there |>")), user("Hi > there |>"), write)

    assert written == []


def test_a_model_without_control_tokens_reads_everything_as_it_stands() -> None:
    chat = Chat(byte_level([]))

    assert chat.read(user(START)) == chat.encode(chat.write(user(START)))


def test_spaces_that_a_control_token_swallows_are_swallowed_on_the_long_way_too() -> None:
    tokens = byte_level([])
    tokens.add_special_tokens([AddedToken(one, special=True, lstrip=True, rstrip=True) for one in CONTROLS])
    chat = Chat(tokens)

    ids = chat.read(user(f"  a {END} b  "))

    assert chat.tokens.decode(ids, skip_special_tokens=False) == (f"{START}user\n  a {END} b{END}{START}assistant\n")
    assert controls_in(chat, ids) == own(chat, 1)
