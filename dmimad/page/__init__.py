"""The status page: what the daemon knows, for people with a browser.

Source: ``docs/page.md``.

Documents of the core come in (`dmimad.core.status`), `overview`, `device` and `timeline` say what is worth
showing and in which words, `rendering` makes HTML of it with the templates beside, and `server` answers.
Everything is made here, on the host: a page asks nobody else for anything, and nothing can be changed by it.
"""
