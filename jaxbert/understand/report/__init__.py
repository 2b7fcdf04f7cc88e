"""The page of a run, `report.html`: what it learned, how far to trust it, where it is wrong, and how to make it again."""
