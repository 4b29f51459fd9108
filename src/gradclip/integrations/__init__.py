"""Clip where a framework runs the training loop: thin, and imported by name, so that none is needed that is not used.

- `gradclip.integrations.transformers`: `GradClipCallback`, `install`
- `gradclip.integrations.lightning`: `GradClipCallback`, and `setup` for Fabric
- `gradclip.integrations.accelerate`: `prepare`
"""
