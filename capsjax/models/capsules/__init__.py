"""Capsule networks; one paper, one file."""
