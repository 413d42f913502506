"""The ledger's tables. Events are the truth; every other table can be made from them again.

Privacy parameters are canonical decimal text, counts are integers, and the rule
that no run spends more than was approved is a constraint of the database.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

# The newest migration; a database that names another one is not written to.
REVISION = "0003"
VERSION_TABLE = "dpbitfit_ledger_version"
NUMBER_LENGTH = 64  # of a privacy parameter in canonical decimal text
RUN_LENGTH = 64

metadata = MetaData()

# Which ledger this is: one row, the public key that names it to others.
identity = Table("identity", metadata, Column("public", String(64), primary_key=True))

# The seed of that key: one row, read only by the process that signs for the ledger.
signing_key = Table("signing_key", metadata, Column("seed", String(64), primary_key=True))

# Whose records: every run on the same records, of whatever project, is one account.
account = Table(
    "account",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("site", String(200), nullable=False),
    Column("dataset", String(200), nullable=False),
    Column("unit", String(200), nullable=False),
    Column("delta", String(NUMBER_LENGTH), nullable=False),
    Column("budget", String(NUMBER_LENGTH), nullable=False),
    # Of the Rényi filter, fixed when the first result may have been seen; 0 before any plan.
    Column("filter_order", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),  # of the last event
    Column("head", String(64), nullable=False),  # hash of the last event
    UniqueConstraint("site", "dataset", "unit"),
)

event = Table(
    "event",
    metadata,
    Column("account_id", ForeignKey("account.id"), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("body", Text, nullable=False),  # canonical JSON, with the previous event's hash
    Column("hash", String(64), nullable=False),
    # Whose request it follows from, so that no other is shown it; "" for the ledger's own.
    Column("coordinator", String(64), nullable=False, server_default=""),
    Index("event_of_coordinator", "account_id", "coordinator", "sequence"),
)

# What a run may do to an account, in steps of each mechanism.
allotment = Table(
    "allotment",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("account_id", ForeignKey("account.id"), nullable=False),
    Column("run", String(RUN_LENGTH), nullable=False),
    Column("plan", String(64), nullable=False),
    Column("coordinator", String(64), nullable=False),
    Column("noise_multiplier", String(NUMBER_LENGTH), nullable=False),
    Column("sampling_rate", String(NUMBER_LENGTH), nullable=False),
    Column("adaptive", Integer, nullable=False),  # 1: approved after results may have been seen
    Column("allotted", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False, default=0),
    Column("committed", BigInteger, nullable=False, default=0),
    Column("voided", BigInteger, nullable=False, default=0),  # given up before they were reserved
    UniqueConstraint("account_id", "run", "noise_multiplier", "sampling_rate"),
    CheckConstraint("reserved >= 0 AND committed >= 0 AND voided >= 0", name="no_negative_count"),
    CheckConstraint("reserved + committed + voided <= allotted", name="never_over_the_allotment"),
)

reservation = Table(
    "reservation",
    metadata,
    Column("key", String(200), primary_key=True),
    Column("account_id", ForeignKey("account.id"), nullable=False),
    Column("run", String(RUN_LENGTH), nullable=False),
    Column("round", Integer, nullable=False),
    Column("counts", Text, nullable=False),
    Column("state", String(16), nullable=False),  # reserved, committed, released, void
    Column("outcome", String(40), nullable=False),  # why it was settled; "" while reserved
    Index("reservation_of_run", "run", "state"),
    Index("reservation_of_account", "account_id", "state"),
)

# A site's replies, stored so that the same request gets the same bytes.
reply = Table(
    "reply",
    metadata,
    Column("key", ForeignKey("reservation.key"), primary_key=True),
    Column("request", String(64), nullable=False),  # digest of plan, model and biases
    Column("payload", LargeBinary),  # None once a later reply of the run has replaced it
)

# What the other side last stated of its own ledger, for each account. ``runs`` is the most that it
# has stated of each run since the two last agreed. ``rebased`` counts how often this side has taken
# over the other's counts; the account is blocked until that is ``wanted``, and the other's as well.
peer = Table(
    "peer",
    metadata,
    Column("account_id", ForeignKey("account.id"), primary_key=True),
    Column("ledger", String(64), primary_key=True),
    Column("coordinator", String(64), nullable=False),  # whose runs ``spent`` counts
    Column("sequence", Integer, nullable=False),
    Column("head", String(64), nullable=False),
    Column("spent", Text, nullable=False),
    Column("drift", Text, nullable=False),  # "" while the two agree
    Column("runs", Text, nullable=False, server_default="{}"),
    Column("rebased", Integer, nullable=False, server_default="0"),
    Column("wanted", Integer, nullable=False, server_default="0"),
)

# Bounds on compositions, so that none is computed twice.
figure = Table(
    "figure",
    metadata,
    Column("counts", String(64), primary_key=True),  # digest
    Column("delta", String(64), primary_key=True),
    Column("epsilon", Float, nullable=False),
    Column("lower", Float, nullable=False),
    Column("accountant", String(16), nullable=False),
    Column("version", String(64), nullable=False),
)
