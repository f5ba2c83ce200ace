"""The habits of this house, checked."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from common.settings import REPOSITORY, Settings

LINES = 400
SLOW = {  # each @slow test, by name; up to 300 s
    "test_a_house_under_attack_stands_and_goes_on_speaking",
    "test_a_batch_answers_each_line_once_whoever_is_killed_meanwhile",
    "test_clocks_that_are_hours_wrong_end_reap_and_lose_nothing",
    "test_nothing_is_lost_doubled_left_out_repeated_or_changed",
    "test_one_part_after_the_other_is_started_again_and_nothing_is_lost",
    "test_redis_that_forgot_everything_is_gone_on_with",
    "test_what_was_used_under_load_is_given_back",
}
FOLDERS: tuple[str, ...] = (
    "api/views",
    "common/constraints",
    "common/door",
    "common/ledger",
    "common/protocol",
    "common/render",
)
FOLDERS += (
    "docs/decisions",
    "ops/bench",
    "ops/cli",
    "ops/demo_model",
    "ops/docker",
    "worker/chores",
    "worker/engine",
    "worker/models",
)
TOP = ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "docker-compose.yml", "requirements.lock")
ENVIRONMENT = {"common/settings.py", "tests/conftest.py"}  # the reader, and the fixture that clears it
LATE = {  # imported where they are needed, because they are heavy or decide something when they load
    "api.app",  # after gevent has patched the standard library
    "common",  # telemetry: counters are files once prometheus is loaded
    "prometheus_client",
    "transformers",
    "transformers.quantizers",
    "transformers.utils",
    "worker.constraints.matcher",
    "worker.engine.packed",
    "worker.engine.rowbatch",
    "worker.models.linears",  # torch
}
PRINTS = ("ops/cli/", "ops/bench/")


def _files() -> list[Path]:
    """What is tracked, or would be."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607  whichever git it is
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := REPOSITORY / name).is_file()]


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return None


FILES = _files()
PYTHON = {path.relative_to(REPOSITORY).as_posix(): path.read_text() for path in FILES if path.suffix == ".py"}
TEXTS = {path.relative_to(REPOSITORY).as_posix(): text for path in FILES if (text := _text(path)) is not None}
PYPROJECT = TEXTS["pyproject.toml"]


def test_the_floors_are_where_the_plan_has_them() -> None:
    assert [name for name in FOLDERS if not (REPOSITORY / name).is_dir()] == []
    assert [name for name in TOP if name not in TEXTS] == []


def test_no_file_has_two_subjects() -> None:
    assert [name for name, text in PYTHON.items() if text.count("\n") > LINES] == []


def test_one_module_reads_the_environment() -> None:
    assert {name for name, text in PYTHON.items() if re.search(r"\bos\.(environ|getenv)\b", text)} <= ENVIRONMENT | {
        "tests/test_house.py"
    }


def test_only_the_command_line_and_the_benchmarks_print() -> None:
    callers = {
        name
        for name, text in PYTHON.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }

    assert [name for name in callers if not name.startswith((*PRINTS, "ops/demo_model/"))] == []


def test_a_broad_except_gives_its_reason() -> None:
    broad = re.compile(r"^\s*except (?:BaseException|Exception)\b(?!.*#.*[a-z]{3})|noqa: BLE001\s*$")

    assert [(name, line) for name, text in PYTHON.items() for line in text.splitlines() if broad.search(line)] == []


def test_only_heavy_or_late_modules_are_imported_inside_functions() -> None:
    inside = {
        (name, node.module or "")
        for name, text in PYTHON.items()
        for function in ast.walk(ast.parse(text))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom)
    }

    strange = [(name, module) for name, module in inside if not name.startswith("tests/") and module not in LATE]
    assert strange == []


