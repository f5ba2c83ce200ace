"""The words whose tokens a tokenizer remembers."""

from tokenizers import Tokenizer
from tokenizers.models import BPE, Unigram

_WORDS = 1_000  # with none, text takes a quarter longer; with ten times as many, no less


def remember_few(tokens: Tokenizer) -> None:
    """So many from now on, the first that come; call it before any has.

    It would be 10,000 of up to 256 characters, 80 MB, and whoever sends ever new words fills that up over hours.
    Nothing gives that back: BPE's words are not freed when they are forgotten, nor when their tokenizer is.
    """
    if isinstance(tokens.model, BPE | Unigram):  # others remember none
        tokens.model._resize_cache(_WORDS)  # noqa: SLF001  there is no other way for one that was loaded
