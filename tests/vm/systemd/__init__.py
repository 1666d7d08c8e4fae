"""What runs inside a machine with systemd: the package as it is installed, and what is held against it.

Nothing but Python's standard library is imported here: the machine's Python has no more before the package is
installed, and the host asks these modules which checks there are.
"""
