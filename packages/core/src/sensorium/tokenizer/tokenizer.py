"""``Tokenizer``: text to token ids and back, from a checkpoint's ``tokenizer.json``.

Knows nothing of conversations' media or of requests. After loading it never changes, so any
number of threads may use it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from sensorium.errors import ConfigError, RequestError, UnsupportedError
from sensorium.tokenizer.settings import TokenizerSettings, read_settings
from sensorium.tokenizer.template import ChatTemplate
from sensorium.tokenizer.token_bytes import TokenBytes

#: Text put in front of a piece that must be encoded as a continuation, then cut off again.
_LEADS = ("\n", "\n.", ".")
#: From this length on, a text is encoded and ids are decoded by the library's calls for batches.
#: Only these let other threads run meanwhile: an event loop, above all.
_LONG = 4096
#: Arguments of transformers' ``apply_chat_template`` that shape tensors and batches.
_TENSOR_OPTIONS = (
    "return_tensors",
    "return_dict",
    "padding",
    "truncation",
    "max_length",
    "return_assistant_tokens_mask",
)


class Tokenizer:
    """A checkpoint's tokenizer.

    Attributes:
        special_ids: ids that ``skip_special_tokens`` leaves out.
        special_texts: the texts of these, longest first → their ids.
        added_ids: ids of ``added_tokens``.
        added_tokens: texts that ``encode`` recognises wherever they stand, special or not.
        control_tokens: texts of special tokens, and of all that have a name (BOS, EOS, …).
        special_tokens: "bos_token" and the like → the token's text, for chat templates.
        chat_templates: name → template; the ordinary one is "default".
    """

    def __init__(self, backend: tokenizers.Tokenizer, settings: TokenizerSettings) -> None:
        backend.no_truncation()
        backend.no_padding()
        _add_tokens(backend, settings)
        self._backend = backend
        self._plain_backend = _without_added_tokens(backend)
        self.special_tokens: Mapping[str, str] = dict(settings.named)
        self.chat_templates: Mapping[str, str] = dict(settings.templates)
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(i for i, token in added.items() if token.special)
        self.special_texts: Mapping[str, int] = {
            token.content: i
            for i, token in sorted(added.items(), key=lambda entry: -len(entry[1].content))
            if token.special and token.content
        }
        self.added_ids = frozenset(added)
        self.added_tokens = tuple(token.content for token in added.values())
        special = {token.content for token in added.values() if token.special}
        self.control_tokens = frozenset({*special, *settings.named.values()})
        self._guarded_ids = frozenset(i for i, t in added.items() if not t.content.isspace())
        self._affixes = self._find_affixes()
        self._starts_words = self.encode("\na") != self.encode("\n") + self.encode("a")
        self._lead_ids = self.encode("a")[-1:]
        self._lead_text = self.decode(self._lead_ids)
        self._texts: dict[int, str] = {}
        self._token_bytes: dict[bool, TokenBytes] = {}
        if isinstance(backend.decoder, tokenizers.decoders.ByteLevel):
            for skips, hidden in ((False, frozenset()), (True, self.special_ids)):
                self._token_bytes[skips] = TokenBytes(self.id_to_token, hidden)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Reads ``tokenizer.json`` and the files beside it.

        Raises:
            ConfigError: it is missing or broken.
        """
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ConfigError(_no_tokenizer(folder))
        try:
            backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:
            raise ConfigError(f"{folder.name}/tokenizer.json can't be read: {error}") from None
        return cls(backend, read_settings(folder))

    # --- encoding ---------------------------------------------------------------------

    def encode(
        self, text: str, *, add_special_tokens: bool = False, continues: bool = False
    ) -> list[int]:
        """Token ids of ``text``; added tokens written in it are recognised.

        Args:
            add_special_tokens: put BOS in front (and EOS behind) where the checkpoint does.
            continues: ``text`` goes on where other text ended, so that a tokenizer that
                starts every text as a new word doesn't do so here.
        """
        if continues and self._starts_words:
            return self._continue(text, self._encode)
        return _encoded(self._backend, text, add_special_tokens)

    def encode_plain(self, text: str, *, continues: bool = False) -> list[int]:
        """Token ids of ``text`` in which added tokens are the plain text they look like."""
        ids = self._plain(text, continues)
        if self._guarded_ids.isdisjoint(ids):
            return ids
        # The model itself has such a token as an ordinary piece, so the text is split.
        letters = [self._plain(letter, continues or i > 0) for i, letter in enumerate(text)]
        return [token_id for letter_ids in letters for token_id in letter_ids]

    @property
    def affixes(self) -> tuple[list[int], list[int]]:
        """The ids that ``add_special_tokens`` puts in front of a text and behind it."""
        return self._affixes

    def _encode(self, text: str) -> list[int]:
        return self.encode(text)

    def _plain(self, text: str, continues: bool) -> list[int]:
        if continues and self._starts_words:
            return self._continue(text, self._encode_plain)
        return self._encode_plain(text)

    def _encode_plain(self, text: str) -> list[int]:
        return _encoded(self._plain_backend, text, add_special_tokens=False)

    def _continue(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        for lead in _LEADS:
            lead_ids = encode(lead)
            ids = encode(lead + text)
            if ids[: len(lead_ids)] == lead_ids:
                return ids[len(lead_ids) :]
        return encode(text)

    def _find_affixes(self) -> tuple[list[int], list[int]]:
        probe = self.encode("a")
        whole = self.encode("a", add_special_tokens=True)
        for start in range(len(whole) - len(probe) + 1):
            if whole[start : start + len(probe)] == probe:
                return whole[:start], whole[start + len(probe) :]
        raise ConfigError("tokenizer.json has a post-processor that changes a text's own tokens.")

    # --- decoding and the vocabulary --------------------------------------------------

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of ``token_ids``; ids outside the vocabulary have none."""
        ids = list(token_ids)
        text: str
        if len(ids) < _LONG:
            text = self._backend.decode(ids, skip_special_tokens=skip_special_tokens)
        else:
            [text] = self._backend.decode_batch([ids], skip_special_tokens=skip_special_tokens)
        return text

    def token_text(self, token_id: int) -> str:
        """What one token adds to a text that it doesn't begin; "" if there is no such token.

        A part of a character is U+FFFD.
        """
        text = self._texts.get(token_id)
        if text is None:
            whole = self.decode([*self._lead_ids, token_id])
            begins = whole.startswith(self._lead_text)
            text = whole[len(self._lead_text) :] if begins else self.decode([token_id])
            self._texts[token_id] = text
        return text

    def token_bytes(self, *, skip_special_tokens: bool) -> TokenBytes | None:
        """The bytes of each token; None where these depend on the tokens around it."""
        return self._token_bytes.get(skip_special_tokens)

    def token_to_id(self, token: str) -> int | None:
        """The id of one token of the vocabulary, None if it isn't in it."""
        token_id: int | None = self._backend.token_to_id(token)
        return token_id

    def id_to_token(self, token_id: int) -> str | None:
        """The vocabulary's entry (not its text: "Ġa" or "▁a"), None if there is none."""
        token: str | None = self._backend.id_to_token(token_id)
        return token

    def to_json(self) -> str:
        """What ``tokenizer.json`` would say, with the tokens that other files add."""
        return str(self._backend.to_str())

    @cached_property
    def vocab_size(self) -> int:
        """How many ids there are, added tokens included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def max_token_id(self) -> int:
        """The largest id there is, added tokens included; -1 if there is none."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text, None if the checkpoint names none."""
        return self._named_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text, None if the checkpoint names none."""
        return self._named_id("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        """The token that pads batches, None if the checkpoint names none."""
        return self._named_id("pad_token")

    def _named_id(self, name: str) -> int | None:
        text = self.special_tokens.get(name)
        return None if text is None else self.token_to_id(text)

    # --- conversations of text, for callers who hold a tokenizer ----------------------

    @property
    def chat_template(self) -> str | None:
        """The tokenizer's own template, None if it has none."""
        return self.chat_templates.get("default")

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        **template_variables: Any,
    ) -> str | list[int]:
        """Renders a conversation as transformers' method of this name does.

        Special tokens written in the messages are recognised here: this is for callers who
        build prompts themselves. ``LLM.chat`` takes them as plain text.

        Raises:
            RequestError: there is no template, or it fails on the conversation.
            UnsupportedError: an option that makes tensors or batches.
        """
        for name in _TENSOR_OPTIONS:
            if name in template_variables:
                raise UnsupportedError(f"apply_chat_template doesn't have {name} here.")
        source = chat_template or self.chat_template
        if source is None:
            raise RequestError("This tokenizer has no chat template; pass chat_template=….")
        template = ChatTemplate(
            source,
            self.special_tokens,
            None if chat_template else self.chat_templates.get("tool_use"),
        )
        text = template.render(
            conversation,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            tools=tools,
            **template_variables,
        )
        return self.encode(text) if tokenize else text


def _without_added_tokens(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same model and steps, without the search for added tokens."""
    plain = tokenizers.Tokenizer(backend.model)
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    if backend.pre_tokenizer is not None:
        plain.pre_tokenizer = backend.pre_tokenizer
    return plain


def _encoded(backend: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    if len(text) < _LONG:
        found = backend.encode(text, add_special_tokens=add_special_tokens)
    else:
        [found] = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    ids: list[int] = found.ids
    return ids


def _add_tokens(backend: tokenizers.Tokenizer, settings: TokenizerSettings) -> None:
    if settings.listed:
        backend.add_tokens(list(settings.listed))
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    missing = [token for token in settings.implied if token.content not in known]
    if missing:
        backend.add_tokens(missing)


def _no_tokenizer(folder: Path) -> str:
    name = folder.name
    found = next((f.name for f in sorted(folder.glob("*.model"))), None)
    if found is None:
        return f"{name} has no tokenizer.json; pass tokenizer=FOLDER_OR_NAME of one that has."
    return (
        f"{name} has {found} but no tokenizer.json, the only form that is read. Make one with "
        "transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER), or pass "
        "tokenizer=FOLDER_OR_NAME of one that has it."
    )
