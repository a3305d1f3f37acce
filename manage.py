#!/usr/bin/env python
"""The command line of the service: `manage.py help` lists what it can do."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mem0dash.settings")
    from django.core.management import execute_from_command_line

    from core.env import ConfigurationError

    try:
        execute_from_command_line(sys.argv)
    except ConfigurationError as error:
        sys.stderr.write(f"mem0dash cannot start: {error}\n")
        raise SystemExit(1) from None
    except Exception as error:
        if (sentence := _of_database(error)) is None:
            raise
        sys.stderr.write(f"{sentence}\n")
        raise SystemExit(1) from None


def _of_database(error: Exception) -> str | None:
    """What a command says whose database is busy, full, damaged or away; None for other errors."""
    from core.database.datastore import explain, is_trouble

    if not is_trouble(error):
        return None
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return explain(error, f"DATABASE_URL: the database does not answer ({reason}).").message


if __name__ == "__main__":
    main()
