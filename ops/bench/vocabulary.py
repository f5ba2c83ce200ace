"""Tokenizers of any size, trained on the text that every machine with this house has: Python's and the packages' own.

Byte-level BPE, split as Llama 3 splits. The same packages give the same tokenizer; ``build/`` keeps it. 128,256 tokens
take half a minute of CPU.
"""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from common.settings import REPOSITORY

SPECIAL = 256  # tokens that no text spells; the first ends an answer
_KEPT = REPOSITORY / "build"
_SUFFIXES = frozenset((".py", ".md", ".txt", ".rst"))
_EACH = 640  # bytes of text for a token
_LONG = 300_000  # of a file: longer ones are tables
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer(size: int) -> Tokenizer:
    """So many tokens, the special ones included; kept."""
    kept = _KEPT / f"tokenizer-{size}.json"
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        made = kept.with_suffix(".new")
        trained(size).save(str(made))
        made.replace(kept)
    return Tokenizer.from_file(str(kept))


def end(spoken: Tokenizer) -> int:
    """Its end token."""
    return int(spoken.get_vocab_size()) - SPECIAL


def trained(size: int) -> Tokenizer:
    """A new one. Raises RuntimeError where the text is too little for so many tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - SPECIAL,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(size * _EACH), trainer)
    bpe.add_special_tokens([AddedToken(f"<|special_{at}|>", special=True) for at in range(SPECIAL)])
    if bpe.get_vocab_size() != size:
        raise RuntimeError(f"the text here is enough for {bpe.get_vocab_size()} tokens only")
    return bpe


def _texts(left: int) -> Iterator[str]:
    for path in _files():
        if (size := path.stat().st_size) > _LONG:
            continue
        if size > left:
            return
        left -= size
        yield path.read_text(errors="replace")


def _files() -> Iterator[Path]:
    """The standard library's, then the packages', by name."""
    packages = Path(sysconfig.get_path("purelib"))
    for root in (Path(sysconfig.get_path("stdlib")), packages):
        inner = (path for path in root.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
        yield from sorted(path for path in inner if root == packages or "site-packages" not in path.parts)
