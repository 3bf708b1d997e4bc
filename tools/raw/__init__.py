"""What `tools.prepare_dataset_a` is made of.

Read in this order: `tree` (which files of the download are there), `matlab` (a table in them),
`signals` (time, filters, resampling), `units`, `plates` (the force under the right foot), `trial`
(one trial as 129 columns), `parallel` (many), `subject` (all of one subject), `output` (the file).
"""


class UnusableError(Exception):
    """A raw file, trial or subject that cannot be used.

    Args:
        kind: Why, in a few words, by which the summary counts.
        detail: Where, and what was found.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)  # both, so that it travels between processes
        self.kind = kind
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"
