"""The subcommands of ``scpl``, a file for what belongs together; :mod:`jobs.cli` puts them under one name."""
