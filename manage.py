#!/usr/bin/env python
"""The command line of the service: `manage.py help` lists what it can do."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mem0dash.settings")
    from django.core.management import execute_from_command_line

    from mem0dash.env import ConfigurationError

    try:
        execute_from_command_line(sys.argv)
    except ConfigurationError as error:
        sys.stderr.write(f"mem0dash cannot start: {error}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
