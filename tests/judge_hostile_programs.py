"""Programs that mean harm, as data: for the tests of the judge, and for its soak.

Each is (source, verdicts that fit). The right answer to their one test is `xyzzy-4711`; what they leave behind where
they can is called `left-behind`, or has the key 0x4711.
"""

from judge_hostile_calls import ACCEPTED, MEMORY, ON_X86_64, TIME
from judge_hostile_helper import COMPILERS, HELPER
from judge_hostile_memory import MEMORY_USES
from judge_hostile_odd import ODD
from judge_hostile_privileges import MESSAGES, ONLY_ON_X86_64, PRIVILEGES
from judge_hostile_processes import DESCRIPTORS, PROCESSES, SIGNALS
from judge_hostile_usual import USUAL

from spo.judge import Limits, TestCase

__all__ = ["ACCEPTED", "HONEST", "HUNGRY", "LIMITS", "PROGRAMS", "SECRET", "TEST", "WAITING", "limits_of"]

SECRET = "xyzzy-4711"
TEST = TestCase(input="21\n", output=f"{SECRET}\n")
HONEST = "assert input() == '21'\nprint('xyzzy-' + str(4711))"
LIMITS = Limits(cpu_time_s=0.3, wall_time_s=8.0, memory_bytes=128 << 20, output_bytes=1 << 20)
WAITING_LIMITS = Limits(cpu_time_s=0.3, wall_time_s=0.4)
SPINNING_LIMITS = Limits(cpu_time_s=0.1, wall_time_s=8.0)
HUNGRY_LIMITS = Limits(cpu_time_s=5.0, wall_time_s=30.0, memory_bytes=128 << 20, output_bytes=1 << 20)

PROGRAMS = USUAL | PROCESSES | SIGNALS | DESCRIPTORS | MEMORY_USES | PRIVILEGES | MESSAGES | HELPER | COMPILERS | ODD
if ON_X86_64:
    PROGRAMS |= ONLY_ON_X86_64

# They use little CPU time, so the wall time is what they cost.
WAITING = {
    "sleeping for ever",
    "waiting for a lock",
    "stopping itself",
    "right, then hanging at exit",
    "thread bomb",
    "thread bomb that goes on",
    "stopping itself by way of a thread",
    "an alarm that starts over",
    "a full pipe",
    "sleeping in C",
    "a thread that never ends",
    "a name like a state",
    "the main thread's end",
}
# They may need more CPU time to reach the memory limit on a busy machine.
HUNGRY = {name for name, (_, fitting) in PROGRAMS.items() if MEMORY in fitting and TIME not in fitting}


# They do nothing else than use up their CPU time.
SPINNING = {name for name, (_, fitting) in PROGRAMS.items() if fitting == {TIME}} - WAITING


def limits_of(name: str) -> Limits:
    """The limits under which a program is judged."""
    if name in WAITING:
        return WAITING_LIMITS
    if name in SPINNING:
        return SPINNING_LIMITS
    return HUNGRY_LIMITS if name in HUNGRY else LIMITS
