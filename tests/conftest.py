"""Hypothesis judges what a test says, not how long a busy machine takes to say it."""

from hypothesis import settings

settings.register_profile("any-machine", deadline=None)
settings.load_profile("any-machine")
