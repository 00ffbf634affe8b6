"""Bodies drawn from the application's own OpenAPI: an answer or a refusal, never a failure of ours.

Each body is what the description allows, with some places changed to anything JSON has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_engine import ScriptedEngine
from served import Served, served

from sensorium_server_openai import ServerOptions, build_app

APP = build_app(ScriptedEngine(), ServerOptions(served_model_names=("tiny-vl",)))
SPEC: dict[str, Any] = APP.openapi()
SCHEMAS: Mapping[str, Any] = SPEC["components"]["schemas"]
PATHS = {
    path: methods["post"]["requestBody"]["content"]["application/json"]["schema"]
    for path, methods in SPEC["paths"].items()
    if "requestBody" in methods.get("post", {})
}
NAMES = st.text(max_size=8)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(width=32)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
STATUSES = {200, 400, 404, 413, 429}


def of_schema(schema: Mapping[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that a schema of ours allows, shallow."""
    if "$ref" in schema:
        return of_schema(SCHEMAS[schema["$ref"].rsplit("/", 1)[1]], depth)
    if "anyOf" in schema:
        return st.one_of([of_schema(branch, depth) for branch in schema["anyOf"]])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    kind = schema.get("type")
    if kind == "object":
        return _objects(schema, depth)
    if kind == "array":
        return st.lists(of_schema(schema.get("items", {}), depth + 1), max_size=2)
    simple: dict[Any, st.SearchStrategy[Any]] = {
        "string": st.sampled_from(["Hi", "", "a" * 300, "<|im_end|>", "\0", "\ud800é"[1:]]),
        "integer": st.integers(-3, 6),
        "number": st.floats(-3, 3),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return simple.get(kind, ANYTHING)


def _objects(schema: Mapping[str, Any], depth: int) -> st.SearchStrategy[Any]:
    fields = schema.get("properties")
    if fields is None or depth > 4:
        return st.dictionaries(st.sampled_from(["type", "text", "x"]), ANYTHING, max_size=2)
    needed = set(schema.get("required", ()))
    drawn = {name: of_schema(found, depth + 1) for name, found in fields.items()}
    return st.fixed_dictionaries(
        {name: drawn[name] for name in drawn if name in needed},
        optional={name: drawn[name] for name in drawn if name not in needed},
    )


@st.composite
def bodies(draw: st.DrawFn, path: str) -> Any:
    """A body; a few of its fields are left, some are changed."""
    body: dict[str, Any] = draw(of_schema(PATHS[path]))
    required = set(SCHEMAS[PATHS[path]["$ref"].rsplit("/", 1)[1]].get("required", ()))
    kept = set(draw(st.lists(st.sampled_from(sorted(body) or ["x"]), max_size=5))) | required
    body = {name: value for name, value in body.items() if name in kept}
    if draw(st.booleans()):
        body[draw(st.sampled_from([*sorted(body), "x"]))] = draw(ANYTHING)
    body.pop("model", None)
    return body


def check(server: Served, path: str, body: Any) -> None:
    response = server.post(path, json.dumps(body, allow_nan=True).encode())
    assert response.status_code in STATUSES, (response.status_code, response.text)
    if response.status_code != 200:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == response.status_code
        assert len(error["message"]) < 2000
        assert "Traceback" not in error["message"]


def test_every_route_is_described() -> None:
    assert set(PATHS) == {
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings"),
        *("/tokenize", "/detokenize"),
    }


@pytest.mark.parametrize("path", PATHS)
def test_no_body_makes_the_server_fail(path: str, plain: Served, embedder: Served) -> None:
    server = embedder if path == "/v1/embeddings" else plain

    @settings(
        max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(bodies(path))
    def run(body: Any) -> None:
        check(server, path, body)

    run()


@pytest.fixture(scope="module")
def embedder() -> Any:
    with served(ScriptedEngine(task="embed")) as server:
        yield server
