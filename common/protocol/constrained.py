"""What an answer must be: OpenAI's response_format, vLLM's and h2oGPT's names for the same, one of them at a time."""

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from common.constraints.spec import Wanted
from common.errors import InvalidRequestError
from common.protocol.base import Request, read_inner

_STRICT = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True, populate_by_name=True)
Schema = dict[str, Any] | bool | str
Choices = Annotated[tuple[str, ...], Field(min_length=1, strict=False, fail_fast=True)]


def from_text(value: Any) -> Any:
    """h2oGPT's clients send objects as text, and nothing as an empty one."""
    if value == "":
        return None
    if isinstance(value, str):
        try:
            return read_inner(value)
        except ValueError:
            raise ValueError("it is a text that is no JSON") from None
    return value


class JsonSchema(BaseModel):
    """OpenAI's wrapper around a schema."""

    model_config = _STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    schema_: Annotated[dict[str, Any] | bool, BeforeValidator(from_text), Field(alias="schema")]
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(BaseModel):
    """``json_code`` is h2oGPT's name for JSON in a fence; ours has no fence."""

    model_config = _STRICT

    type: Literal["text", "json_object", "json_code", "json_schema"] = "text"
    json_schema: Annotated[JsonSchema | None, BeforeValidator(from_text)] = None


class StructuredOutputs(BaseModel):
    """vLLM's: exactly one of the first five; its tags for parts of a text are not here."""

    model_config = _STRICT

    json_: Annotated[dict[str, Any] | bool | None, BeforeValidator(from_text), Field(alias="json")] = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    whitespace_pattern: str | None = None
    structural_tag: None = None


class Constrained(Request):
    """A request whose answer may be constrained."""

    _ways: ClassVar[dict[str, str]] = {"guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}

    response_format: ResponseFormat = ResponseFormat()
    guided_json: Annotated[dict[str, Any] | bool | None, BeforeValidator(from_text)] = None
    guided_regex: str | None = None
    guided_choice: Annotated[tuple[str, ...], Field(strict=False, fail_fast=True)] = ()
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    structured_outputs: StructuredOutputs | None = None

    def wanted(self) -> Wanted | None:
        """The one constraint that is asked for. Raises InvalidRequestError where there are several, or half of one."""
        found = [*self._of_format(), *self._of_guided(), *self._of_structured()]
        if len({json.dumps([one.kind, one.source], sort_keys=True) for one in found}) > 1:
            names = " and ".join(dict.fromkeys(one.field for one in found))
            raise InvalidRequestError(f"{found[-1].field}: only one of {names} can hold.", param=found[-1].field)
        spaces = [self.guided_whitespace_pattern and "guided_whitespace_pattern"]
        spaces += [one.spaces and f"{one.field}.whitespace_pattern" for one in found]
        if (field := next(filter(None, spaces), None)) and not any(one.kind == "json" for one in found):
            raise InvalidRequestError(f"{field}: it goes with a JSON schema or object.", param=field)
        return next(iter(found), None)

    def _of_format(self) -> list[Wanted]:
        told = self.response_format
        if told.type == "text":
            if told.json_schema is not None:
                field = "response_format.json_schema"
                raise InvalidRequestError(f"{field}: it goes with type json_schema.", param=field)
            return []
        spaces = self.guided_whitespace_pattern or None
        if told.type != "json_schema":
            schema = self.guided_json if told.json_schema is None else told.json_schema.schema_
            return [Wanted("json", {"type": "object"} if schema is None else schema, "response_format", spaces=spaces)]
        if told.json_schema is None:
            field = "response_format.json_schema"
            raise InvalidRequestError(f"{field}: it is missing; an object with name and schema.", param=field)
        inner = told.json_schema
        return [Wanted("json", inner.schema_, "response_format", is_strict=bool(inner.strict), spaces=spaces)]

    def _of_guided(self) -> list[Wanted]:
        found = []
        if self.guided_json is not None:
            spaces = self.guided_whitespace_pattern or None
            found.append(Wanted("json", self.guided_json, "guided_json", spaces=spaces))
        for field, kind in self._ways.items():
            if source := getattr(self, field):
                found.append(Wanted(kind, source, field))
        return found

    def _of_structured(self) -> list[Wanted]:
        told = self.structured_outputs
        if told is None:
            return []
        ways = {"regex": told.regex, "choice": told.choice, "grammar": told.grammar, "json": told.json_}
        given = [(kind, source) for kind, source in ways.items() if source is not None]
        if told.json_object:
            given.append(("json", {"type": "object"}))
        field = "structured_outputs"
        if len(given) != 1:
            raise InvalidRequestError(f"{field}: exactly one of {', '.join(ways)} and json_object.", param=field)
        return [Wanted(*given[0], field, spaces=told.whitespace_pattern)]

    def hint(self, *, always: bool) -> str | None:
        """A line for the model, which cannot see its constraint."""
        told = self.response_format
        if told.type == "text" and not always:
            return None
        schema = self.guided_json if told.json_schema is None else told.json_schema.schema_
        if schema is None:
            return None if told.type == "text" else "Answer with one JSON object and nothing else."
        about = told.json_schema and told.json_schema.description
        shape = f"Answer in JSON that fits this schema: {json.dumps(schema, ensure_ascii=False)}"
        return f"{about}\n{shape}" if about else shape
