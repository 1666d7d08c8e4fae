"""What several adapters need of the operating system, so that none has to know another.

Source: ``docs/architecture.md``, the table of rings.  Knows the core alone, and decides nothing.
"""
