"""Builds the packages for Debian and Fedora-like systems: `make deb12`, `make deb13`, `make rpm`."""
