"""The command `python -m tools.prepare_dataset_a`.

`download` finds and reads the files, `checks` verifies time axes and units, `plates` computes the
ground reaction of the right foot, `trial` converts one trial, and `output` writes the HDF5 file.
"""
