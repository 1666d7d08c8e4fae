"""`dmimad doctor`: facts of a host in, one line for each check out.

`facts` are pure records, `evidence` is what a list tells; `host`, `witnesses` and `surroundings` look, each
at its own part of the host; `measuring` and `serving` judge, without looking at anything, and `checks` has
them in order; `report` prints.  `examination` puts all that together.  Nothing in here writes to the host.
"""
