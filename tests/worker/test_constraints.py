"""Answers under a constraint: they fit, whoever runs beside them, on both paths and after any cut."""

import itertools
import json
from collections.abc import Callable
from itertools import product
from string import ascii_lowercase
from typing import Any

import jsonschema_rs
import pytest
import torch
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from common.constraints.build import from_regex
from common.constraints.spec import Constraint
from common.jobs import Delta, Failed, Job, Sampling
from tests.builders import a_job
from tests.worker import tiny
from tests.worker.claims import BYTES, Notes, a_claim, an_engine, answers, finish, read, spelled
from worker.constraints.matcher import Compiler, Row
from worker.constraints.tokenizer import engine_tokenizer, spells
from worker.engine.packed import PackedModel
from worker.engine.rowbatch import RowModel
from worker.engine.sequence import Bounds, BrokenConstraintError
from worker.models.counting import tokenizer

_END = 256
_BOUNDS = Bounds(tiny.CONTEXT, (_END,))
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cat", "dog"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 20},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
    },
    "required": ["kind", "age", "tags"],
    "additionalProperties": False,
}


def _packed() -> Any:
    return _with_compiler(PackedModel(tiny.network(), BYTES, _BOUNDS, 8, lambda _: 2**22))


def _rows() -> Any:
    return _with_compiler(RowModel(tiny.network(), BYTES, _BOUNDS, 8))


def _with_compiler(model: Any) -> Any:
    vocabulary = model._model.config.vocab_size
    model.compiler = Compiler(engine_tokenizer(tokenizer(), BYTES, vocabulary, (_END,)))
    return model


MAKERS: dict[str, Callable[[], Any]] = {"packed": _packed, "rows": _rows}


def _json(schema: dict[str, Any] = SCHEMA, *, compact: bool = False) -> Constraint:
    told = {"x-guidance": {"whitespace_flexible": False}} if compact else {}
    return Constraint("json", LLMatcher.grammar_from_json_schema(json.dumps(schema | told)))


def _job(constraint: Constraint | None, seed: int = 1, **changes: Any) -> Job:
    told = {"prompts": (spelled("Go: "),), "sampling": Sampling(90, 1.0), "seed": seed, "constraint": constraint}
    return a_job(**(told | changes))


def _fits(notes: Notes, job: Job, choice: int = 0) -> bool:
    return jsonschema_rs.is_valid(SCHEMA, json.loads(notes.text(job, choice)))


@pytest.mark.parametrize("path", MAKERS)
@pytest.mark.parametrize("sampling", [Sampling(90, 0.0), Sampling(90, 1.0), Sampling(90, 1.5, top_k=2, presence=2.0)])
def test_an_answer_fits_its_schema(path: str, sampling: Sampling) -> None:
    jobs = [_job(_json(compact=True), seed, sampling=sampling) for seed in range(1, 7)]
    free = _job(None, 9)

    notes = answers(MAKERS[path](), *map(a_claim, [*jobs, free]))

    ended = [job for job in jobs if notes.finish(job) == "stop"]
    assert len(ended) >= 3
    assert all(_fits(notes, job) for job in ended)
    assert notes.tokens(free) == answers(MAKERS[path](), a_claim(free)).tokens(free)


@pytest.mark.parametrize("path", MAKERS)
def test_an_answer_cut_anywhere_goes_on_the_same(path: str) -> None:
    job = _job(_json(compact=True), 3)
    whole = answers(MAKERS[path](), a_claim(job)).events[job.id]
    text = "".join(event.text for event in whole if isinstance(event, Delta))

    for cut in range(0, len(whole), 4):
        said = [event for event in whole[:cut] if isinstance(event, Delta)]
        rest = answers(MAKERS[path](), a_claim(_job(None, 8)), a_claim(job, said)).events[job.id]
        assert "".join(event.text for event in [*said, *rest] if isinstance(event, Delta)) == text


