"""Peers that are Python packages: one file for each, run by the interpreter that has the package."""
