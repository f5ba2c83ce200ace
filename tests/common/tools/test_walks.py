import json
import random
import zlib
from collections import Counter

import jsonschema_rs
import pytest

from common.constraints.build import enforceable
from common.constraints.tools import plan
from common.toolformat import ToolPlan
from tests.common.tools.asked import a_choice, a_request
from tests.common.tools.forms import FORMS, a_plan
from tests.common.tools.templates import TEMPLATES
from tests.common.tools.walk import POLICIES, joined, letters, recut, split, walked

ROUNDS = 40  # requests for each template
EMPTY = {"type": "object", "properties": {}, "additionalProperties": False}
ANSWER = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_name_known_tools_with_arguments_that_fit(name: str) -> None:
    rng, counted = random.Random(zlib.crc32(name.encode())), Counter[str]()
    for at in range(ROUNDS):
        tools, schemas = a_request(rng)
        names = [tool["function"]["name"] for tool in tools]
        choice, policy = a_choice(rng, names), list(POLICIES.values())[at % len(POLICIES)]
        lowered = {called: enforceable(schema)[0] for called, schema in schemas.items()}
        made = plan(tools, choice, FORMS[name], lowered=lowered, parallel=rng.random() < 0.7)
        made = ToolPlan.decode(made.encode())

        said = walked(made, policy, rng)
        if said is None:
            counted["cut"] += 1
            continue
        content, calls = joined(split(made, said))

        for called, arguments, is_over in calls:
            assert is_over
            assert called in made.tools
            assert jsonschema_rs.is_valid(schemas.get(called, EMPTY), json.loads(arguments))
        must = choice == "required" or choice in names or (isinstance(choice, dict) and "auto" not in str(choice))
        assert calls or not must
        assert made.format.between is not None or len(calls) <= 1
        assert calls or content == "".join(text for text, is_special in said if not is_special)
        assert joined(split(made, recut(said, rng))) == (content, calls)
        assert joined(split(made, letters(said))) == (content, calls)
        counted["calls" if calls else "text"] += 1
    assert counted["calls"] > ROUNDS // 4, counted


@pytest.mark.parametrize("name", TEMPLATES)
def test_beside_a_schema_the_answer_is_json_or_calls(name: str) -> None:
    made, rng, seen = a_plan(name, answer=ANSWER), random.Random(3), set()
    for policy in (*POLICIES.values(),) * 4:
        if (said := walked(made, policy, rng)) is None:
            continue
        content, calls = joined(split(made, said))
        seen.add(bool(calls))
        assert calls or jsonschema_rs.is_valid(ANSWER, json.loads(content))
        assert not (calls and content)
    assert seen == {True, False}
