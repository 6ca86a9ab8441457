"""Fuzzing: whole servers, and everything that can be said to them."""
