"""Tells, within milliseconds and with evidence, that a device-mapper mapping is not what was approved."""

__version__ = "0.1.0"
