import sys

from common.jobs import Delta, Done, Usage, counted
from worker.items import Said

WORDS = [Delta(f"word {number} ", (1000 + number,), number % 2) for number in range(300)]
DONE = Done(Usage(3, 300))


def encoded(words: list[Delta]) -> list[str]:
    return [counted(word.encode(), tokens) for tokens, word in enumerate(words, 1)]


def test_each_item_is_found_again_with_the_tokens_up_to_it() -> None:
    said = Said()

    told = [said.add(WORDS[:200]), said.add(()), said.add([*WORDS[200:], DONE])]

    assert told == [200, 200, 300]
    items = [item.decode() for item in said.behind(0)]
    assert items == [*encoded(WORDS), DONE.encode()]
    assert [item.decode() for item in said.behind(299)] == items[299:]
    assert list(said.behind(301)) == []
    assert [said.tokens(count) for count in (0, 1, 300, 301)] == [0, 1, 300, 300]


def test_all_items_take_little_more_than_their_text() -> None:
    said = Said()
    said.add(WORDS)

    text = sum(map(len, said.behind(0)))

    assert sum(sys.getsizeof(getattr(said, name)) for name in said.__slots__) < 1.5 * text
