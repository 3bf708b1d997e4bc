"""Commands for users, `python -m tools.<name>`; no script imports them."""
