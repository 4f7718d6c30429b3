"""Loops of the CPU paths that are too long to stand beside their operation's definition."""
