"""The checks, by group; see `tests.vm.systemd.main`."""
