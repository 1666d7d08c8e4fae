"""Fuzzing: `target` is what must hold, ``python -m tests.fuzz`` searches by hand, `test_fuzz` is bounded."""
