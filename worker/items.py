"""What a job says: in a step as few items of its log, and all of them."""

from array import array
from collections.abc import Iterable, Iterator, Sequence

from common.jobs import Call, Delta, Event, counted


class Said:
    """All items of one job, in one piece: kept until the job ends, each alone would take three times as much."""

    __slots__ = ("_bytes", "_ends", "_tokens")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q")  # where each ends
        self._tokens = array("Q")  # generated up to its end

    def add(self, events: Iterable[Event]) -> int:
        """An item each; returns the tokens of all so far."""
        tokens = self.tokens(len(self._ends))
        for event in events:
            tokens += tokens_in(event)
            text = event.encode()
            self._bytes += (counted(text, tokens) if isinstance(event, Delta) else text).encode()
            self._ends.append(len(self._bytes))
            self._tokens.append(tokens)
        return tokens

    def behind(self, count: int) -> Iterator[bytes]:
        """All but the first so many."""
        begin = self._ends[count - 1] if count else 0
        for end in self._ends[count:]:
            yield bytes(self._bytes[begin:end])
            begin = end

    def tokens(self, count: int) -> int:
        """In the first so many."""
        return self._tokens[count - 1] if count else 0


def merged(events: Sequence[Event]) -> Sequence[Event]:
    """Neighbouring deltas of one choice as one; a finish stays an item of its own."""
    items: list[Event] = []
    last: dict[int, int] = {}  # choice -> where its newest delta stands
    for event in events:
        if not isinstance(event, Delta):
            items.append(event)
            continue
        at = last.get(event.choice)
        before = items[at] if at is not None else None
        if at is not None and isinstance(before, Delta) and _is_more(before, event):
            items[at] = Delta(
                before.text + event.text,
                before.tokens + event.tokens,
                event.choice,
                logprobs=before.logprobs + event.logprobs,
                call=_longer(before.call, event.call),
            )
        else:
            last[event.choice] = len(items)
            items.append(event)
    return items


def _is_more(before: Delta, after: Delta) -> bool:
    """Whether both can be one item, which is one frame: text, or arguments of one call."""
    if before.finish or after.finish:
        return False
    if before.call is None and after.call is None:
        return True
    if after.call is None:
        return not after.text
    if before.call is None:
        return not before.text
    return before.call.index == after.call.index and not before.call.name


def _longer(before: Call | None, after: Call | None) -> Call | None:
    if before is None or after is None:
        return before or after
    return Call(before.index, "", before.arguments + after.arguments)


def tokens_in(event: Event) -> int:
    """How many tokens an event tells."""
    return len(event.tokens) if isinstance(event, Delta) else 0
