"""The networks, in the order of the data: autoencoder, GRM, texture classifier, Patch-DiT."""
