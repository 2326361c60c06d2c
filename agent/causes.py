"""Why a container ended, in a sentence that a person can act on.

An exit code is a riddle: 137 may be a stop, an operator or the kernel's memory killer. The shell's conventions
(128 + signal, 126, 127) and what the engine knows answer most of it.
"""

import signal

from agent.engine import Container
from miniorch.spec import TaskSpec

SIGILL_CODE = 128 + signal.SIGILL


def why_it_ended(container: Container, spec: TaskSpec, *, avx: bool = True) -> str:
    """One sentence. `avx` says whether this machine's processor has AVX."""
    code = container.exit_code
    if container.oom_killed:
        limit = f" of {spec.limit.memory_bytes >> 20} MB" if spec.limit.memory_bytes else ""
        return f"out of memory: it used more than its limit{limit} and was killed (exit code {code})"
    if code == 0:
        return "ended by itself (exit code 0)"
    if code == SIGILL_CODE and not avx:
        return (
            f"exit code {code}: {spec.image} uses instructions that this processor lacks (AVX), as mongo 5 and newer "
            "do; go on with an older image: --image db=mongo:4.4"
        )
    if code == 127:
        return "exit code 127: command not found in the image"
    if code == 126:
        return "exit code 126: the command is there but cannot be executed"
    if code is not None and 128 < code < 128 + 65:
        return f"exit code {code}: ended by {_signal(code - 128)}"
    return "ended" if code is None else f"exit code {code}"


def _signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return {"SIGILL": "SIGILL (illegal instruction)", "SIGSEGV": "SIGSEGV (a crash)"}.get(name, name)
