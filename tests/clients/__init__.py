"""Suites that nobody here wrote, run against our relay: what a stranger's client makes of it."""
