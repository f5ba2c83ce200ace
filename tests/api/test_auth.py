import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from werkzeug.datastructures import Headers

from api.auth import Gate, is_loopback
from common.errors import AuthenticationError, RateLimitError
from common.identity import Principal
from common.settings import Settings, SettingsError

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def check(gate: Gate, headers: dict[str, str] | None = None, **body: Any) -> Principal:
    return gate.check(Headers(headers or {}), lambda: json.dumps(body).encode())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text(f"# who may\nalice:{CHEAP.hash('pa:ss')}\n")
    return path


@pytest.mark.parametrize("headers", [{}, bearer("EMPTY"), bearer("anything"), {"api-key": "x"}])
def test_without_keys_any_key_or_none_passes(headers: dict[str, str]) -> None:
    assert check(Gate(Settings()), headers) == Principal()


@pytest.mark.parametrize(
    "headers", [bearer("two"), {"Authorization": "bearer two"}, {"Authorization": "BEARER  two "}, {"api-key": "two"}]
)
def test_a_listed_key_passes_in_every_header(headers: dict[str, str]) -> None:
    assert (
        check(Gate(Settings(api_keys="one, two")), headers).key_id
        == check(Gate(Settings(api_keys="two")), h2ogpt_key="two").key_id
    )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer("three"),
        bearer("EMPTY"),
        bearer("one,two"),
        {"Authorization": "Basic b25l"},
        bearer("oné"),
    ],
)
def test_another_key_or_none_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(AuthenticationError):
        check(Gate(Settings(api_keys="one,two")), headers)


@pytest.mark.parametrize("key", ["\ud83d", "x\udc80"])
def test_half_a_character_is_no_key(key: str) -> None:
    with pytest.raises(AuthenticationError):
        check(Gate(Settings(api_keys="one")), h2ogpt_key=key)


def test_a_key_and_a_password_may_be_written_in_any_script(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"zoë:{CHEAP.hash('пароль')}\n")
    gate = Gate(Settings(api_keys="schlüssel", users_file=path))
    headers = bearer("schlüssel") | {"x-user": "zoë:пароль"}
    on_the_wire = {name: told.encode().decode("latin-1") for name, told in headers.items()}

    assert check(gate, on_the_wire).user == "zoë"


def test_a_wrong_header_is_not_rescued_by_a_right_key_in_the_body() -> None:
    with pytest.raises(AuthenticationError):
        check(Gate(Settings(api_keys="one")), bearer("wrong"), h2ogpt_key="one")


@pytest.mark.parametrize("body", [b"", b"[", b"[1]", b"[" * 100_000, b'{"h2ogpt_key": 1}', b"\xff"])
def test_a_body_that_says_nothing_is_no_key(body: bytes) -> None:
    with pytest.raises(AuthenticationError):
        Gate(Settings(api_keys="one")).check(Headers(), lambda: body)


def test_the_body_is_not_read_when_the_header_decides() -> None:
    def never() -> bytes:
        raise AssertionError

    assert Gate(Settings(api_keys="one")).check(Headers(bearer("one")), never)


def test_a_long_list_of_keys_is_no_file_name() -> None:
    keys = [f"ps_{number:060}" for number in range(100)]

    assert check(Gate(Settings(api_keys=",".join(keys))), bearer(keys[-1])).key_id


def test_two_keys_are_two_owners() -> None:
    gate = Gate(Settings(api_keys="one,two"))

    assert check(gate, bearer("one")).owner != check(gate, bearer("two")).owner


def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\none\n\n")
    gate = Gate(Settings(api_keys=str(path)))
    before = check(gate, bearer("one"))

    path.write_text("second\n")
    os.utime(path, ns=(1, 1))

    assert before.key_id
    assert check(gate, bearer("second")).key_id
    with pytest.raises(AuthenticationError):
        check(gate, bearer("one"))


def test_a_file_of_keys_that_vanishes_opens_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("one")
    gate = Gate(Settings(api_keys=str(path)))

    path.unlink()

    assert check(gate, bearer("one")).key_id
    with pytest.raises(AuthenticationError):
        check(gate, bearer("EMPTY"))


@pytest.mark.parametrize("content", ["", "# none\n", None])
def test_a_file_without_keys_stops_the_start(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "keys").write_text(content)

    with pytest.raises(SettingsError):
        Gate(Settings(api_keys=str(tmp_path / "keys")))


def test_a_path_that_leads_nowhere_is_no_key() -> None:
    with pytest.raises(SettingsError):
        Gate(Settings(api_keys="conf/keys"))


def test_closed_access_needs_a_file_of_users() -> None:
    with pytest.raises(SettingsError):
        Gate(Settings(auth_access="closed"))


