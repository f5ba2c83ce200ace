import re

from ops.cli.keys import is_whole, new_key


def test_a_new_key_is_whole_and_new() -> None:
    keys = {new_key() for _ in range(100)}

    assert len(keys) == 100
    assert all(re.fullmatch(r"ps_[0-9A-Za-z]{8}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}", key) and is_whole(key) for key in keys)


def test_a_key_that_was_cut_or_mistyped_is_not_whole() -> None:
    key = new_key()

    assert not is_whole(key[:-1])
    assert not is_whole(key.replace(key[20], "!", 1))
