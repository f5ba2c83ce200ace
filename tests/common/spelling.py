"""Tokenizers of several kinds, learned on the spot, and templates, for conversations that spell control tokens."""

from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from common.door.control import NOTHING, Controls
from common.door.template import Template, Turn

START, END, PAD = "<|im_start|>", "<|im_end|>", "<pad>"
CONTROLS = (START, END, PAD)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>' + 'assistant\n' }}"
)
_TEXTS = [
    "the user said: im_start is no start, and the end is no <|end|>",
    "Grüße, 世界! 👩🏽\u200d🚀 naïve",
    "assistant\nuser\n",
]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_PIECES = sorted(set("".join(_TEXTS)) - {" "})


def _learned(tokens: Tokenizer, trainer: Any, controls: Iterable[str]) -> Tokenizer:
    tokens.train_from_iterator(_TEXTS * 3, trainer)
    tokens.add_special_tokens([AddedToken(control, special=True, normalized=False) for control in controls])
    return tokens


def byte_level(controls: Iterable[str] = CONTROLS) -> Tokenizer:
    """As GPT-2's."""
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _learned(
        tokens, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False), controls
    )


def pieces(scheme: str = "first", controls: Iterable[str] = CONTROLS) -> Tokenizer:
    """As SentencePiece's BPE with its fallback to bytes; control tokens stand in its vocabulary."""
    vocabulary = ["<unk>", *controls, *_BYTES, "▁", *_PIECES, "th", "the", "▁the", "im", "en", "end"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the"), ("i", "m"), ("e", "n"), ("en", "d")]
    ids = {piece: at for at, piece in enumerate(dict.fromkeys(vocabulary))}
    tokens = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokens.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokens.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokens.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in ("<unk>", *controls)])
    return tokens


def prefixed(controls: Iterable[str] = CONTROLS) -> Tokenizer:
    """As Llama 2's: its normaliser writes a space before every part of a text."""
    tokens = pieces(controls=controls)
    tokens.pre_tokenizer = None
    tokens.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokens


def unigram(controls: Iterable[str] = CONTROLS) -> Tokenizer:
    """As T5's: what is in the vocabulary is found in any text, and full-width letters are letters."""
    tokens = Tokenizer(models.Unigram())
    tokens.normalizer = normalizers.NFKC()
    tokens.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=["<unk>", *controls], unk_token="<unk>", show_progress=False
    )
    return _learned(tokens, trainer, controls)


def word_piece(controls: Iterable[str] = CONTROLS) -> Tokenizer:
    """As BERT's, without case; its normaliser drops characters that have no meaning."""
    tokens = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokens.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokens.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]", *controls], show_progress=False)
    return _learned(tokens, trainer, ("[UNK]", *controls))


KINDS = {
    "bytes": byte_level(),
    "pieces, first": pieces(),
    "pieces, always": pieces("always"),
    "pieces, prefixed": prefixed(),
    "unigram": unigram(),
    "words": word_piece(),
}


class Chat:
    """A tokenizer and a template, as an admission child has them."""

    def __init__(self, tokens: Tokenizer, template: str = CHATML, *, is_forced: bool = False, **named: str) -> None:
        """``is_forced``: every conversation takes the long way; ``named``: tokens that the template knows by a name."""
        self.tokens = tokens
        self._template = Template(PreTrainedTokenizerFast(tokenizer_object=tokens, chat_template=template, **named))
        self.controls = Controls(tokens, self.encode, template, self._template.turns(NOTHING))
        self.controls._is_loose |= is_forced

    def encode(self, text: str) -> list[int]:
        """What every text becomes."""
        ids: list[int] = self.tokens.encode(text, add_special_tokens=False).ids
        return ids

    def write(self, turns: list[Turn]) -> str:
        """What the template makes of them."""
        return self._template.text(turns, opens=True, goes_on=False)

    def read(self, turns: list[Turn]) -> list[int]:
        """The prompt."""
        return self.controls.read(self.write(turns), turns, self.write)

    def said(self, turns: list[Turn]) -> list[str]:
        """The prompt, with control tokens as they are spelled, and what stands between them as text."""
        told, run = [], list[int]()
        for at in self.read(turns):
            if at in self.controls._ids.values():
                told += [self._text(run), str(self.tokens.id_to_token(at))]
                run = []
            else:
                run.append(at)
        return [part for part in (*told, self._text(run)) if part]

    def _text(self, ids: list[int]) -> str:
        return str(self.tokens.decode(ids, skip_special_tokens=False))


def user(*texts: str) -> list[Turn]:
    """What one person says."""
    return [{"role": "user", "content": text} for text in texts]
