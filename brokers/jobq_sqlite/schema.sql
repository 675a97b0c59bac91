-- The whole state of one namespace. A job is one row of `jobs`; columns say where it is:
--   ready      due IS NULL and epoch IS NULL, in the order (lane, pos) of its queue
--   scheduled  due IS NOT NULL, in the order (due, pos)
--   held       epoch IS NOT NULL, by `worker`
-- Lanes 0 to 4 are priorities 4 to 0; lane 5 holds the suspects. In a lane, `pos` grows to the back: a new job takes
-- its row number, which is above all others; a job that comes back to the front takes a negated ticket, below all others.
-- The checks keep out rows that no statement could ever match.

CREATE TABLE jobs (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE CHECK (typeof(id) = 'text'),
    queue TEXT NOT NULL CHECK (typeof(queue) = 'text'),
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 4),
    lane INTEGER NOT NULL CHECK (lane BETWEEN 0 AND 5),
    pos INTEGER NOT NULL CHECK (typeof(pos) = 'integer'),
    due REAL CHECK (due IS NULL OR typeof(due) = 'real'),
    worker INTEGER,
    epoch INTEGER CHECK (epoch IS NULL OR typeof(epoch) = 'integer'),
    crashed INTEGER NOT NULL DEFAULT 0,  -- how many notes are in `crashes`
    envelope BLOB NOT NULL,
    trail BLOB,
    crashes BLOB
);
CREATE INDEX ready ON jobs (queue, lane, pos) WHERE due IS NULL AND epoch IS NULL;
CREATE INDEX scheduled ON jobs (due, pos) WHERE due IS NOT NULL;
CREATE INDEX held ON jobs (worker, epoch) WHERE epoch IS NOT NULL;

-- A table of its own, so that the indexes above stay small and a dead id is free to be used again.
CREATE TABLE dead (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    queue TEXT NOT NULL,
    died REAL NOT NULL,
    envelope BLOB NOT NULL,
    trail BLOB,
    crashes BLOB
);

CREATE INDEX dead_in ON dead (queue, n);

CREATE TABLE workers (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    host TEXT NOT NULL,
    lease_end REAL NOT NULL,
    info BLOB NOT NULL
);

-- Epochs and places come from one counter, which never goes back.
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    ticket INTEGER NOT NULL
);
INSERT INTO meta VALUES (1, 0);
