"""A command that ends with whoever started it: `python guard.py COMMAND ARGUMENTS...`.

Standard input says nothing; when it ends, because its other side closed it or was killed in whatever way, the command
and everything that it started are killed. This process ends as the command does.
"""

import os
import signal
import subprocess
import sys
import threading

NOT_STARTED = 127
"""What shells say of a command that cannot be started."""


def main(arguments: list[str]) -> int:
    """Run the command to its end. Returns its exit code; dies of the signal that it died of."""
    try:
        command = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    except OSError as error:
        print(f"{arguments[0]}: {error.strerror}", file=sys.stderr)
        return NOT_STARTED
    threading.Thread(target=_end_with_starter, args=(command,), daemon=True).start()
    code = command.wait()
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _end_with_starter(command: subprocess.Popen[bytes]) -> None:
    os.read(sys.stdin.fileno(), 1)
    if command.returncode is None:
        os.killpg(command.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
