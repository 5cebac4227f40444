"""Measurements: this project against its peers (`python -m bench.e2e`), and the README's table of them."""
