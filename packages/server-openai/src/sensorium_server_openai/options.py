"""``ServerOptions``: everything about the server that is not the engine's."""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request, or all of them together, may take.

    Attributes:
        body_bytes: of one request.
        total_body_bytes: of all requests that are being read or answered.
        header_bytes: request line and headers.
        headers: their number.
        concurrent_requests: answered at once; more are turned away with 429.
        messages, parts: of one conversation; parts are counted over all its messages.
        tools: functions that one request offers.
        prompts: of one completion or embedding request.
        n: answers to one prompt.
        choices: prompts times ``n``.
        stop_strings, stop_chars: their number, and the characters of one.
        list_entries: of ``bad_words``, ``stop_token_ids`` and ``logit_bias``.
        bad_words_chars: characters of all ``bad_words`` together.
        request_s: from the first byte to the last; 0: no limit.
        header_s: within which the headers must have come.
        body_s: after which a body that comes too slowly, or an answer that the client doesn't
            read, is cut off.
        keep_alive_s: after which an idle connection is closed.
    """

    body_bytes: int = 64 * MIB
    total_body_bytes: int = 1024 * MIB
    header_bytes: int = 64 * 1024
    headers: int = 128
    concurrent_requests: int = 1024
    messages: int = 4096
    parts: int = 4096
    tools: int = 256
    prompts: int = 1024
    n: int = 128
    choices: int = 1024
    stop_strings: int = 64
    stop_chars: int = 1024
    list_entries: int = 4096
    bad_words_chars: int = 16384
    request_s: float = 900.0
    header_s: float = 10.0
    body_s: float = 60.0
    keep_alive_s: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How the application behaves.

    Attributes:
        served_model_names: what clients may call the model; the first is what answers say.
        api_keys: any of them opens every route but ``/health``, ``/ping`` and the web
            page's own files; none: open.
        cors_origins: origins whose pages may call; none: no CORS headers.
        root_path: the prefix that a proxy in front takes off.
        tool_parser: name of the parser for tool calls; None: ``tool_choice: "auto"`` is refused.
        auto_tool_choice: whether ``tool_choice: "auto"`` is served.
        trust_mm_kwargs: requests may bring ``mm_processor_kwargs`` and ``media_io_kwargs``.
        trust_chat_template: requests may bring a chat template.
        priorities: requests may bring a priority.
        prompt_tokens_details: whether ``usage`` says how many prompt tokens were cached, and how
            many stand for media.
        request_id_headers: whether the header ``X-Request-Id`` is answered.
        log_format: "text" or "json".
        web: whether there is a web page at ``/``.
        limits: what a request may take.
    """

    served_model_names: tuple[str, ...]
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors_origins: tuple[str, ...] = ()
    root_path: str = ""
    tool_parser: str | None = None
    auto_tool_choice: bool = False
    trust_mm_kwargs: bool = False
    trust_chat_template: bool = False
    priorities: bool = False
    prompt_tokens_details: bool = False
    request_id_headers: bool = True
    log_format: str = "text"
    web: bool = True
    limits: Limits = field(default_factory=Limits)
