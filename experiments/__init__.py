"""Launchers: one command-line program per file."""
