"""Core ML: how its packages are read, called and looked into; `mil` runs their programs where there is no Mac."""
