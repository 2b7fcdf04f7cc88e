"""The OpenAPI document of the server."""

from __future__ import annotations

from typing import Any

from jaxbert import __version__
from jaxbert.serve.forms import STATUS

_TEXT = {"type": "string", "example": "A fine film."}
_ITEM = {"oneOf": [_TEXT, {"type": "array", "items": {"type": "string"}, "minItems": 1}, {"type": "object"}]}
_INPUTS = {
    "oneOf": [*_ITEM["oneOf"], {"type": "array", "items": _ITEM, "minItems": 1}],
    "description": "A text; a list of texts; a list of lists with one text or a pair each; for models of pairs also one "
    "pair; for token classification lists of words; or rows with the names of their columns.",
}
_SCHEMAS: dict[str, Any] = {
    "Asking": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "inputs": _INPUTS,
            "model": {"type": "string", "description": "The name of the model; without it the first one answers."},
            "truncate": {
                "type": "boolean",
                "default": True,
                "description": "Whether a text that is too long may lose its end.",
            },
            "raw_scores": {
                "type": "boolean",
                "default": False,
                "description": "/predict: log-probabilities in place of probabilities.",
            },
            "explain": {"type": "boolean", "default": False, "description": "/answer: add the weight of each word."},
        },
    },
    "Prediction": {
        "type": "object",
        "required": ["score", "label"],
        "properties": {"score": {"type": "number"}, "label": {"type": "string"}},
    },
    "Answer": {
        "type": "object",
        "description": "What `jaxbert predict` writes; for a text that cannot be read, `error` and `error_type`.",
    },
    "Error": {
        "type": "object",
        "required": ["error", "error_type"],
        "properties": {
            "error": {"type": "string"},
            "error_type": {"type": "string", "enum": sorted({kind for _, kind in STATUS.values()})},
        },
    },
    "Tensors": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "shape", "datatype", "data"],
                    "properties": {
                        "name": {"type": "string"},
                        "shape": {"type": "array", "items": {"type": "integer"}},
                        "datatype": {"type": "string", "enum": ["BYTES"]},
                        "data": {"type": "array", "items": {}},
                    },
                },
            },
        },
    },
}


def openapi_document() -> dict[str, Any]:
    """Return the document."""
    one = {"$ref": "#/components/schemas/Prediction"}
    several = {"type": "array", "items": one}
    predictions = {"oneOf": [several, {"type": "array", "items": several}]}
    answer = {"$ref": "#/components/schemas/Answer"}
    answers = {"oneOf": [answer, {"type": "array", "items": answer}]}
    named = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    models = "/v2/models/{name}"
    return {
        "openapi": "3.1.0",
        "info": {"title": "jaxbert", "version": __version__},
        "components": {"schemas": _SCHEMAS, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            "/predict": {"post": _post("Predict, in the form of text-embeddings-inference.", "Asking", predictions)},
            "/answer": {"post": _post("Answer, in the form of `jaxbert predict`.", "Asking", answers)},
            "/health": {"get": _get("Whether all models are ready.")},
            "/info": {"get": _get("The models and the limits.")},
            "/metrics": {"get": _get("Metrics for Prometheus.", "text/plain")},
            "/reload": {"post": _post("Open all models again; only from this machine.", None, {"type": "object"})},
            "/v2": {"get": _get("Open Inference Protocol: the server.")},
            "/v2/health/live": {"get": _get("Open Inference Protocol: whether the server runs.")},
            "/v2/health/ready": {"get": _get("Open Inference Protocol: whether all models are ready.")},
            models: {"parameters": named, "get": _get("Open Inference Protocol: inputs and outputs of a model.")},
            f"{models}/ready": {"parameters": named, "get": _get("Open Inference Protocol: whether it is ready.")},
            f"{models}/infer": {
                "parameters": named,
                "post": _post("Open Inference Protocol: answer.", "Tensors", {"type": "object"}),
            },
        },
    }


def _content(schema: Any, kind: str = "application/json") -> dict[str, Any]:
    return {kind: {"schema": schema}}


def _get(what: str, kind: str = "application/json") -> dict[str, Any]:
    schema = {"type": "object"} if kind == "application/json" else {"type": "string"}
    return {
        "summary": what,
        "responses": {"200": {"description": "OK", "content": _content(schema, kind)}} | _errors(503),
    }


def _post(what: str, request: str | None, schema: Any) -> dict[str, Any]:
    errors = _errors(400, 401, 413, 422, 429, 500, 503)
    found: dict[str, Any] = {
        "summary": what,
        "responses": {"200": {"description": "OK", "content": _content(schema)}} | errors,
    }
    if request is not None:
        found["requestBody"] = {"required": True, "content": _content({"$ref": f"#/components/schemas/{request}"})}
    return found


def _errors(*statuses: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    kinds = dict(STATUS.values())
    return {str(status): {"description": kinds[status], "content": _content(schema)} for status in statuses}
