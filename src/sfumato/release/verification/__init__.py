"""Checking a release: its claim, its files and what must not be in it."""
