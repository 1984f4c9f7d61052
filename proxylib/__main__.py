"""`python -m proxylib` is `proxylib`."""

from proxylib.cli import app

app(prog_name="proxylib")
