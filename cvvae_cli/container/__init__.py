"""Bytes to .cvl and back, with the standard library alone. FORMAT.md in this folder is the specification."""