def test_every_rule_that_is_off_gives_its_reason() -> None:
    lists = re.findall(r"^(?:ignore|\"[^\"]+\") = \[\n(.*?)^\]", PYPROJECT, re.MULTILINE | re.DOTALL)
    rules = [line for block in lists for line in block.splitlines()]
    alone = re.findall(r"^\"[^\"]+\" = \[\"[A-Z].*$", PYPROJECT, re.MULTILINE)

    assert len(rules) > 20
    assert [line for line in (*rules, *alone) if "# " not in line] == []


def test_every_slow_test_is_listed() -> None:
    marked = {
        node.name
        for name, text in PYTHON.items()
        if name.startswith("tests/")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and any("mark.slow" in ast.unparse(mark) for mark in node.decorator_list)
    }

    assert marked == SLOW


def test_every_test_has_a_name_of_its_own() -> None:
    modules = [name for name in PYTHON if Path(name).name.startswith("test_")]
    tests = [
        (module, node.name)
        for module in modules
        for node in ast.parse(PYTHON[module]).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]

    assert len(tests) == len(set(tests))


def test_nothing_is_patched() -> None:
    patching = re.compile(r"\b(unittest\.mock|MagicMock|mocker|monkeypatch\.setattr)\b")

    assert [name for name, text in PYTHON.items() if patching.search(text) and name != "tests/test_house.py"] == []


def test_no_path_of_a_machine_and_no_private_address_is_published() -> None:
    private = r"\b(?:10\.\d+|172\.(?:1[6-9]|2\d|3[01])|192\.168)\.\d+\.\d+\b"
    machine = re.compile(r"/(?:root|home|Users|work)/\w|" + private)

    found = [(name, line) for name, text in TEXTS.items() for line in text.splitlines() if machine.search(line)]

    assert [(name, line) for name, line in found if not name.startswith(("tests/", "ops/demo_model/weights/"))] == []


def test_everything_installed_is_pinned() -> None:
    lines = [line for line in TEXTS["requirements.lock"].splitlines() if line and not line.startswith("#")]

    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line)] == []


def test_everything_needed_is_locked() -> None:
    project = tomllib.loads(PYPROJECT)["project"]
    needed = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    locked = {_normal(line.split("==")[0]) for line in TEXTS["requirements.lock"].splitlines() if "==" in line}

    assert {_normal(re.split(r"[<>=\[ ]", line, maxsplit=1)[0]) for line in needed} <= locked


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_commands_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", TEXTS["Makefile"], re.MULTILINE))
    main = PYTHON["ops/cli/main.py"]
    commands = {*re.findall(r"^def (\w+)\(", main, re.MULTILINE), *re.findall(r'add_typer\(.*name="(\w+)"', main)}
    pages = "\n".join(text for name, text in TEXTS.items() if name.endswith(".md") and "weights" not in name)

    assert set(re.findall(r"`?make ([a-z-]+)`", pages)) <= targets
    assert set(re.findall(r"`penstock ([a-z]+)\b(?!:)", pages)) <= commands


def test_the_settings_of_the_readme_exist_and_are_complete() -> None:
    names = {f"PENSTOCK_{name.upper()}" for name in Settings.model_fields}
    told = set(re.findall(r"PENSTOCK_[A-Z_]*[A-Z]", TEXTS["README.md"]))

    assert told - {"PENSTOCK_TORCH_INDEX"} <= names
    assert names - told <= {"PENSTOCK_MODELS", "PENSTOCK_LIMITS"}  # these stand in penstock.toml


@pytest.mark.parametrize("page", [name for name in TEXTS if name.endswith(".md")])
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXTS[page])

    assert [link for link in links if not (REPOSITORY / page).parent.joinpath(link).exists()] == []


def test_the_snippet_of_the_readme_is_the_one_that_is_printed() -> None:
    from ops.cli import probe

    printed = probe._SNIPPET.format(url="http://127.0.0.1:5000/v1", key="EMPTY", model="penstock-demo")

    assert "\n".join(line.removeprefix("    ") for line in printed.splitlines()) in TEXTS["README.md"]
