from collections.abc import Iterator, Sequence

import pytest

from common.jobs import Delta, Echo, Event, Job, Sampling
from tests.builders import a_job
from tests.worker.claims import BYTES, a_claim, answers, spelled
from worker.engine import rng
from worker.engine.sequence import Bounds
from worker.engine.work import work_of
from worker.models.counting import Counting

_END = 256
_BOUNDS = Bounds(100, (_END,))
_LATE = Delta("", (), 0, "length", why="max_time")


def _prompted(text: str, sampling: Sampling, **changes: object) -> Job:
    return a_job(prompts=(spelled(text),), sampling=sampling, **changes)


def _events(job: Job, answer: Sequence[int], said: Sequence[Event] = (), now: float = 0.0) -> list[Delta]:
    """What a model that gives these tokens makes of a job, after what was said."""
    one = work_of(a_claim(job, said), 1, _BOUNDS).sequences[0]
    events = [] if one.is_finished else [*one.begin(BYTES)]
    for token in answer[len(one.tokens) :]:
        if one.is_finished:
            break
        events += one.take(token, now)
    return events


def _cuts(events: Sequence[Delta]) -> Iterator[tuple[Sequence[Delta], Sequence[Delta]]]:
    return ((events[:at], events[at:]) for at in range(len(events)))


