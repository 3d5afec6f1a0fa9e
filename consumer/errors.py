"""All errors that can end a command. Only `cli` catches `ConsumerError` itself.

    ConsumerError              exit status 1
    ├── SettingsError          2   settings are wrong; one sentence for each fault
    ├── UsageError             2   the command can't do what was asked
    ├── InputError             2   a file or a message can't be read
    ├── RegistryError          2   the Schema Registry can't be used
    ├── KafkaUnusable          2   Kafka can't be reached, or can't be used as it is set up
    │   ├── GroupNotEmpty      2   the group's offsets can't be changed while it has members
    │   └── Hidden             2   records are behind a transaction that does not end
    ├── BrokerUnavailable      2   the embedded broker can't be started
    ├── NotProduced            1   messages did not reach the broker
    ├── GaveUp                 1   a replay or redrive can't continue
    ├── Interrupted          130   the command was asked to stop
    ├── MemberFailed           1   the member can't continue; a restart resumes
    ├── TransactionsRefused    1   the broker does not allow this client to write in transactions
    ├── Aborted                    engine only: the transaction was aborted, and is written again
    └── WriterLost                 engine only: the writer is replaced, and what is not committed is read again
        └── WriterFenced

`cli` turns the exceptions of libraries and of `schemas` (RegistryUnavailable, HubError) into one of these.
"""

from consumer.engine.errors import (
    Aborted,
    ConsumerError,
    KafkaUnusable,
    MemberFailed,
    TransactionsRefused,
    WriterFenced,
    WriterLost,
)

__all__ = [
    "ERRORS_PAGE",
    "KINDS",
    "Aborted",
    "BrokerUnavailable",
    "ConsumerError",
    "GaveUp",
    "GroupNotEmpty",
    "Hidden",
    "InputError",
    "Interrupted",
    "KafkaUnusable",
    "MemberFailed",
    "NotProduced",
    "RegistryError",
    "SettingsError",
    "TransactionsRefused",
    "UsageError",
    "WriterFenced",
    "WriterLost",
]


ERRORS_PAGE = "docs/errors.md"
"""Where every fault and every trouble is explained."""

KINDS = (
    "undecodable",
    "unknown-type",
    "missing-parameter",
    "unmappable",
    "too-large",
    "internal",
    "rejected",
    "refused",
    "forbidden",
    "failing",
)
"""The kinds of dead letters."""


class SettingsError(ConsumerError):
    """Settings are wrong; `faults` has one sentence for each."""

    exit_status = 2

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class UsageError(ConsumerError):
    """The command can't do what was asked; the sentence says why, and what to do instead."""

    exit_status = 2


class InputError(ConsumerError):
    """A file or a message can't be read; the sentence names the place in it."""

    exit_status = 2


class RegistryError(ConsumerError):
    """The Schema Registry can't be used."""

    exit_status = 2


class GroupNotEmpty(KafkaUnusable):
    """The group's offsets can't be changed, because its members would overwrite them."""


class Hidden(KafkaUnusable):
    """Records are behind a transaction that does not end, so nobody can read them."""


class BrokerUnavailable(ConsumerError):
    """The embedded broker is not installed, or does not start."""

    exit_status = 2


class NotProduced(ConsumerError):
    """Messages did not reach the broker; the sentence says how many, and why."""


class GaveUp(ConsumerError):
    """A replay or redrive can't continue. What it has published stays published."""


class Interrupted(ConsumerError):
    """The command was asked to stop."""

    exit_status = 130
