"""Apps around a bundle: fixed library sources of each platform, and what writes an app from a bundle.

A platform is one file here: `web`. What it copies lies in the folder of the same name.
"""
