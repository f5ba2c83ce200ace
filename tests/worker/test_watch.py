from common.ledger.replies import Beat
from worker.watch import Lapses


def test_a_beat_that_stands_still_for_the_lease_has_lapsed() -> None:
    lapses = Lapses(2.0)
    still, lively = Beat("still", "1"), [Beat("lively", str(at)) for at in range(6)]

    judged = [lapses.read([still, lively[at]], at * 0.5) for at in range(6)]

    assert judged == [[], [], [], [], [still], [still]]


def test_a_reader_that_was_away_condemns_nobody() -> None:
    lapses = Lapses(2.0)
    still = Beat("still", "1")
    lapses.read([still], 0.0)

    assert lapses.read([still], 60.0) == []
    assert [bool(lapses.read([still], 60.0 + at * 0.5)) for at in range(1, 5)] == [False, False, False, True]


def test_a_beat_that_moves_again_lives() -> None:
    lapses = Lapses(1.0)
    for at in range(2):
        lapses.read([Beat("one", "1")], at * 0.5)

    assert lapses.read([Beat("one", "2")], 1.0) == []
    assert lapses.read([Beat("one", "2")], 1.5) == []
    assert lapses.read([Beat("one", "2")], 2.0) == [Beat("one", "2")]


def test_a_worker_that_comes_back_is_judged_afresh() -> None:
    lapses = Lapses(1.0)
    lapses.read([Beat("one", "1")], 0.0)
    lapses.read([], 0.5)

    assert lapses.read([Beat("one", "1")], 1.0) == []