def test_what_must_come_is_not_drawn() -> None:
    job = _job(_json(compact=True), sampling=Sampling(90, 0.0))
    engine, notes = an_engine(_packed(), job)

    finish(engine)

    tokens = len(notes.tokens(job))
    assert _fits(notes, job)
    assert engine.counters["forced_tokens"] > 20
    assert engine.counters["steps"] <= tokens - engine.counters["forced_tokens"] + 1
    assert engine.counters["generation_tokens"] == tokens


def test_choices_follow_the_same_constraint_each_for_itself() -> None:
    job = _job(_json(compact=True), n=3)

    notes = answers(_packed(), a_claim(job))

    told = [notes.text(job, choice) for choice in range(3)]
    assert len(set(told)) > 1
    assert all(_fits(notes, job, choice) for choice in range(3) if notes.finish(job, choice) == "stop")


def test_an_answer_that_is_too_long_is_cut_and_not_mended() -> None:
    job = _job(_json(compact=True), sampling=Sampling(12, 0.0))

    notes = answers(_packed(), a_claim(job))

    assert notes.text(job) in {'{"kind":"cat', '{"kind":"dog'}
    assert (notes.finish(job), len(notes.tokens(job))) == ("length", 12)


def test_an_answer_whose_time_is_up_is_whole_or_says_that_it_is_not() -> None:
    job = _job(_json(compact=True), sampling=Sampling(90, 0.0), max_time_s=5)
    whole = answers(MAKERS["packed"](), a_claim(job)).events[job.id]
    said = [event for event in whole if isinstance(event, Delta)]
    assert said[-1].finish == "stop"

    for cut in range(len(said)):
        rest = answers(MAKERS["packed"](), a_claim(job, said[:cut], since_s=6))
        is_whole = sum(len(delta.tokens) for delta in said[cut:]) == 0
        assert rest.finish(job) == ("stop" if is_whole else "length")
        assert rest.deltas(job)[-1].why == (None if is_whole else "max_time")


def test_penalties_and_ends_that_may_not_come_give_way() -> None:
    """Nothing but an end may follow, and the client forbids it."""
    constraint = Constraint("regex", LLMatcher.grammar_from_regex("[ab]{3}"))
    job = _job(constraint, sampling=Sampling(90, 1.0, min_tokens=50, presence=2.0, frequency=2.0))

    notes = answers(_packed(), a_claim(job))

    assert (len(notes.text(job)), notes.finish(job)) == (3, "stop")
    assert set(notes.text(job)) <= {"a", "b"}


@pytest.mark.parametrize("path", MAKERS)
def test_a_constraint_that_does_not_compile_fails_its_job_alone(path: str) -> None:
    broken, mate = _job(Constraint("grammar", "%llguidance {}\nstart: missing")), _job(None, 2)

    notes = answers(MAKERS[path](), a_claim(broken), a_claim(mate))

    (failed,) = notes.events[broken.id]
    assert isinstance(failed, Failed)
    assert (failed.status, failed.code) == (500, "constraint_failed")
    assert notes.finish(mate) in {"stop", "length"}


class _Breaking:
    """A constraint that is given up after some tokens, as the engine's does when it needs too much."""

    is_done = False

    def __init__(self, left: int) -> None:
        self._left = left

    def clone(self) -> "_Breaking":
        return _Breaking(self._left)

    def advance(self, _token: int) -> None:
        self._left -= 1

    def forced(self) -> list[int]:
        return []

    def fill(self, mask: Any) -> None:
        self.check()
        mask.fill(-1)

    def check(self) -> None:
        if self._left < 0:
            raise BrokenConstraintError("too many items")


class _Breaker:
    """Compiles everything to that."""

    def row(self, _constraint: Constraint) -> _Breaking:
        return _Breaking(3)


@pytest.mark.parametrize("path", MAKERS)
def test_a_constraint_that_breaks_in_the_middle_fails_its_job_alone_and_never_looks_whole(path: str) -> None:
    model, broken, mate = MAKERS[path](), _job(_json()), _job(None, 2)
    model.compiler = _Breaker()

    engine, notes = an_engine(model, broken, mate)
    finish(engine)

    *said, failed = notes.events[broken.id]
    assert isinstance(failed, Failed)
    assert failed.code == "constraint_failed"
    assert len(said) == 4
    assert notes.tokens(mate) == answers(MAKERS[path](), a_claim(mate)).tokens(mate)
    assert engine.counters["failed"] == 1


