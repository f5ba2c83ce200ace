from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.worker.claims import read, spelled
from worker.engine.text import Characters, Decode, Stops, Text

_SAYING = "Grüße, 世界! 👩🏽‍🚀 naïve — ok\n"
_HALF = "\ufffd"
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_PIECES = ["▁the", "▁", "▁▁", "▁cat", "s", "▁sat", "▁Grü", "ße", ".", "世"]
_SENTENCE_PIECE = {piece: at for at, piece in enumerate([*_BYTES, *_PIECES])}
_STRIPPED = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def _byte_level() -> Tokenizer:
    """Learned from too little to have whole characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [_SAYING * 2, "世界 世人 界世", "👩🏽‍🚀👩🏾‍🚀", "the cat"],
        trainers.BpeTrainer(
            vocab_size=290,
            special_tokens=["<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def _pieces(decoder: decoders.Decoder) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=_SENTENCE_PIECE, merges=[]))
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    return tokenizer


_LEARNED = _byte_level()
_BROKEN_UP = _pieces(_STRIPPED)
_METASPACE = _pieces(decoders.Metaspace())


def _shown(decode: Decode, tokens: Sequence[int]) -> list[str]:
    characters = Characters(decode)
    return [characters.push(token) for token in tokens]


def _with_stops(text: str, stops: Sequence[str], at_once: int = 1) -> tuple[str, bool]:
    """What is shown of a text that comes in pieces, and whether it was stopped."""
    holder, shown = Stops(stops), ""
    for at in range(0, len(text), at_once):
        new, is_stopped = holder.push(text[at : at + at_once])
        shown += new
        if is_stopped:
            return shown, True
    return shown + holder.rest(), False


def _first_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The same, looked up in the whole text."""
    for end in range(1, len(text) + 1):
        complete = [len(stop) for stop in stops if stop and text[:end].endswith(stop)]
        if complete:
            return text[: end - max(complete)], True
    return text, False


@given(st.text(max_size=40))
@settings(deadline=None)
def test_characters_split_over_bytes_come_whole(text: str) -> None:
    pieces = _shown(read, spelled(text))

    assert "".join(pieces) == text.rstrip(_HALF)
    assert text.count(_HALF) >= sum(piece.count(_HALF) for piece in pieces)


def test_a_learned_vocabulary_that_splits_characters_shows_no_half() -> None:
    saying = _SAYING + "人间 Жук ö 🦆 👩🏻‍🚀"

    pieces = _shown(_LEARNED.decode, _LEARNED.encode(saying * 5).ids)

    assert "".join(pieces) == saying * 5
    assert not any(_HALF in piece for piece in pieces)
    assert pieces.count("") > 50  # so many were held back


@given(st.lists(st.integers(0, 289), max_size=50))
@settings(deadline=None)
def test_the_pieces_of_any_tokens_join_to_the_decoded_whole(tokens: list[int]) -> None:
    assert "".join(_shown(_LEARNED.decode, tokens)) == _LEARNED.decode(tokens).rstrip(_HALF)


@pytest.mark.parametrize("tokenizer", [_BROKEN_UP, _METASPACE], ids=["replace, fall back, strip", "metaspace"])
@given(tokens=st.lists(st.integers(256, 266), max_size=50))
@settings(deadline=None)
def test_a_decoder_that_treats_the_first_token_otherwise_changes_nothing(
    tokenizer: Tokenizer, tokens: list[int]
) -> None:
    assert "".join(_shown(tokenizer.decode, tokens)) == tokenizer.decode(tokens)


@given(st.lists(st.sampled_from([*_PIECES, "界", "ü", "👩", " ", "x"]), max_size=30), st.integers(0, 2))
@settings(deadline=None)
def test_characters_spelled_in_byte_pieces_come_whole(parts: list[str], half: int) -> None:
    spelling = [[_SENTENCE_PIECE[part]] if part in _SENTENCE_PIECE else list(part.encode()) for part in parts]
    tokens = [token for part in spelling for token in part]

    pieces = _shown(_BROKEN_UP.decode, [*tokens, *"界".encode()[:half]])

    assert "".join(pieces) == _BROKEN_UP.decode(tokens)
    assert not any(_HALF in piece for piece in pieces)


