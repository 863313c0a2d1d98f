"""What Spin is given, without Spin: its CLI cannot be installed from a registry of packages.

    spin.py wasm-tools REPOSITORY
"""
