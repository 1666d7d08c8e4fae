"""Benchmarks: how fast, how small and how late dmimad is, as ratios taken in one run."""
