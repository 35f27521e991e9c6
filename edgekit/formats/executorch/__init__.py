"""ExecuTorch: how its programs are called and looked into."""
