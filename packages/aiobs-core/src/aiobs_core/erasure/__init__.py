"""Erasure of traces wherever aiobs keeps them on this disk, and the command for it."""
