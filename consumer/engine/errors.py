"""The root of our error tree, and the engine's own branch of it. `consumer.errors` shows the whole tree.

The text of an error is one sentence: what is wrong and, if known, how to fix it.
"""


class ConsumerError(Exception):
    """Base of all errors that end a command, which then exits with `exit_status`."""

    exit_status = 1


class MemberFailed(ConsumerError):
    """The member can't continue; what is committed is safe, and a restart resumes from there."""


class KafkaUnusable(ConsumerError):
    """Kafka can't be reached, or can't be used as it is set up."""

    exit_status = 2


class TransactionsRefused(ConsumerError):
    """The broker does not allow this client to write in transactions."""


class Aborted(ConsumerError):
    """The transaction was aborted: nothing was written, and the same outputs may be written again.

    `is_refused` says that a topic refused an output. It may accept a shorter one.
    """

    def __init__(self, message: str, *, is_refused: bool = False) -> None:
        super().__init__(message)
        self.is_refused = is_refused


class WriterLost(ConsumerError):
    """The writer can't continue, or can't tell how its transaction ended.

    A new writer with the same transactional id settles the old transaction. The committed offsets then say where to
    resume.
    """


class WriterFenced(WriterLost):
    """Another writer took over our transactional id, or the broker ended a transaction that took too long."""


class Rejoin(Exception):
    """The member must leave the group and join it again. The member catches it itself, so callers never see it."""
