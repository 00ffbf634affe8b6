"""``Body``: the base of every request's model; an unknown field is refused by its name.

A field that is null asks for nothing, whatever its name: clients send many of those.

Knows how JSON becomes a model and what a client is told of a fault in it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sensorium_server_openai.errors import HTTPError, bad_request
from sensorium_server_openai.options import Limits

#: A request's own name: it stands in answers and in the log.
RequestName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
#: A field of OpenAI's or vLLM's that is not served → values that ask for what happens anyway.
Refused = Mapping[str, tuple[Any, ...]]


class Strict(BaseModel):
    """An object without unknown fields, whose values aren't converted (integers to numbers are)."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class Body(Strict):
    """A request's body.

    Class attributes:
        refused: known fields that are not served, with their harmless values.
        instead: field → what to write in its place.
    """

    model: str | None = None

    refused: ClassVar[Refused] = {}
    instead: ClassVar[Mapping[str, str]] = {}

    def check_limits(self, limits: Limits) -> None:
        """Refuses what is more than the server allows, and fields that don't go together.

        Raises:
            HTTPError: 400, with the field's name.
        """


class RequestBody(Body):
    """What a request to the engine says of itself."""

    user: str | None = None
    priority: int | None = None
    request_id: RequestName | None = None
    cache_salt: str | None = None

    def check_limits(self, limits: Limits) -> None:
        """As ``Body.check_limits``, and the salt's form."""
        super().check_limits(limits)
        salt = self.cache_salt
        if salt is not None and (not 0 < len(salt) <= 128 or any(c in salt for c in "@/\\\0")):
            raise bad_request(
                "cache_salt must have 1 to 128 characters, none of them @, /, \\ or NUL.",
                "cache_salt",
            )


def at_most(name: str, entries: Any, allowed: int) -> None:
    """Refuses more entries than allowed."""
    if len(entries) > allowed:
        raise bad_request(f"{name} has {len(entries)} entries; this server allows {allowed}.", name)


B = TypeVar("B", bound=Body)


def parse_body(model: type[B], body: bytes) -> B:
    """The model that a body's JSON describes.

    Raises:
        HTTPError: it is no JSON, no object, or a field is unknown, not served, or wrong.
    """
    try:
        fields = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise bad_request(f"The body is no valid JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise bad_request(f"The body is a JSON {_json_type(fields)}; it must be an object.")
    for name, given in list(fields.items()):
        if name in model.model_fields and given is not None:
            continue
        harmless = model.refused.get(name, ())
        asks = not any(type(given) is type(value) and given == value for value in harmless)
        if asks and given is not None:
            raise _refusal(model, name)
        del fields[name]
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _fault(error) from None


def _refusal(model: type[Body], name: str) -> HTTPError:
    shown = repr(name[:64])
    if name in model.instead:
        return bad_request(f"{shown} is not served; {model.instead[name]}.", name[:64])
    if name in model.refused:
        return bad_request(f"{shown} is not served by this server; leave it out.", name[:64])
    near = difflib.get_close_matches(name[:64], model.model_fields, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return bad_request(f"There is no field {shown}.{hint}", name[:64])


def _fault(error: ValidationError) -> HTTPError:
    """The first fault, named by where it is."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    first = faults[0]
    # Of a union, the branch that came furthest tells most.
    top = first["loc"][:1]
    deepest = max((f for f in faults if f["loc"][:1] == top), key=lambda f: len(f["loc"]))
    place = ".".join(str(part) for part in deepest["loc"] if not _names_branch(part))
    what = deepest["msg"]
    if deepest["type"] == "extra_forbidden":
        what = "there is no such field"
    return bad_request(f"{place[:200] or 'The body'}: {what[:500]}.", place[:200] or None)


def _names_branch(part: int | str) -> bool:
    """Whether a step of a fault's place is a union's branch rather than a field or an index."""
    return isinstance(part, str) and ("[" in part or part in ("str", "int", "float", "bool"))


def _json_type(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
