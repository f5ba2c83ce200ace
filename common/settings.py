"""Settings: read once, frozen; the only module that reads the environment.

Order: ``PENSTOCK_*`` variables, then ``penstock.toml``, then the defaults. A misspelt name or a bad value stops the
process with a sentence.

``penstock.toml``:

    [[models]]
    name = "demo"                 # what clients call it (base_model)
    path = "ops/demo_model/weights"   # a folder or a hub id
    aliases = ["default"]
    slots = 32                    # sequences that run together
    quantization = "nf4"          # or "int8"; saves memory, costs speed
"""

import difflib
import os
import re
import tomllib
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

REPOSITORY = Path(__file__).resolve().parent.parent
DEMO_MODEL = REPOSITORY / "ops" / "demo_model" / "weights"
_PREFIX = "PENSTOCK_"
_DIGITS = 4  # of a model's place in the list, and one more
_MAKE_ONLY = {"PENSTOCK_TORCH_INDEX"}  # read by the Makefile


class SettingsError(Exception):
    """A sentence for the person who starts the process."""


def _model_name(name: str) -> str:
    if name == "chores":
        raise ValueError("'chores' is the name of our own queue")
    return name


def _comma_list(value: Any) -> Any:
    """``a,b`` in the environment is a list in the file."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _expanded(path: str) -> str:
    return str(Path(path).expanduser()) if path.startswith("~") else path


def _domains(names: tuple[str, ...]) -> tuple[str, ...]:
    """In the form in which hosts are compared."""
    for name in names:
        if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", name.lower()):
            raise ValueError(f"{name!r} is not a domain")
    return tuple(name.lower() for name in names)


def _store(url: str) -> str:
    """Those that fsspec reaches without an event loop of its own, which cannot run beside gevent's."""
    if "://" in url and not re.fullmatch(r"(file:///|s3://[a-z0-9][a-z0-9.-]+(/|$)).*", url):
        raise ValueError(f"{url!r} is neither a folder nor s3://bucket/prefix")
    return url


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_list)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_comma_list)]


class Model(BaseModel):
    """One model that this installation serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,127}$"), AfterValidator(_model_name)]
    path: Annotated[str, AfterValidator(_expanded)]  # a folder, or owner/name of the hub
    aliases: tuple[str, ...] = ()
    slots: Annotated[int, Field(ge=1, le=1024)] = 32
    context: Annotated[int, Field(ge=16)] | None = None  # caps the model's own
    kv_cache_bytes: Annotated[int, Field(ge=2**20)] | None = None  # unset: 1 GiB, or 90 % of what a GPU has left
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    quantization: Literal["nf4", "int8"] | None = None  # by bitsandbytes, while loading
    deterministic: bool = False  # each sequence is computed alone: the same bits whoever runs beside it, and slower
    share_prefixes: bool = False  # between users: who asks can tell by the time what others have asked
    trust_remote_code: bool = False


class Limits(BaseModel):
    """Bounds on what a client may send and on what may wait."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_bytes: Annotated[int, Field(ge=1024)] = 20 * 2**20
    body_s: Annotated[float, Field(gt=0)] = 30.0  # a body that takes longer to arrive: 408
    json_depth: Annotated[int, Field(ge=8, le=512)] = 64
    waiting_class: Annotated[int, Field(ge=1)] = 10_000  # jobs that wait in one class
    waiting_share: Annotated[int, Field(ge=1)] = 1_000  # jobs that wait for one user
    file_bytes: Annotated[int, Field(ge=1)] = 512 * 2**20
    files: Annotated[int, Field(ge=1)] = 10_000  # of one owner
    batches: Annotated[int, Field(ge=1)] = 4  # of one owner that are open
    batch_lines: Annotated[int, Field(ge=1)] = 50_000
    webhooks: Annotated[int, Field(ge=1)] = 10  # endpoints of one owner
    streams: Annotated[int, Field(ge=1)] = 4_000  # open streams of one front-end process
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.8  # of Redis' maxmemory: above it nothing is accepted


