"""The flags of ``sensorium serve``, by topic; each is also a key of ``--config`` and a variable.

A flag's value comes from the command line, else from ``SENSORIUM_SERVE_<NAME>``, else from the
configuration file, else it is the engine's or the server's own default.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sensorium import ConfigError

Read = Callable[[str], Any]
#: What the variables that set flags begin with.
VARIABLES = "SENSORIUM_SERVE_"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag.

    Attributes:
        name: without the dashes.
        help: for ``--help``.
        read: text → value; None: a switch, true by being there.
        goes_to: "engine" (an option of ``EngineConfig``), "server" (a field of
            ``ServerOptions``), "limits", or "run" (how the server runs).
        field: its name there; "": the flag's own.
        repeats: whether it may be given several times, or with several values.
        may_be_bare: whether it may also be given without a value, for all there are.
        metavar: for ``--help``.
    """

    name: str
    help: str
    read: Read | None = None
    goes_to: str = "engine"
    field: str = ""
    repeats: bool = False
    may_be_bare: bool = False
    metavar: str = ""

    @property
    def target(self) -> str:
        """The field that it sets."""
        return self.field or self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return VARIABLES + self.name.upper().replace("-", "_")

    @property
    def shown_value(self) -> str:
        """What ``--help`` writes in place of its value."""
        by_type: dict[Read, str] = {json_object: "JSON", _mib: "MB"}
        by_type |= dict.fromkeys(_NUMBERS, "N")
        assert self.read is not None
        return self.metavar or by_type.get(self.read, self.name.split("-")[-1].upper())

    def from_text(self, text: str) -> Any:
        """One value as it is written on the command line.

        Raises:
            ConfigError: it can't be read.
        """
        try:
            if self.read is None:
                return _truth(text)
            return self.read(text)
        except ValueError as error:
            raise ConfigError(f"--{self.name} is {text!r}: {error}.") from None

    def from_variable(self, text: str) -> Any:
        """A variable's value; several are divided by commas.

        Raises:
            ConfigError: it can't be read.
        """
        if self.may_be_bare and text.lower() in ("1", "true"):
            return True
        try:
            if self.repeats:
                return [self.from_text(part) for part in text.split(",") if part]
            return self.from_text(text)
        except ConfigError as error:
            raise ConfigError(f"{self.variable}: {error}") from None

    def from_config(self, value: Any) -> Any:
        """A value of the configuration file.

        Raises:
            ConfigError: there is none, or it has the wrong type.
        """
        entries = value if isinstance(value, list) else [value]
        if any(entry is None for entry in entries):
            raise ConfigError(f"{self.name} has no value in the file.")
        if self.read is None:
            if isinstance(value, bool):
                return value
            raise ConfigError(f"{self.name} is {value!r} in the file; it must be true or false.")
        if self.may_be_bare and isinstance(value, bool):
            return value
        if self.repeats:
            return [self.from_text(str(entry)) for entry in entries]
        if isinstance(value, dict) and self.read is json_object:
            return value
        if isinstance(value, (dict, list)):
            allowed = "a JSON object" if self.read is json_object else "one value"
            raise ConfigError(f"{self.name} is {value!r} in the file; it must be {allowed}.")
        return self.from_text(str(value))


def json_object(text: str) -> Any:
    """A JSON object."""
    try:
        value = json.loads(text)
    except ValueError:
        raise ValueError("it must be a JSON object") from None
    if not isinstance(value, dict):
        raise ValueError("it must be a JSON object")
    return value


def length(text: str) -> int:
    """A number of tokens: 4096, 4k (thousands) or 4K (1024s)."""
    factors = {"k": 1000, "K": 1024, "m": 10**6, "M": 2**20}
    factor = factors.get(text[-1:], 1)
    try:
        return int(number(text[:-1]) * factor) if factor > 1 else int(text)
    except ValueError:
        raise ValueError("it must be a number of tokens like 4096, 4k or 4K") from None


