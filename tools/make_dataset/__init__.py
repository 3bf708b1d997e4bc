"""The command `python -m tools.make_dataset`.

`trials` finds the files of the trials and the people, and converts a trial; `__main__` writes the
HDF5 file.
"""
