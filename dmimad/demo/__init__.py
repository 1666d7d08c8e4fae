"""`dmimad demo`: a recorded list, the real daemon, a broker and a subscriber, on one screen."""
