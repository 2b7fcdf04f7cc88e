"""JSON that people can read."""

from __future__ import annotations

import json

from jaxbert.plain import to_json

CONTENT = {
    "accuracy": 0.5,
    "per_class": {"käse": {"f1": 0.5, "support": 3}, 'a "b"': {"f1": 0.0, "support": 0}},
    "sets": {"en": {"f1": 0.5, "names": [1]}, "zh": {"f1": 0.5, "names": [2]}},
    "mixed": {"a": {"x": 1}, "b": {"y": 1}},
    "pairs": [["a", "b", 2], ["b", "b", 1]],
    "empty": {"list": [], "object": {}, "nothing": None},
}

WRITTEN = """{
  "accuracy": 0.5,
  "per_class": {
    "käse": {"f1": 0.5, "support": 3},
    "a \\"b\\"": {"f1": 0.0, "support": 0}
  },
  "sets": {
    "en": {
      "f1": 0.5,
      "names": [1]
    },
    "zh": {
      "f1": 0.5,
      "names": [2]
    }
  },
  "mixed": {
    "a": {
      "x": 1
    },
    "b": {
      "y": 1
    }
  },
  "pairs": [
    ["a", "b", 2],
    ["b", "b", 1]
  ],
  "empty": {
    "list": [],
    "object": {},
    "nothing": null
  }
}"""


def test_a_row_of_a_table_is_a_line():
    assert to_json(CONTENT) == WRITTEN
    assert json.loads(WRITTEN) == CONTENT


def test_plain_values():
    assert to_json({}) == "{}"
    assert to_json([]) == "[]"
    assert to_json("x") == '"x"'
    assert to_json([1, 2]) == "[1, 2]"