def test_half_a_character_that_gets_no_rest_is_never_shown() -> None:
    assert _shown(read, spelled("a世")[:-1]) == ["a", "", ""]


def test_bytes_that_are_no_character_are_shown_when_that_is_certain() -> None:
    tokens = (*spelled("a世")[:-1], *spelled("b"))

    assert _shown(read, tokens) == ["a", "", "", "\ufffdb"]


def test_tokens_that_never_end_where_a_character_does_are_shown_all_along() -> None:
    spelling = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str("世")[0][0]
    first, shifted = spelling[:1], spelling[1:] + spelling[:1]
    tokenizer = Tokenizer(models.BPE(vocab={first: 0, shifted: 1}, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()

    pieces = _shown(tokenizer.decode, [0, *[1] * 300])

    assert pieces == ["", *["世"] * 300]


def test_endless_rubbish_is_shown_in_time_and_the_character_after_it_too() -> None:
    for count in range(55, 140):
        tokens = (*spelled("世")[1:2] * count, *spelled("世a"))

        pieces = _shown(read, tokens)

        assert "".join(pieces) == read(tokens) == _HALF * count + "世a"
        assert any(pieces[:64])


def test_a_long_text_in_byte_pieces_shows_no_half() -> None:
    pieces = _shown(_BROKEN_UP.decode, list(("界👩" * 30).encode()))

    assert [piece for piece in pieces if piece] == ["界", "👩"] * 30


def test_a_long_text_is_not_decoded_from_its_start_with_every_token() -> None:
    lengths = []

    def decode(tokens: Sequence[int]) -> str:
        lengths.append(len(tokens))
        return read(tokens)

    _shown(decode, spelled("a 世" * 200))

    assert max(lengths) < 20


def test_special_tokens_between_words_have_no_text() -> None:
    start, the, cat = 266, _SENTENCE_PIECE["▁the"], _SENTENCE_PIECE["▁cat"]

    pieces = _shown(_BROKEN_UP.decode, [start, the, *[start] * 100, cat, *[cat] * 20, start, the])

    assert "".join(pieces) == "the cat" + " cat" * 20 + " the"


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", max_size=6), max_size=4),
    st.integers(1, 5),
)
@settings(max_examples=400, deadline=None)
def test_a_stop_string_ends_the_text_wherever_the_tokens_end(text: str, stops: list[str], at_once: int) -> None:
    assert _with_stops(text, stops, at_once) == _first_stop(text, stops)


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_nothing_is_held_back_that_cannot_become_a_stop_string(text: str, stops: list[str]) -> None:
    holder, shown = Stops(stops), ""
    for end, character in enumerate(text, 1):
        new, is_stopped = holder.push(character)
        shown += new
        if is_stopped:
            break
        held = text[len(shown) : end]
        assert any(stop.startswith(held) for stop in stops)
        longest = max(size for stop in stops for size in range(len(stop)) if text[:end].endswith(stop[:size]))
        assert len(held) == longest


def test_the_longer_of_two_stop_strings_that_end_together_is_cut() -> None:
    assert _with_stops("xxabcdef", ["cd", "abcd", "ef"]) == ("xx", True)


def test_the_stop_string_that_is_complete_first_wins() -> None:
    assert _with_stops("say abcd", ["abcd", "bc"]) == ("say a", True)


def test_a_stop_string_across_split_characters_is_never_shown() -> None:
    text, shown = Text(read, ("界!",)), []
    for token in spelled("世界!x"):
        new, is_stopped = text.push(token)
        shown.append(new)
        if is_stopped:
            break

    assert ("".join(shown), is_stopped) == ("世", True)


def test_what_waited_for_a_stop_string_in_vain_is_shown_at_the_end() -> None:
    text = Text(read, ("###",))

    shown = [text.push(token)[0] for token in spelled("a##")]

    assert (shown, text.close(), text.close()) == (["a", "", ""], "##", "")
