"""What must survive the process: `Store`, one SQLite database in the state directory.

`store` has the transactions, `database` opens the file and knows its tables, `rows` reads them without
trust, `place` has directory, lock and names, `failures` SQLite's errors in our terms.
"""

from dmimad.adapters.store.database import SCHEMA_VERSION
from dmimad.adapters.store.place import DATABASE_NAME, LOCK_NAME
from dmimad.adapters.store.store import Store

__all__ = ["DATABASE_NAME", "LOCK_NAME", "SCHEMA_VERSION", "Store"]
