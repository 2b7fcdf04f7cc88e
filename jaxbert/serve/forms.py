"""The forms of requests and answers: those of text-embeddings-inference, `predict`'s own, and the Open Inference Protocol.

Nothing here knows of HTTP or computes: a body is bytes, an answer is a value for JSON. A mistake is a `RefusedError`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxbert.options import ServeOptions

STATUS = {
    "syntax": (400, "validation"),
    "key": (401, "validation"),
    "origin": (403, "validation"),
    "unknown": (404, "validation"),
    "method": (405, "validation"),
    "slow": (408, "validation"),
    "too_large": (413, "validation"),
    "form": (422, "validation"),
    "text": (422, "tokenizer"),
    "overloaded": (429, "overloaded"),
    "gone": (499, "validation"),
    "backend": (500, "backend"),
    "unhealthy": (503, "unhealthy"),
}
"""For each kind of refusal the HTTP status and the `error_type` of text-embeddings-inference."""
_FORMS = 'a text, a list of texts, or a list of lists with one text or a pair of texts each: {"inputs": "A fine film."}'


class RefusedError(Exception):
    """A request, or one text of it, that is not answered."""

    def __init__(self, message: str, kind: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        """A key of `STATUS`."""
        self.retry_after = retry_after
        """Seconds after which to ask again; None if that would not help."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.kind][0]

    def to_dict(self) -> dict[str, Any]:
        """Return the body of the answer."""
        return {"error": str(self), "error_type": STATUS[self.kind][1]}


@dataclass(frozen=True)
class Asking:
    """What a request asks for."""

    items: list[Any]
    """Texts, pairs, lists of words, or rows; those that are none of these are left out."""
    many: bool = True
    """Whether the answer is a list, also for one text."""
    mistakes: dict[int, RefusedError] = field(default_factory=dict)
    """The items that are no texts, by their place."""
    model: str | None = None
    """The name of the model; None for the first one."""
    truncate: bool = True
    raw: bool = False
    """Whether log-probabilities are wanted in place of probabilities."""
    explain: bool = False

    def __len__(self) -> int:
        return len(self.items) + len(self.mistakes)

    @property
    def method(self) -> str:
        """The name of its kind in the metrics: `single` or `batch`."""
        return "batch" if self.many else "single"

    def placed(self, answers: Sequence[Any], mistakes: Mapping[int, RefusedError]) -> list[Any]:
        """Return the answers with each mistake at the place of its text.

        Args:
          answers: the answers of the texts that were computed.
          mistakes: the mistakes among `items`, by their place in `items`.

        Raises:
          RefusedError: if no text was computed.
        """
        if not answers:
            raise next(iter({**self.mistakes, **mistakes}.values()))
        found = iter(answers)
        of_items = iter([mistakes[i].to_dict() if i in mistakes else next(found) for i in range(len(self.items))])
        return [self.mistakes[i].to_dict() if i in self.mistakes else next(of_items) for i in range(len(self))]


