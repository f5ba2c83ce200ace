"""What a job says in a step, as few items of its log."""

from collections.abc import Sequence

from common.jobs import Call, Delta, Event


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