@pytest.mark.parametrize("access", ["open", "closed"])
def test_a_right_password_makes_a_user(users: Path, access: Any) -> None:
    gate = Gate(Settings(users_file=users, auth_access=access))

    assert check(gate, user="alice:pa:ss").user == "alice"
    assert check(gate, {"x-user": "alice:pa:ss"}).user == "alice"


@pytest.mark.parametrize("user", ["alice:wrong", "alice:", "alice:" + "x" * 1025])
@pytest.mark.parametrize("access", ["open", "closed"])
def test_a_wrong_password_of_a_known_user_is_refused(users: Path, access: Any, user: str) -> None:
    with pytest.raises(AuthenticationError) as refused:
        check(Gate(Settings(users_file=users, auth_access=access)), user=user)

    assert (refused.value.param, refused.value.actual_code) == ("user", "invalid_credentials")


@pytest.mark.parametrize("user", [None, "alice", "bob:x", ":"])
def test_closed_access_refuses_everybody_else(users: Path, user: str | None) -> None:
    with pytest.raises(AuthenticationError):
        check(Gate(Settings(users_file=users, auth_access="closed")), user=user)


@pytest.mark.parametrize("user", [None, "alice", "bob:x", 7])
def test_open_access_takes_a_name_without_a_known_password_for_a_label(users: Path, user: Any) -> None:
    assert check(Gate(Settings(users_file=users)), user=user) == Principal()


def test_key_and_user_must_both_be_right(users: Path) -> None:
    gate = Gate(Settings(api_keys="one", users_file=users))

    assert check(gate, bearer("one"), user="alice:pa:ss").user == "alice"
    with pytest.raises(AuthenticationError):
        check(gate, bearer("wrong"), user="alice:pa:ss")


def test_guessing_is_slowed_down_but_does_not_lock_out_who_is_known(users: Path) -> None:
    gate = Gate(Settings(users_file=users))
    check(gate, user="alice:pa:ss")
    for guess in range(5):
        with pytest.raises(AuthenticationError):
            check(gate, user=f"alice:{guess}")

    with pytest.raises(RateLimitError):
        check(gate, user="alice:6")
    assert check(gate, user="alice:pa:ss").user == "alice"


def test_many_guesses_at_once_are_no_more_than_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"alice:{PasswordHasher().hash('pa:ss')}\n")
    gate = Gate(Settings(users_file=path))

    def guess(number: int) -> type[Exception]:
        with pytest.raises((AuthenticationError, RateLimitError)) as refused:
            check(gate, user=f"alice:{number}")
        return refused.type

    with ThreadPoolExecutor(24) as pool:
        told = Counter(pool.map(guess, range(24)))

    assert told[AuthenticationError] <= 6  # five, and one that was hashed beside the fifth


@pytest.mark.parametrize("user", ["alice:\ud83d", "\ud83d:x"])
def test_half_a_character_is_no_user(users: Path, user: str) -> None:
    with pytest.raises(AuthenticationError):
        check(Gate(Settings(users_file=users, auth_access="closed")), user=user)


def test_a_password_that_was_changed_no_longer_opens(users: Path) -> None:
    gate = Gate(Settings(users_file=users, auth_access="closed"))
    before = check(gate, user="alice:pa:ss")

    users.write_text(f"alice:{CHEAP.hash('new')}\n")
    os.utime(users, ns=(1, 1))

    assert before.user == "alice"
    with pytest.raises(AuthenticationError):
        check(gate, user="alice:pa:ss")


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_names_of_this_machine(name: str) -> None:
    assert is_loopback(name)


@pytest.mark.parametrize("name", ["", "0.0.0.0", "localhost.example", "127.0.0.1.example", "10.0.0.1", "127.1", "::"])
def test_names_that_are_not_of_this_machine(name: str) -> None:
    assert not is_loopback(name)


def test_a_line_may_say_how_large_the_share_of_its_owner_is(tmp_path: Path) -> None:
    keys, users = tmp_path / "keys", tmp_path / "users"
    keys.write_text("one weight=3\ntwo\n")
    users.write_text(f"alice:{CHEAP.hash('pa:ss')} weight=0.5\n")
    gate = Gate(Settings(api_keys=str(keys), users_file=users))

    assert check(gate, bearer("one")).weight == 3
    assert check(gate, bearer("two")).weight == 1
    assert check(gate, bearer("one"), user="alice:pa:ss").weight == 0.5


@pytest.mark.parametrize("told", ["0", "-1", "nan", "inf", "much", "", "2000"])
def test_a_share_that_is_none_stops_the_start(tmp_path: Path, told: str) -> None:
    path = tmp_path / "keys"
    path.write_text(f"one weight={told}\n")

    with pytest.raises(SettingsError):
        Gate(Settings(api_keys=str(path)))