def _text(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def test_an_answer_ends_with_an_item_that_has_no_text() -> None:
    job = _prompted("ab", Sampling(2))

    events = _events(job, spelled("xyz"))

    x, y = spelled("xy")
    assert events == [Delta("x", (x,)), Delta("y", (y,)), Delta("", (), 0, "length")]


def test_an_end_token_ends_the_answer_and_has_no_text() -> None:
    events = _events(_prompted("ab", Sampling(9)), (*spelled("x"), _END))

    assert events == [Delta("x", spelled("x")), Delta("", (_END,), 0, "stop")]


def test_the_context_ends_an_answer_that_may_be_longer() -> None:
    events = _events(_prompted("a" * 97, Sampling(50)), spelled("wxyz"))

    assert _text(events) == "wxy"
    assert events[-1].finish == "length"


def test_a_stop_string_is_never_shown() -> None:
    events = _events(_prompted("a", Sampling(50, stop=("世!",))), spelled("x世世!y"))

    assert _text(events) == "x世"
    assert events[-1] == Delta("", spelled("!"), 0, "stop")


def test_text_held_for_a_stop_string_comes_when_the_answer_ends_otherwise() -> None:
    sampling = Sampling(3, stop=("###",))

    assert _text(_events(_prompted("a", sampling), spelled("a##"))) == "a##"
    assert _text(_events(_prompted("a", sampling), (*spelled("##"), _END))) == "##"


def test_half_a_character_at_the_end_is_not_shown() -> None:
    events = _events(_prompted("a", Sampling(3)), spelled("x世"))

    assert _text(events) == "x"
    assert [token for event in events for token in event.tokens] == [*spelled("x世")[:3]]


def test_what_a_worker_said_before_is_kept_as_tokens_only() -> None:
    work = work_of(a_claim(_prompted("a", Sampling(9)), (Delta("xy", tuple(spelled("xy"))),)), 1, _BOUNDS)

    assert (work.claim.said, work.sequences[0].tokens) == ((), [*spelled("xy")])


def test_time_that_workers_before_took_counts() -> None:
    work = work_of(a_claim(a_job(max_time_s=5.0), since_s=3.0), 1, _BOUNDS)
    one = work.sequences[0]
    work.clock.start(100.0)
    one.begin(BYTES)

    assert one.take(spelled("x")[0], 101.9) == (Delta("x", spelled("x")),)
    assert one.take(spelled("y")[0], 102.0)[-1].finish == "length"


def test_time_that_is_up_ends_the_answer_as_its_length_does() -> None:
    work = work_of(a_claim(a_job(max_time_s=5.0)), 1, _BOUNDS)
    one = work.sequences[0]
    work.clock.start(100.0)
    one.begin(BYTES)

    early, late = one.take(spelled("x")[0], 104.9), one.take(spelled("y")[0], 105.0)

    assert early == (Delta("x", spelled("x")),)
    assert late == (Delta("y", spelled("y")), _LATE)


def test_time_runs_for_all_choices_together() -> None:
    work = work_of(a_claim(a_job(n=2, max_time_s=5.0)), 1, _BOUNDS)
    first, second = work.sequences
    work.clock.start(100.0)
    first.begin(BYTES)
    work.clock.start(104.0)
    second.begin(BYTES)

    assert (work.clock.is_up(104.9), work.clock.is_up(105.0)) == (False, True)
    assert second.take(spelled("x")[0], 105.0)[-1] == Delta("", (), 1, "length", why="max_time")


def test_a_last_token_that_comes_late_is_the_last_for_its_number() -> None:
    work = work_of(a_claim(a_job(sampling=Sampling(1), max_time_s=5.0)), 1, _BOUNDS)
    one = work.sequences[0]
    work.clock.start(100.0)
    one.begin(BYTES)

    assert one.take(spelled("x")[0], 105.0) == (Delta("x", spelled("x")), Delta("", (), 0, "length"))


@pytest.mark.parametrize(
    ("echo", "said"),
    [((), ()), ((Echo("ab"),), (Delta("ab", ()),)), ((Echo("ab", (0, 1)),), ())],
    ids=["alone", "with its prompt", "with scores of its prompt"],
)
def test_a_choice_that_never_began_says_nothing_of_its_own(echo: tuple[Echo, ...], said: tuple[Delta, ...]) -> None:
    sampling = Sampling(5, logprobs=0 if echo and echo[0].offsets else None)
    one = work_of(a_claim(_prompted("ab", sampling, echo=echo)), 1, _BOUNDS).sequences[0]

    assert one.run_out(BYTES) == (*said, _LATE)
    assert (one.is_finished, one.tokens) == (True, [])


def test_a_parked_answer_whose_time_is_up_lets_go_of_what_it_held_back() -> None:
    one = work_of(a_claim(_prompted("a", Sampling(9, stop=("###",)))), 1, _BOUNDS).sequences[0]
    one.begin(BYTES)
    one.take(spelled("#")[0], 0.0)

    assert one.run_out(BYTES) == (Delta("#", ()), _LATE)


def test_a_token_before_the_beginning_is_an_error() -> None:
    one = work_of(a_claim(a_job()), 1, _BOUNDS).sequences[0]

    with pytest.raises(ValueError, match="not begun"):
        one.take(1, 0.0)


def test_every_choice_has_its_prompt_and_its_draws() -> None:
    job = a_job(prompts=((1,), (2, 3)), n=2, seed=5, sampling=Sampling(4, 0.7, 0.9, 3, 0.1))

    made = work_of(a_claim(job), 1, _BOUNDS).sequences

    assert [one.prompt for one in made] == [(1,), (1,), (2, 3), (2, 3)]
    assert [one.draw.key for one in made] == [rng.stream(5, choice) for choice in range(4)]
    assert {(one.draw.temperature, one.draw.top_p, one.draw.top_k, one.draw.min_p) for one in made} == {
        (0.7, 0.9, 3, 0.1)
    }


@pytest.mark.parametrize(
    ("answer", "sampling"),
    [
        ((*spelled("Grüße, 世界 👩!"), _END), Sampling(90)),
        (spelled("Grüße, 世界 👩!"), Sampling(13)),
        (spelled("Grüße, 世界 👩!"), Sampling(12)),
        (spelled("a#b##c###d"), Sampling(90, stop=("###",))),
        (spelled("a#b##c##"), Sampling(8, stop=("###",))),
        ((*spelled("a#b##c##"), _END), Sampling(90, stop=("###", "#####"))),
        (spelled("世界世界世!x"), Sampling(90, stop=("界世!", "界世界界"))),
        ((*spelled("世界")[:5], _END), Sampling(90)),
        ((_END,), Sampling(90)),
    ],
    ids=str,
)
def test_an_answer_cut_anywhere_goes_on_as_if_nothing_had_happened(answer: Sequence[int], sampling: Sampling) -> None:
    job = _prompted("hello", sampling)
    whole = _events(job, answer)

    assert whole[-1].finish is not None
    for said, rest in _cuts(whole):
        again = _events(job, answer, said)
        if rest[0].tokens:
            assert again == rest
        else:  # only the finish was missing
            assert again == [Delta("", (), 0, whole[-1].finish)]


def test_items_that_were_put_together_are_taken_up_like_single_ones() -> None:
    job = _prompted("hello", Sampling(90, stop=("###",)))
    answer = (*spelled("世界 a##b 世##"), _END)
    whole = _events(job, answer)

    for said, rest in _cuts(whole):
        together = Delta(_text(said), tuple(token for event in said for token in event.tokens))
        again = _events(job, answer, [together])
        assert _text([together, *again]) == _text(whole)
        assert again[-1].finish == "stop"
        assert again == rest or not rest[0].tokens


def test_an_answer_that_ran_out_of_time_without_saying_so_has_ended() -> None:
    job = _prompted("a", Sampling(50, stop=("###",)), max_time_s=5.0)
    said = [Delta("x", spelled("x")), Delta("", spelled("#")), Delta("##", spelled("#"))]

    assert _events(job, spelled("x####"), said) == [_LATE]


def test_text_that_the_log_lacks_is_said_before_anything_new() -> None:
    events = _events(_prompted("a", Sampling(3)), spelled("xyz"), [Delta("x", spelled("xy"))])

    assert events == [Delta("y", ()), Delta("z", spelled("z")), Delta("", (), 0, "length")]


def test_a_sequence_that_comes_back_from_parking_says_nothing_twice() -> None:
    one = work_of(a_claim(_prompted("a", Sampling(9))), 1, _BOUNDS).sequences[0]
    one.enter(3, 0)
    one.begin(BYTES)
    one.has_read(1)
    one.take(spelled("x")[0], 0.0)
    assert (one.unread(9), one.is_reading) == (spelled("x"), False)

    one.enter(2, 0)

    assert one.begin(BYTES) == ()
    assert (one.unread(9), one.is_reading) == (spelled("ax"), True)
    assert one.take(spelled("y")[0], 50.0) == (Delta("y", spelled("y")),)


@pytest.mark.parametrize("sampling", [Sampling(25, 0.0), Sampling(25, 0.9), Sampling(60, 0.0, stop=("6 7",))], ids=str)
def test_a_job_of_many_choices_cut_anywhere_says_the_same(sampling: Sampling) -> None:
    job = a_job(prompts=(spelled("3 4 "), spelled("10 11")), n=2, sampling=sampling, seed=77)
    whole = answers(Counting("answer=20", 3), a_claim(job))
    deltas = [event for event in whole.events[job.id] if isinstance(event, Delta)]

    for at in range(len(deltas) + 1):
        rest = answers(Counting("answer=20", 3), a_claim(job, deltas[:at], epoch=2))
        said = [*deltas[:at], *rest.events[job.id]]
        for choice in range(4):
            mine = [event for event in said if isinstance(event, Delta) and event.choice == choice]
            assert _text(mine) == whole.text(job, choice)
            assert [token for event in mine for token in event.tokens] == whole.tokens(job, choice)
            assert [event.finish for event in mine if event.finish] == [whole.finish(job, choice)]
        assert said[-1] == whole.events[job.id][-1]
        assert {output.epoch for output in rest.outputs} == {2}
