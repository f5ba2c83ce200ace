"""Logprobs from the logits to the log: against a plain log-softmax, through stop strings, half characters, deaths."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from common.jobs import Delta, Echo, Event, Job, Logprob, Sampling, decode_event
from tests.builders import a_job
from tests.worker import saved_models, tiny
from tests.worker.claims import BYTES, a_claim, an_engine, answers, finish, spelled
from worker.engine.likely import Score
from worker.engine.rowbatch import RowModel
from worker.engine.scores import scored
from worker.engine.sequence import Bounds
from worker.engine.work import work_of
from worker.models.counting import Counting
from worker.models.pieces import Pieces

_LLAMA = tiny.network("llama")
_END = 256
_TEXT = "the reed bends, Grüße 世界 👩‍👩‍👧 river\n\truns"


def _job(most: int, top: int, prompt: Sequence[int] = (5, 6, 7, 8), **changes: object) -> Job:
    told = {"sampling": Sampling(most, 0.0, logprobs=top)} | changes
    return a_job(prompts=(tuple(prompt),), **told)


def _entries(events: Sequence[Event], choice: int = 0) -> list[Logprob]:
    return [one for event in events if isinstance(event, Delta) and event.choice == choice for one in event.logprobs]


def _bytes(entries: Sequence[Logprob]) -> bytes:
    return b"".join(one.token.encode() if isinstance(one.token, str) else bytes(one.token) for one in entries)


def _plain(tokens: Sequence[int]) -> torch.Tensor:
    """[T, V]: what the plain model thinks of each place after the first."""
    logits: torch.Tensor = _LLAMA(torch.tensor([tokens])).logits
    return logits[0].double().log_softmax(dim=-1)


@pytest.mark.parametrize("sampling", [Sampling(12, 0.0, logprobs=4), Sampling(12, 1.3, 0.8, 5, 0.1, logprobs=4)])
def test_entries_are_the_plain_models_logarithms(sampling: Sampling) -> None:
    """Also of a sampled token: before temperature and cuts."""
    job, mate = _job(12, 4, sampling=sampling), _job(9, 0, (9, 9, 1), sampling=Sampling(9, 0.7))

    notes = answers(tiny.rows(_LLAMA), a_claim(job), a_claim(mate))

    tokens, entries = notes.tokens(job), _entries(notes.events[job.id])
    expected = _plain([*job.prompts[0], *tokens])[len(job.prompts[0]) - 1 :]
    assert len(entries) == len(tokens) == 12
    assert _entries(notes.events[mate.id]) == []
    for entry, token, row in zip(entries, tokens, expected[:-1], strict=True):
        values, ids = row.topk(4)
        assert entry.token == tiny.letters([token])
        assert entry.value == pytest.approx(float(row[token]), abs=1e-4)
        assert [one for one, _ in entry.top] == [tiny.letters([one]) for one in ids.tolist()]
        assert [value for _, value in entry.top] == pytest.approx(values.tolist(), abs=1e-4)
    assert [entry.offset for entry in entries] == list(range(12))


def test_entries_tell_what_the_model_thought_before_penalties_and_biases() -> None:
    changed = Sampling(8, 0.0, presence=2, frequency=2, repetition=1.5, bias=((7, 50.0),), logprobs=1)
    job = _job(8, 1, sampling=changed)

    notes = answers(tiny.rows(_LLAMA), a_claim(job))

    expected = _plain([*job.prompts[0], *notes.tokens(job)])[3:-1]
    told = [entry.value for entry in _entries(notes.events[job.id])]
    assert told == pytest.approx(
        [float(row[token]) for row, token in zip(expected, notes.tokens(job), strict=True)], abs=1e-4
    )
    assert notes.tokens(job)[0] == 7


def test_the_likeliest_are_as_many_as_were_asked_for() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 2.0, -1.0]])

    first, second = scored(logits, [0, 2], [0, 7])

    assert first.top == ()
    assert [token for token, _ in second.top][2:] == [2]
    assert sum(math.exp(value) for _, value in second.top) == pytest.approx(1)
    assert second.value == second.top[-1][1]


def test_a_prompt_is_told_with_what_the_model_thought_of_it() -> None:
    prompt = (5, 6, 7, 8, 9)
    echo = Echo(tiny.letters(prompt), tuple(range(5)))
    job = _job(3, 2, prompt, echo=(echo,), n=2)

    notes = answers(tiny.rows(_LLAMA), a_claim(job))

    for choice in (0, 1):
        entries = _entries(notes.events[job.id], choice)
        expected = _plain([*prompt, *notes.tokens(job, choice)])
        assert notes.text(job, choice) == echo.text + tiny.letters(notes.tokens(job, choice))
        assert (entries[0].value, entries[0].top, entries[0].token) == (None, (), tiny.letters([5]))
        assert [entry.value for entry in entries[1:]] == pytest.approx(
            [
                float(row[token])
                for row, token in zip(expected, (*prompt[1:], *notes.tokens(job, choice)), strict=False)
            ],
            abs=1e-4,
        )
        assert [entry.offset for entry in entries] == list(range(8))


def test_what_the_tokenizer_put_before_a_prompt_has_no_entry() -> None:
    job = _job(1, 0, (1, 6, 7), echo=(Echo("ab", (-1, 0, 1)),))

    entries = _entries(answers(tiny.rows(_LLAMA), a_claim(job)).events[job.id])

    assert [entry.offset for entry in entries] == [0, 1, 2]
    assert entries[0].value == pytest.approx(float(_plain([1, 6])[0][6]), abs=1e-4)


@pytest.mark.parametrize("offsets", [None, (0, 1)])
def test_a_prompt_may_be_told_alone(offsets: tuple[int, ...] | None) -> None:
    job = _job(0, 1, spelled("ab"), echo=(Echo("ab", offsets),))

    notes = answers(Counting("", 4), a_claim(job))

    assert (notes.text(job), notes.tokens(job), notes.finish(job)) == ("ab", [], "length")
    assert len(_entries(notes.events[job.id])) == len(offsets or ())
    assert notes.events[job.id][-1].usage.completion_tokens == 0  # type: ignore[union-attr]


def test_a_prompt_without_scores_comes_before_the_first_token() -> None:
    job = a_job(prompts=(spelled("1 "),), sampling=Sampling(2, 0.0), echo=(Echo("One "),))

    notes = answers(Counting("", 4), a_claim(job))

    assert notes.deltas(job)[0] == Delta("One ", ())
    assert notes.text(job) == "One 2 "


_BOUNDS = Bounds(200, (_END,))


def _events(job: Job, answer: Sequence[int], said: Sequence[Event] = ()) -> list[Delta]:
    """What a model that gives these tokens makes of a job, after what was said; a token is as likely as its id says."""
    one = work_of(a_claim(job, said), 1, _BOUNDS).sequences[0]
    tokens = (*one.prompt, *answer)
    events = [] if one.is_finished else [*one.begin(BYTES)]
    while not one.is_finished:
        asked = one.asked()
        assert asked is not None
        since = max(asked.since, one.read + 1) if one.read else asked.since
        scores = tuple(Score(token, -float(token)) for token in tokens[since : len(one) + 1])
        events += one.take(tokens[len(one)], 0.0, scores)
    return events


_CASES = {
    "half characters": (Sampling(60, 0.0, logprobs=0), spelled(_TEXT)[:60]),
    "a stop string": (Sampling(60, 0.0, stop=("世界",), logprobs=0), spelled(_TEXT)),
    "a stop string in vain": (Sampling(30, 0.0, stop=("bends, Gruß", "ße 世x"), logprobs=0), spelled(_TEXT)),
    "an end token": (Sampling(60, 0.0, logprobs=0), (*spelled("the 世"), _END)),
    "half a character at the end": (Sampling(60, 0.0, logprobs=0), (*spelled("x世")[:3], _END)),
}


@pytest.mark.parametrize(("sampling", "answer"), _CASES.values(), ids=_CASES)
@pytest.mark.parametrize("echo", [(), (Echo("ab", (0, 1)),)], ids=["", "echo"])
def test_entries_are_told_with_their_text_and_once_wherever_a_worker_dies(
    sampling: Sampling, answer: Sequence[int], echo: tuple[Echo, ...]
) -> None:
    job = _job(0, 0, spelled("ab"), sampling=sampling, echo=echo)
    whole = _events(job, answer)
    text = "".join(event.text for event in whole)

    entries = _entries(whole)
    assert _bytes(entries).startswith(text.encode())
    assert [one.value for one in entries[len("ab") * len(echo) :]] == [
        -float(one) for one in answer[: len(entries) - 2 * len(echo)]
    ]
    for event in whole:
        assert _bytes(event.logprobs).decode(errors="ignore")[: len(event.text)] == event.text
    assert all(text[entry.offset :].startswith(entry.token) for entry in entries if isinstance(entry.token, str))
    assert all(before.offset <= after.offset for before, after in pairwise(entries))
    for cut in range(len(whole)):
        again = _events(job, answer, whole[:cut])
        assert _entries([*whole[:cut], *again]) == entries
        assert "".join(event.text for event in [*whole[:cut], *again]) == text


def test_a_token_of_which_only_a_part_is_shown_has_its_entry_and_what_follows_has_none() -> None:
    job = _job(0, 0, (1,), sampling=Sampling(60, 0.0, stop=("b",), logprobs=0))
    letters = tiny.Spoken(lambda tokens: "".join(("ab", "cd", "b")[token % 3] for token in tokens))
    one = work_of(a_claim(job), 1, _BOUNDS).sequences[0]
    one.begin(letters)

    said = [*one.take(1, 0.0, (Score(1, -1.0),)), *one.take(0, 0.0, (Score(0, -2.0),))]

    assert "".join(event.text for event in said) == "cda"
    assert [entry.token for entry in _entries(said)] == ["cd", "ab"]


def test_an_answer_with_scores_cut_anywhere_goes_on_the_same_on_a_real_model() -> None:
    spoken = tiny.Spoken(lambda tokens: BYTES.decode([token % 256 for token in tokens]))
    spoken.spell = lambda token: BYTES.spell(token % 256)  # type: ignore[method-assign]
    model = RowModel(_LLAMA, spoken, Bounds(320, ()), 4)
    job = _job(0, 0, sampling=Sampling(24, 1.0, stop=("7K", "\x00"), logprobs=2), n=2, seed=9)
    whole = answers(model, a_claim(job)).events[job.id]

    for cut in range(0, len(whole), 5):
        said = [event for event in whole[:cut] if isinstance(event, Delta)]
        rest = answers(model, a_claim(job, said)).events[job.id]
        for choice in (0, 1):
            had, has = _entries(whole, choice), _entries([*said, *rest], choice)
            assert [one.token for one in has] == [one.token for one in had]
            assert [one.value for one in has] == pytest.approx([one.value for one in had], abs=1e-4)


def test_an_answer_whose_time_is_up_gets_the_scores_that_its_log_lacks_and_no_more() -> None:
    sampling = Sampling(50, 0.0, stop=("3 4 no",), logprobs=0)
    job = a_job(prompts=(spelled("1 "),), sampling=sampling, max_time_s=3)
    said = answers(Counting("", 4), a_claim(job)).deltas(job)[:5]
    assert "".join(delta.text for delta in said) == "2 "

    rest = answers(Counting("", 4), a_claim(job, said, since_s=4)).deltas(job)

    entries = _entries([*said, *rest])
    assert [entry.token for entry in entries] == list("2 3 4 ")
    assert "".join(delta.text for delta in (*said, *rest)) == "2 3 4 "
    assert rest[-1] == Delta("", (), 0, "length", why="max_time")


def test_a_parked_answer_tells_each_entry_once() -> None:
    job = _job(20, 1, cls="batch")
    engine, notes = an_engine(tiny.rows(_LLAMA, slots=1), job)
    for _ in range(7):
        engine.step()

    engine.add(a_claim(_job(2, 1, (3, 4))))
    finish(engine)

    assert engine.counters["preemptions"] == 1
    assert len(_entries(notes.events[job.id])) == 20


def test_an_item_with_logprobs_comes_back_from_the_log_as_it_was() -> None:
    entries = (Logprob("世", -0.5, 3, (("世", -0.5), ((0xE4, 0xB8), -2.0))), Logprob((0xFF,), None, 4))

    delta = Delta('a"\u2028', (1, 2), 1, None, entries)

    assert decode_event(delta.encode()) == delta


def _sentencepiece() -> Tokenizer:
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁theridbnsvu", "th", "the"]
    vocabulary = {word: at for at, word in enumerate(words)}
    merges = [("t", "h"), ("th", "e")]
    learned = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    learned.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learned.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return learned


def _wordpiece() -> Tokenizer:
    learned = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learned.pre_tokenizer = pre_tokenizers.Whitespace()
    learned.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]"], show_progress=False)
    learned.train_from_iterator(["the reed bends and the river runs"], trainer)
    return learned


def _metaspace() -> Tokenizer:
    learned = Tokenizer(
        models.Unigram([("<unk>", 0.0), *((letter, -2.0) for letter in "▁theridbnsvu"), ("▁the", -1.0)])
    )
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    learned.decoder = decoders.Metaspace()
    return learned


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        (saved_models.tokenizer().backend_tokenizer, _TEXT),
        (_sentencepiece(), _TEXT),
        (_metaspace(), "the reed bends the river"),
        (_wordpiece(), "the reed bends and the river runs"),
    ],
    ids=["byte-level", "sentencepiece", "metaspace", "wordpiece"],
)
def test_tokens_spelled_one_by_one_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    pieces = Pieces(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False).ids

    spelled_ = b"".join(map(pieces.spell, ids))

    assert spelled_.removeprefix(b" ") == text.encode()
    assert pieces.decode(ids) == text
    assert len(ids) > 5


def test_a_token_that_the_tokenizer_lacks_spells_nothing_and_a_special_one_itself() -> None:
    pieces = Pieces(saved_models.tokenizer().backend_tokenizer)

    assert (pieces.spell(0), pieces.spell(9999)) == (b"<|end|>", b"")
