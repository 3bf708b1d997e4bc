"""What `tools.export_onnx` is made of.

Read in this order: `graph` (a trained model as an ONNX graph), `recurrent` (its recurrent layers),
`runtime` (the graph in onnxruntime, and how far it is from PyTorch).
"""
