"""The second witness: a small privileged observer asks the kernel, the daemon asks the observer.

`dm` asks the kernel, `protocol` is what goes over the socket, `sockets` and `server` are the observer,
`connect` and `client` the daemon's side.  Nothing is imported here, so that the observer loads only its own.
"""
