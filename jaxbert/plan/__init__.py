"""Plans of runs on devices that this machine need not have: compiled, measured by the compiler, and priced."""
