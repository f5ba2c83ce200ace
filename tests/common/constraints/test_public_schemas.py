"""A sample of the public suites: nothing is too wide where we say that all is enforced."""

import pytest

from ops.bench.schemas import DATA, FILES, rows_of, score


@pytest.mark.parametrize("name", FILES)
def test_a_sample_of_public_schemas_is_served_as_promised(name: str) -> None:
    path = DATA / FILES[name]
    if not path.is_file():
        pytest.skip(f"{FILES[name]} is not there")
    rows = [row for row in rows_of(path)[::10] if not row["id"].startswith("optional/")]

    scores = {row["id"]: score(row, formats=name != "suite") for row in rows}

    tight = {name: found["outcome"] for name, found in scores.items() if found.get("mode") in {"native", "exact"}}
    assert [name for name, outcome in tight.items() if outcome == "under"] == []
    assert len([name for name, outcome in tight.items() if outcome == "over"]) <= len(rows) / 100
    assert len(tight) > len(rows) / 2
