"""What a slot's task means for its service: is it what is wanted now, and does anything follow its end?

The problem: the controllers, what depends on a job, and the person who waits for it must never disagree about whether
it is done. The idea: three questions about one task and its service, asked here and nowhere else. What users expect of
each end:

    ended as    because                    any     on-failure   none
    --------    -------                    ---     ----------   ----
    COMPLETE    exit code 0                again   done         done
    FAILED      any other exit code        again   again        given up
    REJECTED    no image: it never ran     again   again        again
    SHUTDOWN    it was told to stop        again   again        again
    LOST        its node is gone           again   again        again

Only what ended by itself counts against `max_attempts`, and only failures in a row: a task that lived for a minute had
recovered. Who does this for real: swarmkit's restart supervisor, which cannot tell a job from a service. Next files:
`miniorch/controllers/services.py`, `miniorch/cli/progress.py`.
"""

from miniorch.model import DesiredState, Restart, Service, Task, TaskState

STEADY_SECONDS = 60.0


def is_wanted(task: Task, service: Service) -> bool:
    """True for a task that is made as the service says now: of its spec, and not from before a restart by hand."""
    return task.spec == service.spec.task and task.round == service.round


def failures_in_a_row(ended: Task) -> int:
    """How many tasks of a slot, this ended one the last, have failed one after the other."""
    if ended.status.state in (TaskState.SHUTDOWN, TaskState.LOST):
        return 0
    ran_well = ended.status.state is not TaskState.REJECTED and ended.status.since - ended.created_at >= STEADY_SECONDS
    return 1 if ran_well else ended.attempt + 1


def is_done(task: Task, service: Service) -> bool:
    """True for the task of a job that ended as it should."""
    return task.status.state is TaskState.COMPLETE and not _has_successor(task, service)


def is_given_up(task: Task, service: Service) -> bool:
    """True for a failed task that is not tried again, until the service changes or is restarted."""
    return task.status.state in (TaskState.FAILED, TaskState.REJECTED) and not _has_successor(task, service)


def _has_successor(ended: Task, service: Service) -> bool:
    if not is_wanted(ended, service) or ended.desired_state is not DesiredState.RUNNING:
        return True  # what was told to go has not ended by itself, whatever it said last
    policy, state = service.spec.restart, ended.status.state
    if state is TaskState.COMPLETE and policy.condition is not Restart.ANY:
        return False
    if state is TaskState.FAILED and policy.condition is Restart.NEVER:
        return False
    return policy.max_attempts == 0 or failures_in_a_row(ended) <= policy.max_attempts
