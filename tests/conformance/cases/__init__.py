"""The cases, in modules by what they are about."""
