"""One file a task: what a batch holds, its loss, its metrics and how outputs become answers."""
