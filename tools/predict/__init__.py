"""`python -m tools.predict` applies a trained network to a recording.

`recording` prepares the samples of a file; `sensors` looks for faulty or exchanged sensors;
`prediction` cuts the windows and blends their predictions, or repeats the test of the run; `output`
writes the results.
"""
