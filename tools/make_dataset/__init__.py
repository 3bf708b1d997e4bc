"""The command `python -m tools.make_dataset`.

`trials` finds the files and subjects and converts a trial. `sources` reads its files, joins them
and computes virtual IMUs, `units` converts targets, `contact` finds where they are valid.
`__main__` writes the HDF5 file.
"""
