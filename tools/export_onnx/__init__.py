"""Export a trained network as ONNX: `python -m tools.export_onnx`."""
