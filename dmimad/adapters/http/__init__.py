"""HTTP/1.x for those who look from outside: Prometheus, and people with a browser.

`server` has the connections, `tls` certificates and keys; `metrics` is what Prometheus scrapes.
"""
