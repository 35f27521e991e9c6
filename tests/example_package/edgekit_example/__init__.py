"""A target, the runtime of its bundles, a VLM family and a device for edgekit."""
