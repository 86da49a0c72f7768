"""Diffusion over latent patches: schedule, samplers, groups and noise."""
