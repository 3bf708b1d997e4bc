"""The parts of `python -m tools.export_onnx`."""
