"""What is done to a real kernel: one file each, with ``SUMMARY`` and ``run(guest)``."""