def to_bytes(value: Any) -> bytes:
    """Return a value as JSON in UTF-8, spelled as `predict` writes it; a lone surrogate of a text is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False).encode()


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body.

    Raises:
      RefusedError: if it is none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"the body is no JSON: {error}"[:200], "syntax") from error
    if not isinstance(value, dict):
        raise RefusedError(f"the body must be an object, inputs: {_FORMS}", "form")
    return value


def parse_asking(body: dict[str, Any], options: ServeOptions, *, pairs: bool, words: bool) -> Asking:
    """Return what a request of text-embeddings-inference's form, or of `predict`'s, asks for.

    Args:
      body: the JSON object.
      options: the limits.
      pairs: whether the model reads pairs; a list of two texts is then one pair, as text-embeddings-inference reads it.
      words: whether the model reads lists of words.

    Raises:
      RefusedError: if a key is missing or has a value of another type, or there are too many texts.
    """
    inputs = body.get("inputs")
    flags = {name: _flag(body, name, default) for name, default in (("truncate", True), ("explain", False))}
    more = {"model": _name(body), "raw": _flag(body, "raw_scores", False), **flags}
    if isinstance(inputs, str | dict) or (pairs and _is_pair(inputs)):
        return _checked([inputs], options, pairs, words, many=False, **more)
    if not isinstance(inputs, list) or not inputs:
        raise RefusedError(f"inputs is {'empty' if inputs == [] else 'missing or wrong'}: give {_FORMS}", "form")
    return _checked(inputs, options, pairs, words, many=True, **more)


def _checked(inputs: list[Any], options: ServeOptions, pairs: bool, words: bool, *, many: bool, **more: Any) -> Asking:
    """Divide inputs into items and mistakes."""
    if len(inputs) > options.max_texts:
        raise RefusedError(f"inputs: {len(inputs)} texts, but at most {options.max_texts} a request", "too_large")
    items, mistakes = list[Any](), dict[int, RefusedError]()
    for place, value in enumerate(inputs):
        try:
            items.append(_item(value, options.max_characters, pairs, words))
        except RefusedError as error:
            mistakes[place] = error
    return Asking(items, many, mistakes, **more)


def _item(value: Any, most: int, pairs: bool, words: bool) -> Any:
    """Return one item: a text, a pair, a list of words or a row."""
    if isinstance(value, list):
        if not value or not all(isinstance(part, str) for part in value):
            raise RefusedError("this input is a list, but not of texts", "text")
        if not words:
            if len(value) == 1:
                value = value[0]
            elif len(value) != 2 or not pairs:
                reads = "pairs of texts" if pairs else "single texts"
                raise RefusedError(f"this input has {len(value)} texts, but the model reads {reads}", "text")
    elif not isinstance(value, str | dict):
        raise RefusedError(f"this input is not a text but {json.dumps(value)[:50]}", "text")
    parts = [value] if isinstance(value, str) else value if isinstance(value, list) else [to_text(value)]
    if (size := sum(map(len, parts))) > most:
        raise RefusedError(f"this input has {size} characters, but at most {most} are read", "too_large")
    return value


def to_text(value: Any) -> str:
    """Return a value as JSON, for its length."""
    return json.dumps(value, ensure_ascii=False)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)


def _flag(body: dict[str, Any], name: str, default: bool) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RefusedError(f"{name} must be true or false", "form")
    return value


def _name(body: dict[str, Any]) -> str | None:
    value = body.get("model")
    if value is not None and not isinstance(value, str):
        raise RefusedError("model must be the name of a model", "form")
    return value


def to_predictions(answer: dict[str, Any], raw: Sequence[float] | None, names: Sequence[str]) -> Any:
    """Return an answer in text-embeddings-inference's form: `[{"score", "label"}, ...]`, the best label first.

    The answer of a task without probabilities of labels is returned as it is; a score alone has the label `score`.
    """
    if "error" in answer:
        return answer
    if raw is not None and len(raw) == len(names):
        scores: Mapping[str, float] = dict(zip(names, raw, strict=True))
    elif isinstance(answer.get("probabilities"), dict):
        scores = answer["probabilities"]
    elif answer.keys() == {"score"}:
        scores = {"score": answer["score"]}
    else:
        return answer
    ordered = sorted(scores.items(), key=lambda entry: -entry[1])
    return [{"score": float(score), "label": label} for label, score in ordered]


def parse_tensors(body: dict[str, Any], options: ServeOptions, *, pairs: bool, words: bool) -> Asking:
    """Return what a request of the Open Inference Protocol asks for.

    Its inputs are tensors of BYTES: one with texts, for pairs two or one of shape [n, 2]; or one named `json` with a row as
    JSON in each element.

    Raises:
      RefusedError: if there are other inputs, or too many texts.
    """
    tensors = body.get("inputs")
    if not isinstance(tensors, list) or not 1 <= len(tensors) <= 2 or not all(isinstance(t, dict) for t in tensors):
        raise RefusedError('inputs must be one or two tensors: [{"name", "shape", "datatype", "data"}]', "form")
    columns = [_strings(tensor) for tensor in tensors]
    if len(columns) == 2:
        if len(columns[0]) != len(columns[1]):
            raise RefusedError("the two inputs have different lengths", "form")
        inputs: list[Any] = [list(pair) for pair in zip(*columns, strict=True)]
    elif tensors[0].get("name") == "json":
        inputs = [parse_object(text.encode("utf-8", "surrogatepass")) for text in columns[0]]
    elif pairs and tensors[0].get("shape", [])[1:] == [2]:
        inputs = [list(pair) for pair in zip(columns[0][::2], columns[0][1::2], strict=True)]
    elif math.prod(wide := tensors[0].get("shape", [])[1:]) > 1:
        fits = "pairs of texts: [n, 2]" if pairs else "single texts: [n] or [n, 1]"
        raise RefusedError(f"the shape is [n, {', '.join(map(str, wide))}], but the model reads {fits}", "form")
    else:
        inputs = list(columns[0])
    if not inputs:
        raise RefusedError("inputs has no texts", "form")
    asking = _checked(inputs, options, pairs, words, many=True)
    if asking.mistakes:
        raise next(iter(asking.mistakes.values()))
    return asking


def _strings(tensor: dict[str, Any]) -> list[str]:
    """Return the texts of a tensor in row-major order."""
    if tensor.get("datatype") != "BYTES" or not isinstance(tensor.get("shape", []), list):
        raise RefusedError(f"the datatype is {tensor.get('datatype')!r:.30}, but texts are BYTES", "form")
    flat, left = list[str](), [tensor.get("data")]
    if not isinstance(left[0], list):
        raise RefusedError("data must be a list of texts", "form")
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += reversed(value)
        elif isinstance(value, str):
            flat.append(value)
        else:
            raise RefusedError("data must be a list of texts", "form")
    shape = tensor.get("shape", [len(flat)])
    if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) != len(flat):
        raise RefusedError(f"the shape is {json.dumps(shape):.50}, but data has {len(flat)} texts", "form")
    return flat


def kinds_of(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Return the names and types of the tensors that `to_tensors` makes of answers with these keys."""
    return [(name, kind) for name, kind in (("label", "BYTES"), ("score", "FP32")) if name in keys] + [
        ("answer", "BYTES")
    ]


def to_tensors(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return answers as tensors: `answer` (JSON), and `label` and `score` where all answers have them."""

    def tensor(name: str, datatype: str, data: list[Any]) -> dict[str, Any]:
        return {"name": name, "shape": [len(data)], "datatype": datatype, "data": data}

    tensors = [tensor("answer", "BYTES", [to_bytes(answer).decode() for answer in answers])]
    labels, scores = ([answer.get(name) for answer in answers] for name in ("label", "score"))
    if all(isinstance(label, str) for label in labels):
        tensors.insert(0, tensor("label", "BYTES", labels))
    if all(isinstance(score, float) for score in scores):
        tensors.insert(len(tensors) - 1, tensor("score", "FP32", scores))
    return tensors