class _Slowed(Compiler):
    """Its rows count on a clock that goes on by so much whenever it is looked at."""

    def __init__(self, tokenizer: Any, tick: float) -> None:
        super().__init__(tokenizer)
        self._ticks = (tick * at for at in itertools.count())

    def row(self, constraint: Constraint) -> Row:
        return Row(super().row(constraint)._matcher, self._ticks.__next__)


@pytest.mark.parametrize("path", MAKERS)
@pytest.mark.parametrize(("tick", "is_broken"), [(0.019, False), (0.021, True), (1.0, True)])
def test_a_constraint_that_holds_up_the_others_again_and_again_fails_alone(
    path: str, *, tick: float, is_broken: bool
) -> None:
    model, slow, mate = MAKERS[path](), _job(from_regex("[ab]{60}")), _job(None, 2)
    model.compiler = _Slowed(model.compiler._tokenizer, tick)

    notes = answers(model, a_claim(slow), a_claim(mate))

    last = notes.events[slow.id][-1]
    assert (isinstance(last, Failed) and last.code == "constraint_failed") == is_broken
    assert notes.tokens(mate) == answers(MAKERS[path](), a_claim(mate)).tokens(mate)


def test_literals_that_spell_special_tokens_are_written_with_ordinary_ones() -> None:
    job = _job(_json({"const": "<|end|>"}))

    notes = answers(_packed(), a_claim(job))

    assert notes.text(job) == '"<|end|>"'
    assert _END not in notes.tokens(job)
    assert read(notes.tokens(job)) == '"<|end|>"'


@pytest.mark.parametrize("count", [1, 3])
def test_outlines_and_generate_hold_to_the_same(count: int) -> None:
    from worker.constraints.outlines_backend import Backend

    network = tiny.network()
    compiler = Compiler(engine_tokenizer(tokenizer(), BYTES, network.config.vocab_size, (_END,)))
    processor = Backend(compiler).get_json_schema_logits_processor(json.dumps(SCHEMA), whitespace_pattern="")
    torch.manual_seed(0)
    ids = torch.tensor([spelled("Go: ")] * count)

    told = network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        logits_processor=[processor],
        do_sample=True,
        max_new_tokens=120,
        eos_token_id=_END,
        pad_token_id=_END,
    )

    texts = [read([token for token in row.tolist() if token < _END]) for row in told[:, ids.shape[1] :]]
    assert all(jsonschema_rs.is_valid(SCHEMA, json.loads(text)) for text in texts)
    assert len(texts) == count


class _Triples:
    """A large vocabulary: single bytes, an end, and all that three letters spell."""

    bos_token_id = None
    eos_token_id = _END
    special_token_ids = (_END,)

    def __init__(self) -> None:
        triples = map("".join, product(ascii_lowercase, repeat=3))
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"</s>", *map(str.encode, triples)]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def test_a_mask_may_take_many_items_of_the_parser() -> None:
    """As real schemas do with a large vocabulary, where the engine would give up by itself."""
    letters = " | ".join(f'"{letter}"' for letter in ascii_lowercase[:16])
    constraint = Constraint("grammar", LLMatcher.grammar_from_lark(f"start: x*\nx: {letters}"))
    tokens = LLTokenizer(TokenizerWrapper(_Triples()))
    assert "Too many items" in _said(LLMatcher(tokens, constraint.grammar, log_level=0))

    row = Compiler(tokens).row(constraint)

    row.advance(tokens.tokenize_bytes(b"a")[0])


def _said(matcher: LLMatcher) -> str:
    matcher.compute_bitmask()
    return str(matcher.get_error())


def test_tokens_that_are_the_bytes_of_a_text_are_known_as_such() -> None:
    assert spells(tokenizer(), BYTES)
