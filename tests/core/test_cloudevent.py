"""Another founder is writing this file now; leave it to them (and do not test this module elsewhere)."""