class Settings(BaseSettings):
    """Everything a process of this house may be told."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid", env_nested_delimiter="__")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 5000
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 5001
    data_dir: Path = Path(".penstock")
    files_url: Annotated[str, AfterValidator(_store)] | None = (
        None  # a folder, or s3://bucket/prefix; unset: in data_dir
    )
    redis_url: str | None = None
    redis_memory_bytes: Annotated[int, Field(ge=2**24)] = 2**30  # maxmemory of the embedded server
    broker_url: str | None = None
    ledger_urls: CommaList = ()
    api_keys: str = ""  # comma-separated keys, or the path of a file with one a line
    allow_anonymous: bool = False
    auth_access: Literal["open", "closed"] = "open"
    users_file: Path | None = None
    strict_params: bool = False
    image_fetch: Literal["public", "allowlist", "off"] = "public"
    fetch_hosts: Annotated[CommaList, AfterValidator(_domains)] = ()  # all that a caller's URL may name, webhooks too
    fetch_internal: Networks = ()  # refused although their addresses are public
    fetch_exempt: Networks = ()  # reached although they are not: receivers of webhooks inside
    config: Path | None = None
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    front_ends: Annotated[int, Field(ge=1, le=64)] = 1  # front-end processes
    schema_in_prompt: Literal["auto", "always", "never"] = "auto"  # a line that tells the model what its answer must be
    children: Annotated[int, Field(ge=1, le=16)] = 1  # admission children of a front-end process
    threads: Annotated[int, Field(ge=0)] = 0  # intra-op threads of a worker; 0: cores - 1
    log_format: Literal["console", "json"] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    flush_ms: Annotated[float, Field(ge=0)] = 20.0  # EMIT no more often than this; a first token at once
    beat_s: Annotated[float, Field(gt=0, le=60)] = 0.5
    lease_s: Annotated[float, Field(gt=0)] = 2.0
    stall_s: Annotated[float, Field(gt=0)] = 60.0
    drain_s: Annotated[float, Field(ge=0)] = 30.0
    heartbeat_s: Annotated[float, Field(gt=0)] = 15.0  # comment lines of a quiet stream; 10 s while queued
    cors_origins: CommaList = ()
    models: tuple[Model, ...] = (Model(name="penstock-demo", path=str(DEMO_MODEL)),)
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [name for model in self.models for name in (model.name, *model.aliases)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"model name used twice: {', '.join(twice)}")
        if not self.models:
            raise ValueError("at least one model must be configured")
        return self

    @model_validator(mode="after")
    def _a_beat_may_be_missed(self) -> Self:
        if self.lease_s < 2 * self.beat_s:
            raise ValueError("lease_s must be at least twice beat_s")
        return self

    @model_validator(mode="after")
    def _a_list_is_one_that_counts(self) -> Self:
        if self.image_fetch == "allowlist" and not self.fetch_hosts:
            raise ValueError("image_fetch=allowlist needs fetch_hosts")
        if self.image_fetch == "public" and self.fetch_hosts:
            raise ValueError("fetch_hosts needs image_fetch=allowlist, or off")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over what the file says (passed in by ``load``)."""
        return env_settings, init_settings

    def model(self, name: str) -> Model | None:
        """The configured model of this name or alias; or of this place in the list, from 0, if none is called so."""
        named = next((model for model in self.models if name == model.name or name in model.aliases), None)
        is_place = named is None and name.isascii() and name.isdecimal() and len(name) < _DIGITS
        return self.models[int(name)] if is_place and int(name) < len(self.models) else named

    @property
    def ledgers(self) -> tuple[str, ...]:
        """The ledger's partitions, in order."""
        return self.ledger_urls or ((self.redis_url,) if self.redis_url else ())

    @property
    def broker(self) -> str | None:
        """Celery's broker."""
        return self.broker_url or self.redis_url


def load(**changes: Any) -> Settings:
    """The settings of this process; ``changes`` come from its command line and win over everything."""
    names = {_PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(
        name
        for name in os.environ  # noqa: TID251
        if name.startswith(_PREFIX) and name.split("__")[0] not in names | _MAKE_ONLY
    )
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, 1)
        hint = f"did you mean {near[0]}?" if near else "the README lists those that are known."
        raise SettingsError(f"Unknown setting {unknown[0]}: {hint}")
    try:
        return Settings(**_file()).model_copy(update=changes)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        raise SettingsError(f"Bad setting {where}: {first['msg']}.") from None


def child_environment(settings: Settings, **changes: str) -> dict[str, str]:
    """The environment for a process of ours: this one's, with what the parent decided."""
    environment = dict(os.environ)  # noqa: TID251
    if settings.redis_url:
        environment["PENSTOCK_REDIS_URL"] = settings.redis_url
    environment["PENSTOCK_DATA_DIR"] = str(settings.data_dir.resolve())
    return environment | changes


def client_environment() -> tuple[str | None, str | None]:
    """Where our own commands find a service, and the key they show: as OpenAI's SDKs read it."""
    return os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")  # noqa: TID251


def bare_environment() -> dict[str, str]:
    """This process's environment without our settings: what a stranger's shell would give."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_PREFIX)}  # noqa: TID251


def _file() -> dict[str, Any]:
    """``penstock.toml``, as plain data."""
    named = os.environ.get(_PREFIX + "CONFIG")  # noqa: TID251
    path = Path(named) if named else Path("penstock.toml")
    if not path.is_file():
        if named:
            raise SettingsError(f"PENSTOCK_CONFIG names {path}, which is not a file.")
        return {}
    try:
        return tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}.") from None
