"""Every field of the SDK's requests and of h2oGPT's: honoured, refused by name, or ignored and named."""

import re

import pytest
from openai.types import completion_create_params as text_params
from openai.types.chat import completion_create_params as chat_params

from common.errors import InvalidRequestError
from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from common.protocol.fields import LATER, NEVER
from common.protocol.generation import Generation
from common.settings import REPOSITORY
from tests.common.compatibility import BASE, OPENAI, PAGE, ROWS, Row, fate, page

DESIGN = REPOSITORY.parent / "shared" / "design" / "api.md"
KINDS = (ChatRequest, CompletionRequest)
_RANK = re.compile(r"\**(A|B|C)\b")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.name))
def test_no_field_is_taken_and_does_nothing(kind: type[Generation], row: Row) -> None:
    assert fate(kind, row) in {"honoured", "refused", "ignored, named"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_strict_service_names_what_it_would_ignore(kind: type[Generation]) -> None:
    ignored = [row for row in ROWS if fate(kind, row) == "ignored, named"]

    assert len(ignored) > 50
    for row in ignored:
        with pytest.raises(InvalidRequestError) as refused:
            kind.of(BASE[kind] | {row.name: row.value}, strict=True)
        assert (refused.value.param, refused.value.actual_code) == (row.name, "unsupported_parameter")


def test_a_field_that_does_nothing_would_be_found() -> None:
    with pytest.raises(AssertionError, match="taken and does nothing"):
        fate(ChatRequest, Row("top_p", 1.0, "its default"))


@pytest.mark.parametrize(
    "params", [chat_params.CompletionCreateParamsStreaming, text_params.CompletionCreateParamsStreaming]
)
def test_every_field_of_the_sdk_has_a_row(params: type) -> None:
    fields = {name for base in (params, *params.__orig_bases__) for name in base.__annotations__}  # type: ignore[attr-defined]

    assert len(fields) > 15
    assert fields <= {row.name for row in OPENAI}


def test_every_field_that_we_know_has_one_row_and_one_fate() -> None:
    names = [row.name for row in ROWS]
    models = {name for kind in KINDS for name in kind.model_fields} - {"ignored"}
    elsewhere = {"tools", "tool_choice", "parallel_tool_calls"} & (models - set(CompletionRequest.model_fields))
    fates = [models, set(LATER), set(NEVER) - elsewhere]

    assert sum(map(len, fates)) == len(set().union(*fates))
    assert set().union(*fates) <= set(names)
    assert len(names) == len(set(names))


def test_the_page_says_what_is_true() -> None:
    assert PAGE.read_text() == page(), "run python -m tests.common.compatibility"


def _designed() -> dict[str, str]:
    """The names in the tables of the design's page, and how each ranks."""
    text = DESIGN.read_text()
    section = text[text.index("## 2. Every request parameter") : text.index("## 3. Exact semantics")]
    ranks: dict[str, str] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.sub(r"\([^)]*\)|\w+:", "", cells[0])
        rank = _RANK.match(cells[-1])
        if line.startswith("|") and rank:
            ranks |= dict.fromkeys(re.findall(r"[a-z][a-z0-9_]*(?![a-z0-9_*])", names), rank[1])
    return ranks


def test_every_name_of_the_design_is_as_its_rank_says() -> None:
    if not DESIGN.is_file():
        pytest.skip("the folder with the design is not here")
    ranks, rows = _designed(), {row.name: row for row in ROWS}

    assert len(ranks) > 90
    for name, rank in ranks.items():
        fates = {fate(kind, rows[name]) for kind in KINDS}
        assert (fates == {"ignored, named"}) == (rank == "C"), name
