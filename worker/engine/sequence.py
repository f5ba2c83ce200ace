"""One choice of a job while the engine has it, and the job around it."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from common.constraints.verify import errors
from common.jobs import Call, Delta, Echo, Finish, Logprob, Sampling, Why
from common.ledger.replies import Claim
from worker.engine import likely, rng
from worker.engine.blocks import Name, names
from worker.engine.clock import Clock
from worker.engine.likely import Asked, Entries, Score
from worker.engine.lookup import Lookup
from worker.engine.text import Speech, Text
from worker.tools import Calls, length, unsaid


class BrokenConstraintError(Exception):
    """A constraint could not be kept up."""


class Row(Protocol):
    """One sequence's place in its constraint."""

    @property
    def is_done(self) -> bool:
        """Nothing but an end may come."""

    def clone(self) -> "Row":
        """Another sequence at the same place."""

    def advance(self, token: int) -> None:
        """It came. Raises BrokenConstraintError."""

    def forced(self) -> Iterable[int]:
        """What must come next; often nothing."""

    def fill(self, mask: Any) -> None:
        """Bits of the tokens that may come, into an array [ceil(V / 32)] of int32. Raises BrokenConstraintError."""

    def check(self) -> None:
        """Raises BrokenConstraintError where it is given up; that stays so."""


@dataclass(frozen=True, slots=True)
class Edits:
    """What a sequence changes in its logits before anything is drawn."""

    prompt: int  # so many of its tokens were not generated
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    ends: tuple[int, ...] = ()  # what may not come before them


@dataclass(frozen=True, slots=True)
class Draw:
    """How a sequence's tokens are drawn."""

    key: int  # rng.stream(seed, choice)
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    edits: Edits | None = None  # None: nothing is changed


@dataclass(frozen=True, slots=True)
class Bounds:
    """What holds for every sequence of a model."""

    context: int
    end_ids: Collection[int]
    is_deterministic: bool = False  # each is computed alone, and always in the same steps
    shares_prefixes: bool = False  # between owners


