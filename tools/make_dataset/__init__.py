"""The command `python -m tools.make_dataset`.

`trials` finds the files and subjects and converts a trial; `__main__` writes the HDF5 file.
"""
