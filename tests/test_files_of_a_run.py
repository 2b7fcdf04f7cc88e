"""A run passes no more files and functions than it did: the ceilings only go down."""

from __future__ import annotations

from files_of_a_run import measure


def test_few_files_and_functions():
    passed = {name: (len(found), sum(map(len, found.values()))) for name, found in measure().items()}
    for name, (files, functions) in {"run": (68, 572), "read": (21, 151)}.items():
        assert passed[name][0] <= files, f"{name}: {passed[name][0]} files"
        assert passed[name][1] <= functions, f"{name}: {passed[name][1]} functions"
