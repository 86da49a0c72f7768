"""Other people's upscalers behind the interface of `evaluation.methods.Method`.

`ncnn_models.py` runs what PyPI packages carry, `spandrel_models.py` any architecture spandrel
knows, `latent_diffusion.py` diffusers' LDM upscaler, `tiles.py` cuts large images. None of their
packages is needed by anything else here: each is imported when a method of its kind is built.
"""
