from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from common.settings import Model, Settings, SettingsError, bare_environment, child_environment, load

Env = pytest.MonkeyPatch  # of the environment and the folder only


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: Env) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_model_is_found_by_name_by_alias_and_by_its_place() -> None:
    models = (Model(name="a", path="x"), Model(name="b", path="x", aliases=("c",)), Model(name="0", path="x"))
    settings = Settings(models=models)

    found = {name: model.name if (model := settings.model(name)) else None for name in ("a", "c", "1", "0", "3", "-1")}

    assert found == {"a": "a", "c": "b", "1": "b", "0": "0", "3": None, "-1": None}


def test_without_anything_the_bundled_model_is_served_on_loopback() -> None:
    settings = load()

    assert (settings.host, settings.port, settings.metrics_port) == ("127.0.0.1", 5000, 5001)
    assert [model.name for model in settings.models] == ["penstock-demo"]
    assert settings.data_dir == Path(".penstock")


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: Env) -> None:
    (tmp_path / "penstock.toml").write_text("port = 6000\nworkers = 2\n")
    monkeypatch.setenv("PENSTOCK_PORT", "7000")

    settings = load()

    assert (settings.port, settings.workers) == (7000, 2)


def test_the_command_line_wins_over_both(monkeypatch: Env) -> None:
    monkeypatch.setenv("PENSTOCK_PORT", "7000")

    assert load(port=8000).port == 8000


def test_a_named_file_is_read_and_a_missing_one_is_refused(tmp_path: Path, monkeypatch: Env) -> None:
    (tmp_path / "my.toml").write_text('[[models]]\nname = "m"\npath = "x"\naliases = ["a"]\n')
    monkeypatch.setenv("PENSTOCK_CONFIG", "my.toml")

    settings = load()

    assert settings.model("a") == settings.models[0] == settings.model("m")
    assert settings.model("b") is None
    monkeypatch.setenv("PENSTOCK_CONFIG", "none.toml")
    with pytest.raises(SettingsError, match=r"PENSTOCK_CONFIG names none\.toml"):
        load()


def test_lists_are_written_with_commas(monkeypatch: Env) -> None:
    monkeypatch.setenv("PENSTOCK_LEDGER_URLS", "redis://a, redis://b")

    assert load().ledgers == ("redis://a", "redis://b")


def test_hosts_and_networks_of_a_callers_url_are_lists(monkeypatch: Env) -> None:
    monkeypatch.setenv("PENSTOCK_IMAGE_FETCH", "allowlist")
    monkeypatch.setenv("PENSTOCK_FETCH_HOSTS", "Good.example, cdn.other.example")
    monkeypatch.setenv("PENSTOCK_FETCH_INTERNAL", "93.184.216.0/24, 2606:2800::/32")

    settings = load()

    assert settings.fetch_hosts == ("good.example", "cdn.other.example")
    assert settings.fetch_internal == (IPv4Network("93.184.216.0/24"), IPv6Network("2606:2800::/32"))


def test_ledger_and_broker_default_to_the_redis_url(monkeypatch: Env) -> None:
    monkeypatch.setenv("PENSTOCK_REDIS_URL", "redis://a")

    assert (load().ledgers, load().broker) == (("redis://a",), "redis://a")


def test_a_limit_can_be_set_alone(monkeypatch: Env) -> None:
    monkeypatch.setenv("PENSTOCK_LIMITS__STREAMS", "7")

    assert (load().limits.streams, load().limits.json_depth) == (7, 64)


def test_the_setting_of_the_makefile_passes(monkeypatch: Env) -> None:
    monkeypatch.setenv("PENSTOCK_TORCH_INDEX", "https://example.org")

    assert load() == Settings()


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("PENSTOCK_PROT", "1", "did you mean PENSTOCK_PORT?"),
        ("PENSTOCK_XYZZY", "1", "Unknown setting PENSTOCK_XYZZY"),
        ("PENSTOCK_PORT", "many", "Bad setting port"),
        ("PENSTOCK_PORT", "70000", "Bad setting port"),
        ("PENSTOCK_WORKERS", "0", "Bad setting workers"),
        ("PENSTOCK_LOG_LEVEL", "loud", "Bad setting log_level"),
        ("PENSTOCK_AUTH_ACCESS", "ajar", "Bad setting auth_access"),
        ("PENSTOCK_IMAGE_FETCH", "private", "Bad setting image_fetch"),
        ("PENSTOCK_IMAGE_FETCH", "allowlist", "image_fetch=allowlist needs fetch_hosts"),
        ("PENSTOCK_FETCH_HOSTS", "good.example", "fetch_hosts needs image_fetch=allowlist, or off"),
        ("PENSTOCK_FETCH_HOSTS", "https://good.example", "'https://good.example' is not a domain"),
        ("PENSTOCK_FETCH_HOSTS", "*.good.example", "'*.good.example' is not a domain"),
        ("PENSTOCK_FETCH_INTERNAL", "inside", "Bad setting fetch_internal"),
        ("PENSTOCK_FETCH_INTERNAL", "93.184.216.34/24", "Bad setting fetch_internal"),
        ("PENSTOCK_FILES_URL", "gs://bucket/x", "neither a folder nor s3://bucket/prefix"),
        ("PENSTOCK_FILES_URL", "s3://", "neither a folder nor s3://bucket/prefix"),
        ("PENSTOCK_LIMITS__NONE", "1", "Bad setting limits"),
        ("PENSTOCK_ALLOW_ANONYMOUS", "maybe", "Bad setting allow_anonymous"),
    ],
)
def test_a_misspelt_name_or_a_bad_value_is_a_sentence(monkeypatch: Env, name: str, value: str, part: str) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError) as error:
        load()

    assert part in str(error.value)


@pytest.mark.parametrize(
    ("toml", "part"),
    [
        ("port = ", "not valid TOML"),
        ("prot = 1", "Bad setting prot"),
        ("models = []", "at least one model"),
        ('[[models]]\nname = "m"\npath = "x"\n[[models]]\nname = "n"\npath = "x"\naliases = ["m"]', "used twice: m"),
        ('[[models]]\nname = "chores"\npath = "x"', "our own queue"),
        ('[[models]]\nname = "a b"\npath = "x"', r"models\.0\.name"),
        ('[[models]]\nname = "m"', r"models\.0\.path"),
        ('[[models]]\nname = "m"\npath = "x"\nslots = 0', r"models\.0\.slots"),
    ],
)
def test_a_bad_file_is_a_sentence(tmp_path: Path, toml: str, part: str) -> None:
    (tmp_path / "penstock.toml").write_text(toml)

    with pytest.raises(SettingsError, match=part):
        load()


def test_a_child_is_told_what_its_parent_decided(tmp_path: Path, monkeypatch: Env) -> None:
    monkeypatch.setenv("PENSTOCK_WORKERS", "3")
    settings = Settings(redis_url="redis://x", data_dir=Path("data"))

    environment = child_environment(settings, PENSTOCK_PORT="1")

    ours = {name: value for name, value in environment.items() if name.startswith("PENSTOCK_")}
    assert ours == {
        "PENSTOCK_WORKERS": "3",
        "PENSTOCK_REDIS_URL": "redis://x",
        "PENSTOCK_DATA_DIR": str(tmp_path / "data"),
        "PENSTOCK_PORT": "1",
    }
    assert not any(name.startswith("PENSTOCK_") for name in bare_environment())
