"""Tail sampling: which traces are kept, decided when they have ended."""
