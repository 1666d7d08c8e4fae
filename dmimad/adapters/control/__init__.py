"""The control socket: how a person asks the running daemon, and tells it what to expect."""
