"""Engines timed beside each other, each in a process of its own, and the machine they run on."""
