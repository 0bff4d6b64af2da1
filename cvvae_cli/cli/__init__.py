"""The commands. The only place that prints, reads argv or exits."""
