"""Every field that a client may send, tried: ``python -m tests.common.compatibility`` writes docs/compatibility.md.

A field's fate is found out, not claimed: it changes the job, or is refused by name, or is named as ignored.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from common.errors import InvalidRequestError
from common.identity import Principal
from common.jobs import Echo
from common.protocol.chat import ChatRequest
from common.protocol.completions import CompletionRequest
from common.protocol.generation import Ask, Generation, Headers, Read, Room
from common.settings import REPOSITORY

Fate = Literal["honoured", "refused", "ignored, named"]
PAGE = REPOSITORY / "docs" / "compatibility.md"
BASE: dict[type[Generation], dict[str, Any]] = {
    ChatRequest: {"messages": [{"role": "user", "content": "Hi"}]},
    CompletionRequest: {"prompt": "Hi"},
}
_WHO = Principal(key_id="k")
_ANSWER = {"role": "assistant", "content": "Once"}
_SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
_GUIDED = {"guided_json": {"type": "object"}}
_TOOL = {"type": "function", "function": {"name": "f"}}
_TOOLS = {"tools": [_TOOL]}


@dataclass(frozen=True)
class Row:
    """A field, a value that is not its default, and what must stand beside it to mean anything."""

    name: str
    value: Any
    meaning: str  # of an honoured field; where it is not, why
    chat: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)


OPENAI = (
    Row("messages", [{"role": "system", "content": "Be brief."}], "roles system, developer, user, assistant, tool"),
    Row("prompt", ["a", [1, 2]], "a string, a list of them, token ids, a list of such; up to 128"),
    Row("model", "other", "a name, an alias, or a place in the list; empty: the first"),
    Row("max_tokens", 9, "at least 1; 256, or the room there is; what does not fit is refused"),
    Row("max_completion_tokens", 9, "the same by its newer name"),
    Row("stream", True, "server-sent events"),
    Row("stream_options", {"include_usage": True}, "`include_usage`", {"stream": True}, {"stream": True}),
    Row("temperature", 1.5, "0 to 2; 0 is greedy; default 0.3"),
    Row("top_p", 0.5, "above 0, to 1"),
    Row("seed", 7, "0 and null draw one; told as `x_seed`"),
    Row("stop", ["end"], "up to 16 strings of 256 characters, never shown"),
    Row("n", 3, "1 to 16; prompts times n at most 128"),
    Row("best_of", 3, "taken where it equals `n`; hidden samples are not drawn"),
    Row("frequency_penalty", 0.5, "-2 to 2, for each time a token was generated"),
    Row("presence_penalty", 0.5, "-2 to 2, for tokens that were generated at all"),
    Row("logit_bias", {"5": 2}, "up to 1,024 tokens, -100 to 100"),
    Row("logprobs", True, "of the model alone; chat: true, text: 0 to 5", text={"logprobs": 5}),
    Row("top_logprobs", 5, "0 to 20", chat={"logprobs": True}),
    Row("echo", True, "with `logprobs`, the prompt's own; `max_tokens: 0` tells it alone"),
    Row("suffix", "end", "no model here fills gaps"),
    Row("user", "ann", "whose turn it is; `name:password` is checked"),
    Row("safety_identifier", "ann", "the same where there is no `user`"),
    Row("metadata", {"run": "7"}, "up to 16 pairs, told back"),
    Row("store", True, "kept for 30 days, finished even when nobody waits"),
    Row("service_tier", "flex", "auto, default, priority, flex (yields to the others); told back as served"),
    Row("response_format", _SCHEMA, "text, json_object, json_schema; h2oGPT's json_code; the answer always fits"),
    Row("tools", [_TOOL], "up to 128 functions; arguments always fit their schema; text completions: none"),
    Row("tool_choice", "required", "none, auto, required, a function, allowed_tools, or a bare name", _TOOLS),
    Row("parallel_tool_calls", False, "false: one call an answer", _TOOLS),
    Row("function_call", "auto", "OpenAI replaced it by tools"),
    Row("functions", [{"name": "f"}], "OpenAI replaced it by tools"),
    Row("audio", {"voice": "x"}, "text only"),
    Row("modalities", ["text", "audio"], "text only"),
    Row("moderation", {"model": "x"}, "no second model judges"),
    Row("prediction", {"type": "content", "content": "x"}, "it would be taken and do nothing"),
    Row("reasoning_effort", "high", "no effort can be set"),
    Row("verbosity", "low", "no verbosity can be set"),
    Row("web_search_options", {}, "no request of ours leaves the house"),
    Row("prompt_cache_key", "a", "a hint that changes no answer"),
    Row("prompt_cache_options", {"x": 1}, "a hint that changes no answer"),
    Row("prompt_cache_retention", "24h", "a hint that changes no answer"),
)
_GREEDY = {"temperature": 0}
MORE = (
    Row("top_k", 5, "0 is off"),
    Row("min_p", 0.1, "0 to 1"),
    Row("repetition_penalty", 1.2, "transformers' meaning, of prompt and answer"),
    Row("stop_token_ids", [5], "up to 64, not shown"),
    Row("min_tokens", 5, "before them nothing but a stop string ends the answer"),
    Row("min_new_tokens", 5, "the same by transformers' name"),
    Row("do_sample", True, "the temperature decides; true with temperature 0 is refused", _GREEDY, _GREEDY),
    Row("max_time", 5, "seconds; ends with `length`, also limits the wait in the queue"),
    Row("on_disconnect", "finish", "cancel or finish, when the client has gone"),
    Row("continue_final_message", True, "the last message is the answer's beginning", chat={"messages": [_ANSWER]}),
    Row("add_generation_prompt", False, "false: the template does not begin the assistant's turn"),
    Row("h2ogpt_key", "k", "an API key, where no header brings one"),
    Row("guided_json", {"type": "object"}, "the answer is JSON of this schema"),
    Row("guided_regex", "a+", "the whole answer matches; Rust's syntax, no look-around"),
    Row("guided_choice", ["a"], "the answer is one of these"),
    Row("guided_grammar", "start: x", "Lark, or llama.cpp's GBNF"),
    Row("guided_whitespace_pattern", " ", "between the tokens of JSON", _GUIDED, _GUIDED),
    Row("structured_outputs", {"choice": ["a"]}, "vLLM's newer names for the same; one at a time"),
)
_HISTORY = [["a", "b"]]
_TOLD = {"chat_conversation": _HISTORY}
_IN_TEMPLATE = {"prompt_type": "template"}
CONVERSATION = (
    Row(
        "system_prompt",
        "Be brief.",
        "where messages have none; auto and empty: none; text: in a template",
        text=_IN_TEMPLATE,
    ),
    Row("chat_conversation", _HISTORY, "where messages have no history; text: in a template", text=_IN_TEMPLATE),
    Row("add_chat_history_to_context", False, "false: the last question alone", _TOLD, _TOLD | _IN_TEMPLATE),
    Row("max_input_tokens", 50, "the oldest turns are left out until the prompt fits"),
    Row("prompt_type", "plain", "plain: no chat template; template: with it", text=_IN_TEMPLATE),
    Row("client_metadata", "night", "logged, and told back"),
)
_LATER = "comes with documents"
DOCUMENTS = (
    Row("langchain_mode", "UserData", _LATER),
    Row("langchain_action", "Summarize", _LATER),
    Row("top_k_docs", 5, _LATER),
    Row("text_context_list", ["a"], _LATER),
    Row("document_choice", ["a"], _LATER),
    Row("document_subset", "RelSources", _LATER),
    Row("document_source_substrings", ["a"], _LATER),
    Row("document_source_substrings_op", "or", _LATER),
    Row("document_content_substrings", ["a"], _LATER),
    Row("document_content_substrings_op", "or", _LATER),
    Row("chunk", False, _LATER),
    Row("chunk_size", 128, _LATER),
    Row("pre_prompt_query", "a", _LATER),
    Row("prompt_query", "a", _LATER),
    Row("pre_prompt_summary", "a", _LATER),
    Row("prompt_summary", "a", _LATER),
    Row("all_docs_start_prompt", "a", _LATER),
    Row("all_docs_finish_prompt", "a", _LATER),
    Row("docs_ordering_type", "best_first", _LATER),
    Row("docs_token_handling", "chunk", _LATER),
    Row("docs_joiner", "a", _LATER),
    Row("max_total_input_tokens", 50, _LATER),
    Row("min_max_new_tokens", 50, _LATER),
    Row("metadata_in_context", "all", _LATER),
    Row("use_llm_if_no_docs", True, _LATER),
    Row("hyde_level", 1, _LATER),
    Row("hyde_template", "a", _LATER),
    Row("hyde_llm_prompt", "a", _LATER),
    Row("hyde_show_only_final", True, _LATER),
    Row("image_file", "a", "comes with images"),
    Row("images_num_max", 1, "comes with images"),
    Row("image_resolution", [1, 1], "comes with images"),
    Row("image_format", "png", "comes with images"),
)
_BEGGED = "output is constrained, not begged for"
_SPEECH, _FILMS = "no speech", "no films"
_AGENTS = "agents run code on the server"
_LOADERS = "files are read one way"
_CAPTIONS = "no second model is called in secret"
_SEARCHES = "it can be neither streamed nor batched"
LEFT_OUT = (
    *(
        Row(name, "a", _BEGGED)
        for name in (
            "json_object_prompt",
            "json_object_prompt_simpler",
            "json_code_prompt",
            "json_code_prompt_if_no_schema",
            "json_schema_instruction",
            "json_object_post_prompt_reminder",
            "json_code_post_prompt_reminder",
            "json_code2_post_prompt_reminder",
        )
    ),
    Row("json_preserve_system_prompt", True, "system prompts are always preserved"),
    Row("doc_json_mode", True, _BEGGED),
    Row("user_prompt_for_fake_system_prompt", "a", "templates without a system role get its text in the first turn"),
    Row("chat_template", "{{ 1 }}", "a template is a program"),
    Row("prompt_dict", {"a": 1}, "the tokenizer's chat template is used"),
    Row("add_search_to_context", True, "no request of ours leaves the house"),
    Row("langchain_agents", ["Python"], _AGENTS),
    *(
        Row(name, "a", _LOADERS)
        for name in ("image_audio_loaders", "pdf_loaders", "url_loaders", "jq_schema", "extract_frames", "llava_prompt")
    ),
    Row("rotate_align_resize_image", True, "images are taken as they are"),
    *(
        Row(name, "a", _CAPTIONS)
        for name in (
            "image_control",
            "visible_vision_models",
            "image_batch_image_prompt",
            "image_batch_final_prompt",
            "image_batch_stream",
        )
    ),
    *(Row(name, "a", _FILMS) for name in ("video_file", "video_frame_period")),
    *(Row(name, "a", _SPEECH) for name in ("chatbot_role", "speaker", "tts_language", "tts_speed")),
    Row("enable_caching", True, "caching needs no asking"),
    *(Row(name, 2, _SEARCHES) for name in ("penalty_alpha", "num_beams", "early_stopping")),
    Row("num_return_sequences", 2, "use `n`"),
    Row("chat", True, "the endpoint says it"),
    Row("model_lock", {"base_model": "x"}, "clients load no models"),
    Row("visible_models", "x", "use `model`"),
    *(
        Row(name, 1, _AGENTS)
        for name in (
            "use_agent",
            "autogen_stop_docker_executor",
            "autogen_run_code_in_docker",
            "autogen_max_consecutive_auto_reply",
            "autogen_max_turns",
            "autogen_timeout",
            "autogen_cache_seed",
            "autogen_code_restrictions_level",
            "autogen_silent_exchange",
            "agent_verbose",
            "agent_venv_dir",
            "agent_code_writer_system_message",
            "agent_system_site_packages",
            "agent_type",
            "agent_accuracy",
            "agent_work_dir",
            "agent_chat_history",
            "agent_files",
        )
    ),
)
PARTS = {
    "OpenAI's fields": OPENAI,
    "Sampling, keys and constraints of vLLM, transformers and h2oGPT": MORE,
    "h2oGPT's fields around a conversation": CONVERSATION,
    "h2oGPT's fields for documents and images": DOCUMENTS,
    "h2oGPT's fields that are left out": LEFT_OUT,
}
ROWS = tuple(row for rows in PARTS.values() for row in rows)


def fate(kind: type[Generation], row: Row) -> Fate:
    """What becomes of this field at this endpoint. Raises AssertionError when nothing does."""
    body = BASE[kind] | {row.name: row.value} | (row.chat if kind is ChatRequest else row.text)
    try:
        asked = kind.of(body, strict=False)
    except InvalidRequestError as refused:
        if not (refused.param or "").startswith(row.name):
            raise
        return "refused"
    if row.name in asked.ignored:
        return "ignored, named"
    without = BASE[kind] | {name: value for name, value in body.items() if name != row.name}
    assert _read(asked) != _read(kind.of(without, strict=False)), f"{row.name} is taken and does nothing"
    return "honoured"


def _read(asked: Generation) -> Any:
    """All that anybody behind the door will know of a request."""
    asks = asked.asks()
    job = asked.job(_WHO, "m", [_prompt(ask) for ask in asks], Room(1000, 1000, 0, Headers()))
    drawn = {"id", "created"} | ({"seed"} if not asked.seed else set())
    at_the_door = (asked.model, asked.h2ogpt_key, asked.wanted(), asked.asked_tools())
    return asks, {name: value for name, value in asdict(job).items() if name not in drawn}, at_the_door


def _prompt(ask: Ask) -> Read:
    return Read((1, 2, 3), None if ask.echo is None else Echo(ask.echo))


def page() -> str:
    """The whole document."""
    lines = [
        "# What becomes of each field",
        "",
        "Written by `python -m tests.common.compatibility`; a test fails when it is out of date.",
        "",
        "**honoured**: it changes what happens. **refused**: a value that is not the default is a 400 that names it.",
        "**ignored, named**: the answer's header `x-ignored-params` lists it; a 400 with `PENSTOCK_STRICT_PARAMS=1`.",
        "Names that stand nowhere here are ignored and named as well. Wrong values of honoured fields are a 400,",
        "and a top-level null means the default. The endpoints that are not here yet (Responses, embeddings)",
        "answer 404.",
    ]
    for title, rows in PARTS.items():
        lines += ["", f"## {title}", "", "| field | chat | text | |", "|---|---|---|---|"]
        lines += [
            f"| `{row.name}` | {fate(ChatRequest, row)} | {fate(CompletionRequest, row)} | {row.meaning} |"
            for row in rows
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
