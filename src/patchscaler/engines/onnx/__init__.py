"""The networks in ONNX: `networks` says which there are, `export` writes them, `engine` runs them
for the pipeline.
"""
