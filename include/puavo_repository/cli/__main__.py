"""Runs the command: ``python -m puavo_repository.cli``."""

import sys

from puavo_repository.cli.main import main

sys.exit(main())