def integer(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise ValueError("it must be a whole number") from None


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("it must be a number")
    return value


def _port(text: str) -> int:
    value = integer(text)
    if not 0 <= value < 2**16:
        raise ValueError("it must be 0 to 65535")
    return value


def _seconds(text: str) -> float:
    value = number(text)
    if value < 0:
        raise ValueError("it must be at least 0")
    return value


def _certificates(text: str) -> int:
    value = integer(text)
    if value not in (0, 1, 2):
        raise ValueError("it must be 0, 1 or 2")
    return value


def _mib(text: str) -> int:
    return int(number(text) * 2**20)


_NUMBERS = (integer, number, length, _port, _seconds, _certificates)


def _truth(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("it must be true or false")


def _server(name: str, text: str, read: Read | None = None, field: str = "", **more: Any) -> Flag:
    return Flag(name, text, read, "server", field, **more)


def _limit(name: str, text: str, read: Read, field: str = "") -> Flag:
    return Flag(name, text, read, "limits", field)


def _run(name: str, text: str, read: Read | None = None, **more: Any) -> Flag:
    return Flag(name, text, read, "run", **more)


#: Heading → flags, in the order of ``--help``.
FLAGS: Mapping[str, tuple[Flag, ...]] = {
    "Address": (
        _run("host", "address to listen on (default: 127.0.0.1)", str),
        _run("port", "port to listen on (default: 8000; 0: any free one)", _port),
        _server("root-path", "prefix that a proxy in front takes off", str),
        _run("ssl-keyfile", "TLS: private key (PEM)", str, metavar="FILE"),
        _run("ssl-certfile", "TLS: certificate (PEM)", str, metavar="FILE"),
        _run("ssl-ca-certs", "TLS: authorities that clients' certificates must have", str,
             metavar="FILE"),
        _run("ssl-cert-reqs", "TLS: 0 no client certificate, 1 optional, 2 required (default: 0)",
             _certificates),
    ),
    "Who may call": (
        _server("api-key", "a key that clients must send; several are allowed; it opens every "
                "route but /health, /ping and the web page's files (also: SENSORIUM_API_KEY)", str,
                "api_keys", repeats=True, metavar="KEY"),
        _server("cors", "origins whose pages may call, or *", str, "cors_origins", repeats=True,
                metavar="ORIGIN"),
        _server("web", "a page at / to try the model in a browser (default: yes)"),
        _server("trust-request-mm-kwargs", "requests may bring mm_processor_kwargs and "
                "media_io_kwargs", None, "trust_mm_kwargs"),
        _server("trust-request-chat-template", "requests may bring a chat template", None,
                "trust_chat_template"),
        Flag("scheduling-policy", "fcfs, or priority: requests may bring one (default: fcfs)",
             str, "run"),
    ),
    "Model": (
        _server("served-model-name", "what clients call the model; several are allowed "
                "(default: MODEL)", str, "served_model_names", repeats=True, metavar="NAME"),
        Flag("tokenizer", "folder or hub name of the tokenizer", str),
        Flag("revision", "branch, tag or commit on the hub", str),
        Flag("download-dir", "where the hub's files are kept", str, metavar="FOLDER"),
        Flag("hf-overrides", "laid over config.json (JSON)", json_object),
        Flag("generation-config", "auto: defaults of sampling from the checkpoint; sensorium: "
             "neutral ones; or the folder of another generation_config.json (default: auto)", str),
        Flag("runner", "generate, pooling or auto", str),
        Flag("task", "generate, embed or auto", str),
        Flag("trust-remote-code", "accepted; no remote code is ever run, and none is needed"),
        Flag("dtype", "auto, float16, bfloat16 or float32", str),
        Flag("load-format", "auto, safetensors or dummy", str),
        Flag("max-model-len", "context in tokens, also as 8k or 8K", length),
        Flag("max-logprobs", "log-probabilities at one place at most; -1: of the whole vocabulary "
             "(default: 20)", integer),
        Flag("seed", "of sampling without a seed of its own", integer),
    ),
    "Chats": (
        Flag("chat-template", "a name, a path or a template", str),
        Flag("chat-template-content-format", "auto, openai or string", str),
        Flag("interleave-mm-strings", "chat text may carry placeholders by hand"),
        _server("enable-auto-tool-choice", "serve tool_choice: auto", None, "auto_tool_choice"),
        _server("tool-call-parser", "how the model writes calls: hermes, llama3_json, pythonic, "
                "or one of a plugin", str, "tool_parser"),
        _server("enable-prompt-tokens-details", "say in usage how many prompt tokens were cached, "
                "and how many stand for media", None, "prompt_tokens_details"),
    ),
    "Media": (
        Flag("limit-mm-per-prompt", "kind → items in one prompt (JSON)", json_object),
        Flag("media-io-kwargs", "kind → how its media are read (JSON)", json_object),
        Flag("mm-processor-kwargs", "laid over the checkpoint's processor options (JSON)",
             json_object),
        Flag("mm-processor-cache-gb", "processed media kept in memory (GiB)", number),
        Flag("mm-encoder-cache-gb", "embeddings kept on the device (GiB)", number),
        Flag("max-encode-pieces-per-step", "items, and pieces of divided ones, encoded in one "
             "step while others decode (default: 8)", integer),
        Flag("media-memory-gb", "memory for media of requests in progress (GiB)", number),
        Flag("media-threads", "threads that prepare media", integer),
        Flag("allowed-local-media-path", "folder whose files may be named by file: URLs", str,
             metavar="FOLDER"),
        Flag("allowed-media-domains", "hosts that media may come from, *.example.org too", str,
             repeats=True, metavar="HOST"),
        Flag("allow-private-media-hosts", "media may come from private addresses; with values: "
             "from these hosts and networks alone", str, repeats=True, may_be_bare=True,
             metavar="HOST"),
        Flag("media-url-use-proxies", "fetch through the proxies that the environment names"),
        Flag("media-url-allow-redirects", "follow redirects of media (default: yes)"),
    ),
    "Memory and scheduling": (
        Flag("device", "auto, cpu, cuda or cuda:N", str),
        Flag("gpu-memory-utilization", "fraction of the accelerator's memory", number),
        Flag("kv-cache-memory-bytes", "size of the KV cache", integer),
        Flag("page-size", "tokens of one KV page", integer),
        Flag("enforce-eager", "never capture device graphs"),
        Flag("tensor-parallel-size", "accelerators of one host", integer),
        Flag("max-num-seqs", "sequences running at once", integer),
        Flag("max-num-batched-tokens", "tokens computed in one step", integer),
        Flag("max-queued-requests", "requests that may wait beside those that run "
             "(default: 1024)", integer),
        Flag("enable-prefix-caching", "keep prompts' pages"),
        Flag("enable-chunked-prefill", "prefill in chunks"),
        Flag("structured-outputs-forcing", "tokens that a grammar leaves no choice of are taken "
             "at once"),
        Flag("disabled-plugins", "distributions whose plugins are left out", str, repeats=True),
        Flag("plugin-options", "distribution → options of its plugin (JSON)", json_object),
        Flag("plugin-choices", "claim → the distribution that serves it where two do (JSON)",
             json_object),
    ),
    "Limits of requests": (
        _limit("max-request-body-mb", "body of one request (default: 64)", _mib, "body_bytes"),
        _limit("max-total-body-mb", "bodies of all requests in progress (default: 1024)", _mib,
               "total_body_bytes"),
        _limit("max-header-bytes", "request line and headers (default: 65536)", integer,
               "header_bytes"),
        _limit("max-headers", "number of headers (default: 128)", integer, "headers"),
        _limit("max-concurrent-requests", "requests answered at once (default: 1024)", integer,
               "concurrent_requests"),
        _limit("max-messages", "messages of a conversation (default: 4096)", integer, "messages"),
        _limit("max-parts", "parts of all its messages (default: 4096)", integer, "parts"),
        _limit("max-tools", "functions offered (default: 256)", integer, "tools"),
        _limit("max-prompts", "prompts of one request (default: 1024)", integer, "prompts"),
        _limit("max-n", "answers to one prompt (default: 128)", integer, "n"),
        _limit("max-choices", "prompts times n (default: 1024)", integer, "choices"),
        _limit("max-stop-strings", "stop strings (default: 64)", integer, "stop_strings"),
        _limit("request-timeout", "seconds from a request's beginning to its end (default: 900; "
               "0: no limit)", number, "request_s"),
        _limit("header-timeout", "seconds for the headers (default: 10)", number, "header_s"),
        _limit("body-timeout", "seconds after which a body that comes too slowly, or an answer "
               "that isn't read, is cut off (default: 60)", number, "body_s"),
        _limit("keep-alive-timeout", "seconds that an idle connection is kept (default: 15)",
               number, "keep_alive_s"),
    ),
    "Life and log": (
        _run("shutdown-timeout", "seconds that running requests get after SIGTERM (default: 30)",
             _seconds),
        _server("log-format", "text or json (default: text)", str),
        _run("otlp-traces-endpoint", "URL of an OpenTelemetry collector that gets each request's "
             "spans, such as http://localhost:4318/v1/traces (needs the extra otel)", str,
             metavar="URL"),
        _run("banner", "print what runs where when it starts (default: yes)"),
    ),
}  # fmt: skip

#: Flags of vLLM's that aren't here → what to use.
OTHERS: Mapping[str, str] = {
    "tokenizer-mode": "the checkpoint's tokenizer.json is read; pass --tokenizer FOLDER",
    "model": "write it without a flag, behind serve",
    "rope-scaling": "pass --hf-overrides",
    "rope-theta": "pass --hf-overrides",
    "swap-space": "preempted requests are computed again; nothing is swapped",
    "cpu-offload-gb": "weights stay on the device; pass a smaller --dtype or model",
    "quantization": "checkpoints are served in --dtype",
    "kv-cache-dtype": "the KV cache has the model's --dtype",
    "block-size": "pass --page-size",
    "limit-mm-per-prompt-json": "pass --limit-mm-per-prompt",
    "pipeline-parallel-size": "one accelerator serves a model",
    "data-parallel-size": "start several servers behind a proxy",
    "enable-lora": "adapters aren't served",
    "reasoning-parser": "reasoning stays in the text of the answer",
    "guided-decoding-backend": "there is one backend, and it needs no flag",
    "disable-log-requests": "requests' contents are never logged",
    "disable-log-stats": "figures are at /metrics",
    "disable-mm-preprocessor-cache": "pass --mm-processor-cache-gb 0",
    "uvicorn-log-level": "set SENSORIUM_LOG_LEVEL",
    "allowed-origins": "pass --cors",
    "max-num-partial-prefills": "pass --max-num-batched-tokens",
    "mm-processor-cache-type": "the cache lies in the server's memory",
    "chat-template-kwargs": "send chat_template_kwargs with the request",
    "h11-max-incomplete-event-size": "pass --max-header-bytes",
    "h11-max-header-count": "pass --max-headers",
    "enable-request-id-headers": "X-Request-Id is always answered",
    "enable-server-load-tracking": "the figures are at /metrics",
    "response-role": "answers have the role assistant",
    "api-server-count": "start several servers behind a proxy",
    "speculative-config": "speculation isn't built",
    "config-format": "checkpoints have config.json",
    "code-revision": "no remote code is ever run",
    "max-seq-len-to-capture": "pass --enforce-eager to capture nothing",
    "tp": "pass --tensor-parallel-size",
    "pp": "one accelerator serves a model",
    "dp": "start several servers behind a proxy",
    "q": "checkpoints are served in --dtype",
    "compilation-config": "pass --enforce-eager to capture nothing",
    "enable-mm-embeds": "embeddings are always taken, and checked before they are used",
    "skip-mm-profiling": "memory for items is kept for what --limit-mm-per-prompt allows",
    "language-model-only": "pass --limit-mm-per-prompt with 0 for each kind",
    "override-generation-config": "pass --generation-config with a folder of your own",
    "tokenizer-revision": "pass --tokenizer with the folder of that revision",
    "hf-token": "set HF_TOKEN",
    "model-impl": "there is one implementation of a model",
    "stream-interval": "tokens are sent as they come",
    "async-scheduling": "a step is always planned while another runs",
    "distributed-executor-backend": "one accelerator serves a model",
    "enable-expert-parallel": "one accelerator serves a model",
    "decode-context-parallel-size": "one accelerator serves a model",
    "kv-transfer-config": "a KV cache is one server's",
    "lora-modules": "adapters aren't served",
    "logits-processors": "requests have logit_bias, bad_words and structured_outputs",
    "enable-log-requests": "requests' contents are never logged",
    "disable-uvicorn-access-log": "set SENSORIUM_LOG_LEVEL",
    "disable-fastapi-docs": "there are no such pages; /openapi.json describes the routes",
    "allow-credentials": "pass --cors; keys are no credentials of a browser's",
    "allowed-methods": "pass --cors, which allows those that the routes have",
    "allowed-headers": "pass --cors, which allows those that the routes read",
    "middleware": "put a proxy in front, and pass --root-path",
    "uds": "pass --host and --port",
    "return-tokens-as-token-ids": "send return_tokens_as_token_ids with the request",
    "enable-force-include-usage": "send stream_options with the request",
    "enable-tokenizer-info-endpoint": "the tokenizer is asked at /tokenize and /detokenize",
}

ALL: Mapping[str, Flag] = {flag.name: flag for flags in FLAGS.values() for flag in flags}
