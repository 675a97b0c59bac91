-- The whole state of one namespace, which is one schema. A job is one row of `jobs`; columns say where it is:
--   ready      due IS NULL and epoch IS NULL, in the order (lane, pos) of its queue
--   scheduled  due IS NOT NULL, in the order (due, pos)
--   held       epoch IS NOT NULL, by `worker`
-- Lanes 0 to 4 are priorities 4 to 0; lane 5 holds the suspects. In a lane, `pos` grows to the back: a new job takes
-- the next place; a job that comes back to the front takes a negated one, below all others. Places are drawn for up to
-- 1,024 jobs at once.
-- There are no CHECKs: each would be parsed anew by each INSERT, for a twentieth of its time.
-- A job that was run has been inserted, updated once and deleted: two dead rows, which vacuum has to clear away often.
-- The update finds room for its entry in the index of ids beside the old one, as pages are not filled when jobs are stored:
-- a turn takes a tenth less time. To leave room in the table as well makes it no faster, and storing slower.

CREATE SEQUENCE IF NOT EXISTS $SCHEMA.places;
CREATE SEQUENCE IF NOT EXISTS $SCHEMA.epochs;

CREATE TABLE IF NOT EXISTS $SCHEMA.jobs (
    id text COLLATE "C" PRIMARY KEY WITH (fillfactor = 50),
    queue text COLLATE "C" NOT NULL,
    priority smallint NOT NULL,
    lane smallint NOT NULL,
    pos bigint NOT NULL,
    due timestamptz,
    worker bigint,
    epoch bigint,
    envelope bytea NOT NULL,
    trail bytea,
    crashes jsonb
) WITH (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_analyze_scale_factor = 0.2
);
CREATE INDEX IF NOT EXISTS ready ON $SCHEMA.jobs (queue, lane, pos) WHERE due IS NULL AND epoch IS NULL;
CREATE INDEX IF NOT EXISTS scheduled ON $SCHEMA.jobs (due, pos) WHERE due IS NOT NULL;
CREATE INDEX IF NOT EXISTS held ON $SCHEMA.jobs (worker, epoch) WHERE epoch IS NOT NULL;

-- A table of its own, so that the indexes above stay small and a dead id is free to be used again.
CREATE TABLE IF NOT EXISTS $SCHEMA.dead (
    n bigint PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    queue text COLLATE "C" NOT NULL,
    priority smallint NOT NULL,
    died timestamptz NOT NULL,
    envelope bytea NOT NULL,
    trail bytea,
    crashes jsonb
);
CREATE INDEX IF NOT EXISTS dead_in ON $SCHEMA.dead (queue, n);

-- The history: jobs that ran, if they are kept, and until when.
CREATE TABLE IF NOT EXISTS $SCHEMA.done (
    n bigint PRIMARY KEY,
    id text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    priority smallint NOT NULL,
    ended timestamptz NOT NULL,
    until timestamptz NOT NULL,
    envelope bytea NOT NULL,
    trail bytea
);
CREATE INDEX IF NOT EXISTS kept ON $SCHEMA.done (until);

CREATE TABLE IF NOT EXISTS $SCHEMA.workers (
    n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    host text COLLATE "C" NOT NULL,
    lease_end timestamptz NOT NULL,
    info bytea NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.1);

-- The last enqueue of each client, and which of its jobs were not stored.
CREATE TABLE IF NOT EXISTS $SCHEMA.stamps (
    client text COLLATE "C" PRIMARY KEY,
    number bigint NOT NULL,
    duplicates integer[] NOT NULL,
    at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.1);

-- What has been applied, and the oldest one that still works with it.
CREATE TABLE IF NOT EXISTS $SCHEMA.versions (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL,
    oldest integer NOT NULL,
    digest text NOT NULL
);
