"""`python -m jaxbert`."""

import sys

from jaxbert.cli.main import main

sys.exit(main())
