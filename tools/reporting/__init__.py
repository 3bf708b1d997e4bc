"""What `python -m tools.report` is made of.

`collect` reads runs and keeps apart what must not be mixed, `layout` holds the paper's tables,
`summary` the numbers, `statistics` the tests, `text` writes Markdown, CSV and LaTeX, `figures` and
`agreement` draw, and `readme` makes the README's results.
"""
