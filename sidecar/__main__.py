"""The command. `run` becomes the guard, which stays small: it imports neither the command line nor any library."""

import sys


def main() -> int:
    """Run the command line; the exit code is what the command says."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"]:
        from sidecar.guard.guard import main as guard

        return guard(arguments[1:])
    if arguments[:1] == ["desk"]:  # what the guard starts; not for people
        from sidecar.cli_run import desk

        return desk(arguments[1:])
    from sidecar.cli import main as command_line

    return command_line(arguments)


if __name__ == "__main__":
    sys.exit(main())
