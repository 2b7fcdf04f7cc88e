"""`python -m jaxbert`."""

from jaxbert.cli.main import entry

entry()
