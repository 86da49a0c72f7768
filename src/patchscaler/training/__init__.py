"""Training: one loop, one file a stage, each with a `run` for `patchscaler train STAGE`.

A stage works on a *model folder*, reads the networks it needs from it and writes its own to it. Its
checkpoint lies in `training/STAGE` inside, so that a command that was killed goes on where it was.

In the order of a training: `shards`, `autoencoder`, `grm`, `calibrate`, `classifier`, `memory`,
`coarse`, `captions`, `diffusion` (Patch-DiT, Eq. 8) or `early_exit` (the RRDB denoiser).
"""
