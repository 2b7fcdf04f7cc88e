"""Runs on devices that need not be here: compiled, measured by the compiler, and priced."""
