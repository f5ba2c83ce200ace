"""Reading what is always there without keeping others from running."""

import time
from collections.abc import Callable, Iterator

_PIECE = 4096
_TURN_S, _REST_S = 0.005, 0.001


def in_turns(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """All that ``read`` gives, in pieces; a greenlet whose socket never runs dry would not give way by itself."""
    turn = time.monotonic()
    while piece := read(_PIECE):
        yield piece
        if time.monotonic() - turn > _TURN_S:
            time.sleep(_REST_S)  # after a sleep(0) gevent looks at sockets and clocks only every fiftieth time
            turn = time.monotonic()