class Sequence:
    """Prompt and answer of one choice; ``slot`` is where it runs, None while it waits."""

    def __init__(
        self,
        claim: Claim,
        choice: int,
        bounds: Bounds,
        said: tuple[Delta, ...],
        clock: Clock,
        row: Row | None = None,
    ) -> None:
        """``said``: this choice's items in the log; ``clock``: the job's; ``row``: at its constraint's beginning."""
        job = claim.job
        self.row, self._constraint, self._tools = row, job.constraint, job.tools
        sampling = job.sampling
        self.job_id, self.choice = job.id, choice
        self.prompt = job.prompts[choice // job.n]
        self.tokens = [token for delta in said for token in delta.tokens]
        self._ends = frozenset((*bounds.end_ids, *sampling.stop_ids))
        self.draw = Draw(
            rng.stream(job.seed, choice),
            sampling.temperature,
            sampling.top_p,
            sampling.top_k,
            sampling.min_p,
            _edits(sampling, len(self.prompt), self._ends),
        )
        self.slot: int | None = None
        self.read = 0  # tokens the model has read in this slot
        self.blocks: list[int] = []  # where their keys and values lie
        self.cached = 0  # tokens of the prompt that lay there when it first entered
        self._is_fresh = True  # nothing was read in this slot yet
        self._known = 1  # tokens that there were when it entered
        self._is_deterministic = bounds.is_deterministic
        self._salt = b"" if bounds.shares_prefixes else bytes.fromhex(job.owner)
        self._lookup: Lookup | None = None
        self._names: list[Name] = []  # of the full blocks that prompt and answer fill
        self.is_finished = any(delta.finish for delta in said)
        self._most = min(sampling.max_tokens, bounds.context - len(self.prompt))
        self._stop, self._top = sampling.stop, sampling.logprobs
        self._clock = clock
        self._text: Text | None = None
        echo = job.echo[choice // job.n] if job.echo else Echo("")
        self._echo = None if said else echo  # still to be said
        self._before = len(echo.text)
        self._said = max(0, sum(len(delta.text) for delta in said) - self._before)
        self._called = [delta.call for delta in said if delta.call is not None]
        self._entries: Entries | None = None  # None: nothing is scored
        self._scored = max(0, sum(len(delta.logprobs) for delta in said) - likely.echoed(echo))  # tokens
        self._unscored: list[int] = []  # where the text of each later one that was said begins
        self._early: list[Score] = []  # of what was read before the piece at whose end a token is drawn

    def __len__(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.tokens)

    @property
    def left(self) -> int:
        """Tokens that the model has not read yet: one while it decodes."""
        return len(self) - self.read

    @property
    def is_reading(self) -> bool:
        """It does not decode yet."""
        return self.read < self._known

    def next(self, most: int) -> int:
        """How many of them to read in a step that may read about so many; all where some were forced."""
        if not self.is_reading:
            return self.left
        if not self._is_deterministic or most < 1:
            return min(self.left, max(0, most))
        return max(1, len(self.prompt) - self.read)  # then what was said, one by one, as when it was said

    def unread(self, count: int) -> tuple[int, ...]:
        """The next so many of them."""
        if self.read >= len(self.prompt):
            start = self.read - len(self.prompt)
            return tuple(self.tokens[start : start + count])
        return (*self.prompt, *self.tokens)[self.read : self.read + count]

    def guess(self, most: int) -> tuple[int, ...]:
        """The next tokens, perhaps, up to so many; for those whose draws depend on nothing but their own logits."""
        most = min(most, self.ahead(most + 1) - 1)
        if self.is_reading or self._is_deterministic or not self._draws_by_itself or most < 1:
            return ()
        if self._lookup is None:
            self._lookup = Lookup()
            self._lookup.add((*self.prompt, *self.tokens))
        return self._lookup.guess(most)

    @property
    def _draws_by_itself(self) -> bool:
        """On nothing but its logits."""
        return self.draw.edits is None and self._top is None and self.row is None

    def force(self, now: float) -> tuple[Delta, ...]:
        """What must come next, said before the model has read it; not where bits or scores of it are asked for."""
        if self.row is None or self._is_deterministic or self._top is not None or self._text is None:
            return ()
        events: list[Delta] = []
        for token in self.row.forced():
            if not self.is_finished:
                events += self._added(self._text, token, now, None)
        return tuple(events)

    def was_guessed(self, right: int, guessed: int) -> None:
        """How much of a guess came."""
        if self._lookup is not None:
            self._lookup.was(right, guessed)

    def past(self) -> tuple[int, ...]:
        """What others have read for it, if it is to know: before its first step in a slot."""
        return (*self.prompt, *self.tokens)[: self.read] if self._is_fresh and self.draw.edits else ()

    def ahead(self, most: int) -> int:
        """Tokens that it may still say, up to so many."""
        return max(0, min(most, self._most - len(self.tokens)))

    def enter(self, slot: int, read: int) -> None:
        """It runs from now on; so much has been read for it."""
        if self._text is None:
            self.cached = min(read, len(self.prompt))
        self.slot, self.read, self._is_fresh, self._known = slot, read, True, len(self)
        self._early.clear()

    def has_read(self, count: int) -> None:
        """So many more."""
        self.read += count
        self._is_fresh = False

    def follows(self, count: int) -> int | None:
        """What stands behind the next so many tokens, if anything does."""
        at = self.read + count - len(self.prompt)
        if at < 0:
            return self.prompt[at]
        return self.tokens[at] if at < len(self.tokens) else None

    def names(self, size: int) -> list[Name]:
        """Of the full blocks that may be found computed: the last token must be read, and what is to be scored."""
        if self._is_deterministic:
            return []  # another's blocks may have been read in other steps
        self._extend_names(size, len(self))
        asked = self.asked()
        most = len(self) - 1 if asked is None else min(len(self), asked.since) - 1
        return self._names[: most // size]

    def filled(self, size: int) -> Iterator[tuple[int, Name]]:
        """Its full blocks and their names."""
        self._extend_names(size, self.read)
        return zip(self.blocks, self._names[: self.read // size], strict=False)

    def _extend_names(self, size: int, end: int) -> None:
        done = len(self._names) * size
        if end - done >= size:
            before = self._names[-1] if self._names else self._salt
            tokens = (*self.prompt, *self.tokens)[done : end - end % size]
            self._names += names(tokens, size, before)

    def asked(self) -> Asked | None:
        """What is to be scored beside the next token: a prompt that is told with its scores, or what the log lacks."""
        if self._top is None:
            return None
        return Asked(1 if self._echo else len(self) - len(self._unscored), self._top)

    def begin(self, speech: Speech) -> tuple[Delta, ...]:
        """Take up where the log ends, when the sequence first gets a slot; a few words if the log left some unsaid.

        The said tokens go through the text again, so that half characters and possible stop strings are held as they
        were. A worker that died between the last token and the finish left the finish to us.
        """
        if self._text is not None:
            return ()  # parked, and back
        self._text = Calls(speech, self._stop, self._tools) if self._tools else Text(speech.decode, self._stop)
        if self._top is not None:
            self._entries = Entries(speech.spell, self._before)
        if self._echo and self._echo.offsets is not None:
            return ()  # it comes with the first token, and its scores
        finish, shown, calls = self._again(self._text)
        new = shown[self._said :]
        if self._echo:
            new, self._echo = self._echo.text + new, None
        if finish:
            return self._ended(finish, new, (), calls=calls)
        return self._items(new, (), (), calls) if new or calls else ()

    def run_out(self, speech: Speech) -> tuple[Delta, ...]:
        """Its job's time is up while it has no slot: what it holds back, and the end.

        Where the log lacks scores of what was said, it still has to be read, and the next token ends it.
        """
        events = self.begin(speech)
        if self.is_finished or self._unscored or self._text is None:
            return events
        logprobs = self._entries.rest() if self._entries else ()
        return (*events, *self._ended("max_time", self._text.close(), (), logprobs))

    def score(self, scores: Iterable[Score]) -> None:
        """Of tokens that were read, or stand next, before a draw."""
        self._early += scores

    def take(self, token: int, now: float, scores: tuple[Score, ...] = ()) -> tuple[Delta, ...]:
        """The model's next token, as the log will have it."""
        if self._text is None:
            raise ValueError("it has not begun")
        if self._entries is None:
            return self._added(self._text, token, now, None)
        *earlier, score = (*self._early, *scores)
        self._early.clear()
        before = self._told(self._entries, earlier)
        if self._most <= 0:  # only the prompt was to be told
            return (*before, *self._ended("length", "", ()))
        return (*before, *self._added(self._text, token, now, score))

    def _again(self, text: Text) -> tuple[Finish | Why | None, str, tuple[Call, ...]]:
        """The said tokens once more: what ends them, their text, and what the log lacks of their calls."""
        said, self.tokens = self.tokens, []
        shown, calls = "", list[Call]()
        finish: Finish | Why | None = "length" if self._most <= 0 else None
        for token in said:
            events = self._added(text, token, -inf, None)  # whenever that was, it was in time
            shown += "".join(delta.text for delta in events)
            calls += (delta.call for delta in events if delta.call is not None)
            if finish := events[-1].finish:
                break
        if len(shown) < self._said or length(calls) < length(self._called):
            finish = "max_time"  # no other end lets go of text that these tokens still hold back
        return finish, shown, tuple(unsaid(calls, self._called))

    def _told(self, entries: Entries, earlier: list[Score]) -> tuple[Delta, ...]:
        """The prompt with its scores; scores that a worker before us took with it go to their text."""
        if self._echo and self._echo.offsets is not None:
            told = entries.of_prompt(self.prompt, self._echo.offsets, earlier)
            echo, self._echo = Delta(self._echo.text, (), self.choice, None, told), None
            return (echo,)
        for start, score in zip(self._unscored, earlier, strict=True):
            entries.add(score, start)
        self._unscored.clear()
        return ()

    def _added(self, text: Text, token: int, now: float, score: Score | None) -> tuple[Delta, ...]:
        self.tokens.append(token)
        if self._lookup is not None:
            self._lookup.add((token,))
        entries, start = self._entries, text.decoded
        if token in self._ends:
            return self._ended("stop", text.close(), (token,), entries.rest() if entries else ())
        if self.row is not None:
            self.row.advance(token)
        new, is_stopped = text.push(token)
        if entries and score:
            entries.add(score, start)
        elif entries and len(self.tokens) > self._scored:
            self._unscored.append(start)
        if is_stopped:
            return self._ended("stop", new, (token,), entries.begun(text.shown) if entries else ())
        if finish := self._limit(now):
            return self._ended(finish, new + text.close(), (token,), entries.rest() if entries else ())
        logprobs = entries.ready(text.shown, text.decoded) if entries else ()
        return self._items(new, (token,), logprobs, text.drain())

    def _limit(self, now: float) -> Finish | Why | None:
        """Whether there can be no more: the constraint is fulfilled, or the answer long enough."""
        if self.row is not None and self.row.is_done:
            return "stop"
        if len(self.tokens) >= self._most:
            return "length"
        return "max_time" if now > -inf and self._clock.is_up(now) else None  # -inf: it was in time

    def _items(
        self, text: str, tokens: tuple[int, ...], logprobs: tuple[Logprob, ...], calls: tuple[Call, ...]
    ) -> tuple[Delta, ...]:
        """Each piece is one frame at most; the first has the tokens."""
        pieces: list[tuple[str, Call | None]] = [(text, None)] if text or not calls else []
        pieces += [("", call) for call in calls]
        (first, call), *others = pieces
        later = (Delta(more, (), self.choice, call=one) for more, one in others)
        return (Delta(first, tokens, self.choice, None, logprobs, call=call), *later)

    def _ended(
        self,
        reason: Finish | Why,
        text: str,
        tokens: tuple[int, ...],
        logprobs: tuple[Logprob, ...] = (),
        calls: tuple[Call, ...] = (),
    ) -> tuple[Delta, ...]:
        """The item with the finish has no text, so that every item is one frame at most."""
        self.is_finished = True
        errors = self._errors() if reason == "stop" else None
        why: Why | None = "max_time" if reason == "max_time" else None
        finish: Finish = "length" if reason == "max_time" else reason
        if self._text is not None:
            finish, calls = self._text.ends_with(finish), (*calls, *self._text.drain())
        if text or logprobs or calls:
            last = Delta("", (), self.choice, finish, errors=errors, why=why)
            return (*self._items(text, tokens, logprobs, calls), last)
        return (Delta("", tokens, self.choice, finish, errors=errors, why=why),)

    def _errors(self) -> tuple[str, ...] | None:
        """Where the whole answer misses its schema, if it was not held to all of it."""
        constraint, text = self._constraint, self._text
        if constraint is None or constraint.mode != "wide" or text is None:
            return None
        if isinstance(text, Calls):
            return text.errors(constraint.schema)
        if constraint.schema is None:
            return None
        spoken = [token for token in self.tokens if token not in self._ends]
        return errors(constraint.schema, text.decode(spoken)[: text.shown])


def _edits(sampling: Sampling, prompt: int, ends: Iterable[int]) -> Edits | None:
    told = (sampling.presence, sampling.frequency, sampling.repetition, sampling.bias, sampling.min_tokens)
    return None if told == (0, 0, 1, (), 0) else Edits(prompt, *told, tuple(ends))
