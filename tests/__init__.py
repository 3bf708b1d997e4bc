"""Tests; each says what a user would lose if it failed."""
