"""A run passes no more files and functions than it did: a ceiling goes up only for a capability that is worth it.

The last ones that were: programs that runs of any length share, for folds; calibration, thresholds and conformity scores
(tasks/decision.py, train/evaluate.py); settings measured on the device (train/tuned.py); the model card (runs/export.py);
rates as arguments of the step, for searches; stages of pruning, and what the report says of smaller models and of disturbed
texts; the line of metrics of the last step, which this short run did not write before.
"""

from __future__ import annotations

from runs import ROOT, finish, python


def test_few_files_and_functions():
    """In a process of its own: functions whose results are kept are passed in the first run of a process alone."""
    code, out, err = finish(python(str(ROOT / "scripts" / "files_of_a_run.py"), anew=True))
    assert code == 0, err
    passed = dict(line.split(": ", 1) for line in out.splitlines())
    for name, (files, functions) in {"run": (57, 661), "read": (13, 142)}.items():
        counted = [int(part.split()[0]) for part in passed[name].split(", ")]
        assert counted[0] <= files, f"{name}: {counted[0]} files"
        assert counted[1] <= functions, f"{name}: {counted[1]} functions"
