import random
from collections import Counter

import pytest

from worker.engine.blocks import Blocks, OutOfBlocksError, names

OWNER = b"o" * 16


def test_a_name_is_made_of_all_that_came_before() -> None:
    some, other = names(range(12), 4, OWNER), names([9, *range(1, 12)], 4, OWNER)

    assert len(some) == 3
    assert not set(some) & set(other)
    assert names(range(11), 4, OWNER) == some[:2]
    assert names(range(8, 12), 4, some[1]) == some[2:]
    assert names(range(3), 4, OWNER) == []


def test_what_one_owner_filled_another_does_not_find() -> None:
    assert not set(names(range(12), 4, OWNER)) & set(names(range(12), 4, b"p" * 16))


def test_blocks_are_found_by_their_names_while_in_use_and_afterwards() -> None:
    blocks = Blocks(4, 4)
    mine, told = blocks.take(2), names(range(8), 4, OWNER)
    for block, name in zip(mine, told, strict=True):
        blocks.name(block, name)

    assert blocks.find(told) == mine
    assert [blocks.users(block) for block in mine] == [2, 2]
    blocks.release(mine)
    blocks.release(mine)
    assert (blocks.available, blocks.kept) == (4, 2)
    assert blocks.find([*told, b"none"]) == mine
    assert (blocks.available, blocks.kept) == (2, 0)


def test_finding_stops_at_the_first_that_is_not_there() -> None:
    blocks = Blocks(4, 4)
    first, _, third = names(range(12), 4, OWNER)
    one, other = blocks.take(2)
    blocks.name(one, first)
    blocks.name(other, third)

    assert blocks.find(names(range(12), 4, OWNER)) == [one]


def test_the_longest_unused_goes_first_when_room_is_needed() -> None:
    blocks = Blocks(3, 4)
    told = names(range(12), 4, OWNER)
    for name in told:
        (block,) = blocks.take(1)
        blocks.name(block, name)
        blocks.release([block])
    blocks.release(blocks.find(told[:1]))

    blocks.take(1)

    assert len(blocks.find(told[:1])) == 1
    assert blocks.find(told[1:2]) == []
    assert len(blocks.find(told[2:])) == 1


def test_too_few_are_none_at_all() -> None:
    blocks = Blocks(3, 4)
    blocks.take(2)

    with pytest.raises(OutOfBlocksError):
        blocks.take(2)

    assert blocks.available == 1


def test_what_is_not_sound_is_never_found_again() -> None:
    blocks = Blocks(2, 4)
    mine, told = blocks.take(1), names(range(4), 4, OWNER)
    blocks.name(mine[0], told[0])

    blocks.release(mine, keep=False)

    assert blocks.find(told) == []
    assert (blocks.available, blocks.kept) == (2, 0)


@pytest.mark.parametrize("seed", range(5))
def test_no_block_is_lost_or_given_out_twice_whatever_happens(seed: int) -> None:
    drawn, blocks = random.Random(seed), Blocks(12, 4)
    held: list[list[int]] = []
    for _ in range(3000):
        deed = drawn.randrange(4)
        tokens = [drawn.randrange(2) for _ in range(4 * drawn.randrange(1, 4))]
        if deed == 0 and blocks.available >= 2:
            held.append(blocks.take(2))
        elif deed == 1:
            held.append(blocks.find(names(tokens, 4, OWNER)))
        elif deed == 2 and held:
            for block, name in zip(drawn.choice(held), names(tokens, 4, OWNER), strict=False):
                blocks.name(block, name)
        elif held:
            blocks.release(held.pop(drawn.randrange(len(held))), keep=drawn.random() < 0.9)
        users = Counter(block for some in held for block in some)
        assert [blocks.users(block) for block in range(12)] == [users[block] for block in range(12)]
        assert blocks.available == 12 - len(users)
