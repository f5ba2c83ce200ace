"""Fields that no request model holds: what becomes of each.

Default values are taken, because they change nothing. Other values of a field whose feature comes later, or never
comes, are refused by name; names that we do not know, and h2oGPT's that we leave out, are ignored and told.
"""

from typing import Any

from common.errors import InvalidRequestError

# Field -> the values that mean what we do anyway.
LATER: dict[str, tuple[Any, ...]] = {
    # h2oGPT's, for documents
    "all_docs_finish_prompt": ("",),
    "all_docs_start_prompt": ("",),
    "chunk": (True,),
    "chunk_size": (512,),
    "docs_joiner": ("\n\n",),
    "docs_ordering_type": ("best_near_prompt",),
    "docs_token_handling": ("split_or_merge",),
    "document_choice": ("All", ["All"]),
    "document_content_substrings": ([],),
    "document_content_substrings_op": ("and",),
    "document_source_substrings": ([],),
    "document_source_substrings_op": ("and",),
    "document_subset": ("Relevant",),
    "hyde_level": (0,),
    "hyde_llm_prompt": ("",),
    "hyde_show_only_final": (False,),
    "hyde_template": ("auto",),
    "langchain_action": ("Query",),
    "langchain_mode": ("LLM", "Disabled"),
    "max_total_input_tokens": (-1,),
    "metadata_in_context": ("auto",),
    "min_max_new_tokens": (512,),
    "pre_prompt_query": ("",),
    "pre_prompt_summary": ("",),
    "prompt_query": ("",),
    "prompt_summary": ("",),
    "text_context_list": ([],),
    "top_k_docs": (10,),
    "use_llm_if_no_docs": (False,),
    # h2oGPT's, for images
    "image_file": ("", []),
    "image_format": ("",),
    "image_resolution": (),
    "images_num_max": (),
}

# They would change the answer, and are not ours to give.
NEVER: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "function_call": (),
    "functions": (),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True,),
    "prediction": (),
    "reasoning_effort": ("none",),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}


def is_default(name: str, value: Any) -> bool:
    """Whether this field, which no model holds, asks for what happens anyway. Raises InvalidRequestError."""
    for fate, when in ((LATER, "yet"), (NEVER, "here")):
        if name in fate:
            if any(_is_same(value, default) for default in fate[name]):
                return True
            raise InvalidRequestError(f"{name} is not supported {when}.", param=name, code="unsupported_parameter")
    return False


def _is_same(value: Any, default: Any) -> bool:
    """Equal, and true is not 1."""
    return value == default and isinstance(value, bool) == isinstance(default, bool)
